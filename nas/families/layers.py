"""What differs from layer to layer by the config alone: lists with one entry per layer, given or implied."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LayerValue = str | int


@dataclass(frozen=True)
class Periodic:
    """Every n-th layer has `last`, the others `others`; n is `interval` unless the config has one under `key`."""

    interval: int
    last: LayerValue
    others: LayerValue
    key: str | None = None

    def values(self, config: Mapping[str, Any], num_layers: int) -> list[LayerValue]:
        given = None if self.key is None else config.get(self.key)
        interval = given if isinstance(given, int) and given > 0 else self.interval
        return [self.others if (i + 1) % interval else self.last for i in range(num_layers)]


@dataclass(frozen=True)
class FromLayer:
    """The layers from the one named under `key` on have `beyond`, those before it `before`."""

    key: str
    default: int
    before: LayerValue
    beyond: LayerValue

    def values(self, config: Mapping[str, Any], num_layers: int) -> list[LayerValue]:
        first = config.get(self.key)
        return [
            self.beyond if i >= (self.default if first is None else first) else self.before for i in range(num_layers)
        ]


@dataclass(frozen=True)
class Following:
    """The layers that have 0 in the list `of` have `at_zero`, the others `others`."""

    of: "PerLayer"
    at_zero: LayerValue
    others: LayerValue

    def values(self, config: Mapping[str, Any], num_layers: int) -> list[LayerValue]:
        return [self.others if value else self.at_zero for value in self.of.values(config, num_layers) or ()]


@dataclass(frozen=True)
class PerLayer:
    """A list of the config with one entry per layer. Where it is left out, transformers fills it by `pattern`.

    A model does not look at a list that has no pattern, but transformers holds its length against the layers.
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


LAYER_TYPES = PerLayer("layer_types")
SLIDING = "sliding_attention"
FULL = "full_attention"
