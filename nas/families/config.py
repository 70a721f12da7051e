"""How a family's Hugging Face config is read and written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from nas.errors import TeacherError
from nas.families.layers import LAYER_TYPES, SLIDING, LayerValue, PerLayer


@dataclass(frozen=True)
class Requirement:
    """A setting for which the table holds: `key` is left out of the config, or one of `accepted`."""

    key: str
    accepted: tuple[object, ...]


@dataclass(frozen=True)
class Setting:
    """A flag that a config sets by having one of `values` under one of `paths`."""

    paths: tuple[tuple[str, ...], ...]
    values: tuple[object, ...]

    def read(self, config: Mapping[str, Any]) -> bool:
        return any(self._at(config, path) in self.values for path in self.paths)

    def _at(self, config: Any, path: tuple[str, ...]) -> Any:
        for key in path:
            config = config.get(key) if isinstance(config, Mapping) else None
        return config


@dataclass(frozen=True)
class ConfigRules:
    """Where a config keeps what an Architecture says.

    `keys` maps Architecture fields to the config's keys, the first of which is written; a field that is not in it has
    the config's name, and one with no key is not in the config. `settings` are flags that are read from elsewhere, and
    never written. `defaults` are what transformers fills in for fields that a config leaves out, `intermediate_factor`
    times the hidden size being the MLP's; without one for `sliding_window`, the family has no windows.
    `windowed_only_if` is the flag without which a sliding_window means nothing. `per_layer` are lists with an entry for
    each layer.
    """

    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    intermediate_factor: int = 0
    per_layer: tuple[PerLayer, ...] = (LAYER_TYPES,)
    windowed_only_if: str | None = None
    requirements: tuple[Requirement, ...] = ()

    def keys_of(self, name: str) -> tuple[str, ...]:
        return self.keys.get(name, (name,))

    def read(self, config: Mapping[str, Any], name: str) -> Any:
        """An Architecture field as the config has it; its default where the config leaves it out."""
        if name in self.settings:
            return self.settings[name].read(config)
        return next((config[key] for key in self.keys_of(name) if key in config), self.defaults.get(name))

    def sizes(self, config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        """The named fields, with what transformers derives where the config has nothing or null."""
        values = {name: self.read(config, name) for name in names}
        hidden, heads = values.get("hidden_size"), values.get("num_attention_heads")
        if values.get("head_dim") is None:  # 0 where it is not to be had, which no Architecture accepts.
            values["head_dim"] = hidden // heads if _is_size(hidden) and _is_size(heads) else 0
        if values.get("num_key_value_heads") is None:
            values["num_key_value_heads"] = heads
        if values.get("intermediate_size") is None and self.intermediate_factor and _is_size(hidden):
            values["intermediate_size"] = self.intermediate_factor * hidden
        return values

    def written(self, teacher_config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """The fields under the keys that the teacher's config uses, or else the first."""
        config: dict[str, Any] = {}
        for name, value in values.items():
            keys = () if name in self.settings else self.keys_of(name)
            config |= dict.fromkeys([key for key in keys if key in teacher_config] or keys[:1], value)
        return config

    def lists_of(
        self, teacher_config: Mapping[str, Any], num_layers: int, kept_layers: tuple[int, ...]
    ) -> dict[str, list[LayerValue]]:
        """The per-layer lists of a student: the teacher's entries for the layers that stay."""
        lists = {each.key: self._list(each, teacher_config, num_layers) for each in self.per_layer}
        return {key: [values[i] for i in kept_layers] for key, values in lists.items() if values is not None}

    def _list(self, each: PerLayer, config: Mapping[str, Any], num_layers: int) -> list[LayerValue] | None:
        # Without a window, transformers fills in no sliding layers.
        if each.key == LAYER_TYPES.key and config.get(each.key) is None and not self.window(config):
            return None
        return each.values(config, num_layers)

    def window(self, config: Mapping[str, Any]) -> int:
        """Tokens that sliding layers attend to; 0 where there can be no such layers."""
        if self.windowed_only_if is not None and not config.get(self.windowed_only_if):
            return 0
        if "sliding_window" not in self.defaults:
            return 0
        return config.get("sliding_window", self.defaults["sliding_window"]) or 0

    def sliding_layers(self, config: Mapping[str, Any], num_layers: int) -> tuple[bool, ...]:
        """For every layer, whether it attends to a window only."""
        if not self.window(config):
            return (False,) * num_layers
        listed = [each for each in self.per_layer if each.key == LAYER_TYPES.key and each.pattern is not None]
        if not listed:
            return (True,) * num_layers
        types = listed[0].values(config, num_layers)
        return tuple(types is not None and types[i] == SLIDING for i in range(num_layers))

    def check(self, config: Mapping[str, Any], num_layers: int, source: str) -> None:
        """Raises TeacherError for a setting that the table does not hold for, or that transformers would refuse."""
        for each in self.requirements:
            if each.key in config and config[each.key] not in each.accepted:
                accepted = " or ".join(str(value) for value in each.accepted)
                raise TeacherError("teacher", source, f"has {each.key} {config[each.key]}", f"{each.key} {accepted}")
        for listed in self.per_layer:
            if problem := listed.problem(config, num_layers):
                raise TeacherError("teacher", source, *problem)
        for name, keys in self.keys.items():
            given = {key: config[key] for key in keys if config.get(key) is not None}
            if len(set(given.values())) > 1:
                raise TeacherError("teacher", source, f"has {given}, all of which mean {name}", "one value for all")
        window = config.get("sliding_window")
        if "sliding_window" in self.defaults and window is not None and not _is_size(window):
            raise TeacherError("teacher", source, f"has sliding_window {window}", "a whole number above 0, or null")


def _is_size(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0
