"""What differs from layer to layer by the config alone: lists with one entry per layer, given or implied."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

LayerValue = str | int


@dataclass(frozen=True)
class Periodic:
    """Every n-th layer has `last`, the others `others`; n is `interval` unless the config has one under `key`.

    `least` is the smallest number that may stand there.
    """

    interval: int
    last: LayerValue
    others: LayerValue
    key: str | None = None
    least: ClassVar[int] = 1

    @property
    def entries(self) -> tuple[LayerValue, LayerValue]:
        return self.others, self.last

    def values(self, config: Mapping[str, Any], num_layers: int) -> list[LayerValue]:
        given = None if self.key is None else config.get(self.key)
        interval = self.interval if given is None else given
        return [self.others if (i + 1) % interval else self.last for i in range(num_layers)]


@dataclass(frozen=True)
class FromLayer:
    """The layers from the one named under `key` on have `beyond`, those before it `before`; see Periodic."""

    key: str
    default: int
    before: LayerValue
    beyond: LayerValue
    least: ClassVar[int] = 0

    @property
    def entries(self) -> tuple[LayerValue, LayerValue]:
        return self.before, self.beyond

    def values(self, config: Mapping[str, Any], num_layers: int) -> list[LayerValue]:
        given = config.get(self.key)
        first = self.default if given is None else given
        return [self.beyond if i >= first else self.before for i in range(num_layers)]


@dataclass(frozen=True)
class Following:
    """The layers that have 0 in the list `of` have `at_zero`, the others `others`."""

    of: "PerLayer"
    at_zero: LayerValue
    others: LayerValue
    key: ClassVar[str | None] = None
    least: ClassVar[int] = 0

    @property
    def entries(self) -> tuple[LayerValue, LayerValue]:
        return self.others, self.at_zero

    def values(self, config: Mapping[str, Any], num_layers: int) -> list[LayerValue]:
        return [self.others if value else self.at_zero for value in self.of.values(config, num_layers) or ()]


@dataclass(frozen=True)
class PerLayer:
    """A list of the config with one entry per layer. Where it is left out, transformers fills it by `pattern`.

    The pattern also says which entries there are. A model does not look at a list that has no pattern, but transformers
    holds its length against the layers.
    """

    key: str
    pattern: Periodic | FromLayer | Following | None = None
    only_if: str | None = None
    """The config's flag without which the pattern does not apply, and all layers are alike."""

    def values(self, config: Mapping[str, Any], num_layers: int) -> list[LayerValue] | None:
        """As given, or as implied; None where all layers are alike."""
        given = config.get(self.key)
        if given is not None:
            return list(given)
        if self.pattern is None or (self.only_if is not None and not config.get(self.only_if)):
            return None
        return self.pattern.values(config, num_layers)

    def problem(self, config: Mapping[str, Any], num_layers: int) -> tuple[str, str] | None:
        """What is wrong with the list, or with the number that its pattern goes by, and what would be accepted."""
        given = config.get(self.key)
        if given is not None and (not isinstance(given, list) or len(given) != num_layers):
            return f"has {self.key} {given} for {num_layers} layers", f"a list of {num_layers} entries"
        if self.pattern is None:
            return None
        entries = self.pattern.entries
        unknown = [entry for entry in given or () if type(entry) not in (str, int) or entry not in entries]
        if unknown:
            return f"has {unknown[0]} in {self.key}", " or ".join(map(str, entries))
        number = None if self.pattern.key is None else config.get(self.pattern.key)
        if number is not None and (type(number) is not int or number < self.pattern.least):
            return f"has {self.pattern.key} {number}", f"a whole number from {self.pattern.least}"
        return None


SLIDING = "sliding_attention"
FULL = "full_attention"
LAYER_TYPES = PerLayer("layer_types")
