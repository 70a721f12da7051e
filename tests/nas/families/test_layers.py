"""What differs from layer to layer by the config alone: which layers attend to a window, and which have no rotation."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from nas.families import FAMILIES, family_named
from tests.nas.families.small import parsed

WINDOW = {"sliding_window": 3}
USED = {**WINDOW, "use_sliding_window": True}
MIXED = ["full_attention", "sliding_attention", "full_attention", "full_attention"]
ALL_FULL = ["full_attention"] * 4

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "llama": [{}, WINDOW, {"layer_types": MIXED}],
    "granite": [WINDOW],
    "gpt_neox": [WINDOW],
    "gpt2": [WINDOW],
    "mistral": [WINDOW, {"sliding_window": None}, {**WINDOW, "layer_types": MIXED}],
    "mixtral": [{}, WINDOW, {"sliding_window": None}, {**WINDOW, "layer_types": MIXED}],
    "starcoder2": [{}, WINDOW, {"sliding_window": None}, {**WINDOW, "layer_types": MIXED}],
    "phi3": [{}, WINDOW, {"sliding_window": None}, {**WINDOW, "layer_types": MIXED}],
    "qwen3_moe": [{}, WINDOW, USED, {"use_sliding_window": True, "sliding_window": None}],
    "gemma2": [WINDOW, {**WINDOW, "layer_types": None}, {**WINDOW, "layer_types": MIXED}],
    "gemma3_text": [
        WINDOW,
        {**WINDOW, "sliding_window_pattern": 2},
        {**WINDOW, "layer_types": MIXED},
        {**WINDOW, "layer_types": ALL_FULL},
    ],
    "smollm3": [
        {},
        WINDOW,
        USED,
        {"use_sliding_window": True},
        {**USED, "no_rope_layer_interval": 2},
        {**USED, "no_rope_layers": [1, 0, 1, 1]},
        {**USED, "layer_types": MIXED},
        {**WINDOW, "layer_types": MIXED},
    ],
}
for _qwen in ("qwen2", "qwen3"):
    SETTINGS[_qwen] = [
        {},
        WINDOW,
        USED,
        {**USED, "max_window_layers": 1},
        {**USED, "max_window_layers": 0},
        {**USED, "max_window_layers": 1, "layer_types": MIXED},
        {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 1},
        {"layer_types": ALL_FULL},
    ]
CASES = [(model_type, settings) for model_type, listed in SETTINGS.items() for settings in listed]


def config_of(model_type: str, **settings: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": 5, "num_hidden_layers": 4, "hidden_size": 24, "intermediate_size": 12, "num_attention_heads": 6,
        "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None,
    }  # fmt: skip
    experts = {
        "mixtral": {"num_local_experts": 2, "num_experts_per_tok": 1},
        "qwen3_moe": {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 4, "head_dim": 4},
    }
    return {"model_type": model_type, **sizes, **experts.get(model_type, {}), **settings}


@torch.no_grad()
def windowed(config: dict[str, Any]) -> list[bool]:
    """For every layer of the model that transformers builds: whether its last token's mask hides the first from it."""
    model: Any = AutoModelForCausalLM.from_config(parsed(config), attn_implementation="eager").eval()
    seen = []

    def look(_: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        tensors = (value for value in [*named.values(), *inputs] if isinstance(value, torch.Tensor))
        (mask,) = (value for value in tensors if value.dim() == 4)
        assert mask[0, 0, -1, -1] == 0
        seen.append(bool(mask[0, 0, -1, 0] != 0))

    for name, module in model.named_modules():
        if name.endswith((".self_attn", ".attn", ".attention")):
            module.register_forward_pre_hook(look, with_kwargs=True)
    model(torch.zeros(1, 7, dtype=torch.long), use_cache=False)
    return seen


@pytest.mark.parametrize(("model_type", "settings"), CASES)
def test_the_layers_that_attend_to_a_window_are_those_of_transformers(
    model_type: str, settings: dict[str, Any]
) -> None:
    config = config_of(model_type, **settings)
    family = family_named(model_type)
    theirs = windowed(config)
    assert list(family.rules.sliding_layers(config, 4)) == theirs
    teacher = family.architecture(config)
    assert teacher.num_sliding_layers == sum(theirs)
    assert not sum(theirs) or teacher.sliding_window == 3
    for kept_layers in ((1, 2), (0,)):
        shape = teacher.resized(num_hidden_layers=len(kept_layers))
        student = family.config(config, shape, kept_layers)
        assert windowed(student) == [theirs[i] for i in kept_layers]
        if sum(theirs[i] for i in kept_layers) == shape.num_sliding_layers:
            assert family.architecture(student) == shape


def test_every_family_with_windows_is_looked_at() -> None:
    with_windows = {name for name, family in FAMILIES.items() if "sliding_window" in family.rules.defaults}
    assert with_windows <= SETTINGS.keys()
    defaults = {name: getattr(parsed({"model_type": name}), "sliding_window", None) for name in FAMILIES}
    for name, family in FAMILIES.items():
        if family.rules.windowed_only_if is None:
            assert family.rules.defaults.get("sliding_window") == defaults[name]
        else:
            used = parsed({"model_type": name, family.rules.windowed_only_if: True})
            assert family.rules.window({family.rules.windowed_only_if: True}) == used.sliding_window


@pytest.mark.parametrize("kept_layers", [(0, 3), (1, 2, 3), (3,), (0, 1, 2, 3)])
@pytest.mark.parametrize(
    "settings", [{}, {"no_rope_layer_interval": 2}, {"no_rope_layers": [0, 1, 0, 0]}, {"no_rope_layers": None}]
)
def test_the_layers_that_stay_rotate_as_before(settings: dict[str, Any], kept_layers: tuple[int, ...]) -> None:
    family, config = family_named("smollm3"), config_of("smollm3", **settings)
    student = family.config(
        config, family.architecture(config).resized(num_hidden_layers=len(kept_layers)), kept_layers
    )
    theirs = parsed(config).no_rope_layers
    assert parsed(student).no_rope_layers == [theirs[i] for i in kept_layers]


@pytest.mark.parametrize(
    ("model_type", "settings", "expected"),
    [
        ("llama", {}, False),
        ("mistral", WINDOW, False),
        ("mistral", {**WINDOW, "layer_types": MIXED}, True),
        ("qwen2", {}, False),
        ("qwen2", USED, True),
        ("gemma2", {}, True),
        ("smollm3", {}, True),
    ],
)
def test_layers_are_told_apart_where_a_students_config_depends_on_which_stay(
    model_type: str, settings: dict[str, Any], expected: bool
) -> None:
    family, config = family_named(model_type), config_of(model_type, **settings)
    assert family.tells_layers_apart(config) == expected
    student = family.architecture(config).resized(num_hidden_layers=2)
    if not expected:
        assert family.config(config, student, (0, 1)) == family.config(config, student, (1, 3))
