"""How configs are read and written, against what transformers takes the same configs to mean."""

from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.architecture import Architecture
from nas.compression.choose import choose
from nas.compression.importance.weights import random_scores
from nas.errors import TeacherError
from nas.families import FAMILIES, Family, family_named
from nas.families.constraint import Multiple, Product
from tests.nas.families.small import ALL, Variant, on_meta, parsed, students, tensors_on_disk

SIZES = {
    "vocab_size": 7,
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 12,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
"""A multiple of every default is among the heads, and every default differs from what is here."""
GPT2_SIZES = {"vocab_size": 7, "n_layer": 2, "n_embd": 128, "n_inner": 12, "n_head": 32, "n_positions": 16}
MORE: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 6},
    "mistral": {"head_dim": 6},
    "qwen3": {"head_dim": 6},
    "gemma2": {"head_dim": 6},
    "gemma3_text": {"head_dim": 6},
    "nemotron": {"head_dim": 6},
    "mixtral": {"head_dim": 6, "num_local_experts": 3, "num_experts_per_tok": 1},
    "qwen3_moe": {"head_dim": 6, "num_experts": 9, "num_experts_per_tok": 1, "moe_intermediate_size": 10},
}
REQUIRED = ("vocab_size", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")


def config_of(model_type: str) -> dict[str, Any]:
    sizes = GPT2_SIZES if model_type == "gpt2" else SIZES
    config = {"model_type": model_type, **sizes, **MORE.get(model_type, {})}
    return {key: value for key, value in config.items() if (model_type, key) != ("gpt_neox", "num_key_value_heads")}


def optional() -> list[tuple[str, str]]:
    """Every optional key with a value; Nemotron's transformers has no meaning for the one that is missing."""
    found = []
    for model_type, family in FAMILIES.items():
        needed = {key for name in REQUIRED for key in family.rules.keys_of(name)} - {"n_inner", "moe_intermediate_size"}
        keys = {key for name in family.fields for key in family.rules.keys_of(name)}
        found += [(model_type, key) for key in config_of(model_type) if key in keys - needed]
    return [each for each in found if each != ("nemotron", "num_key_value_heads")]


OPTIONAL = pytest.mark.parametrize(("model_type", "key"), optional())


def same_model(family: Family, config: dict[str, Any]) -> None:
    shape = family.architecture(config)
    theirs = parsed(config)
    assert dict(family.tensors(shape)) == tensors_on_disk(on_meta(config))
    assert shape.tie_word_embeddings == theirs.tie_word_embeddings
    assert shape.num_key_value_heads == getattr(theirs, "num_key_value_heads", theirs.num_attention_heads)
    assert shape.num_experts == getattr(theirs, "num_experts", 0)
    assert shape.num_experts_per_tok == getattr(theirs, "num_experts_per_tok", 0)


@OPTIONAL
def test_a_key_that_is_left_out_means_what_transformers_takes_it_to_mean(model_type: str, key: str) -> None:
    same_model(FAMILIES[model_type], {k: value for k, value in config_of(model_type).items() if k != key})


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_config_with_nothing_but_sizes_means_what_transformers_takes_it_to_mean(model_type: str) -> None:
    config = config_of(model_type)
    same_model(FAMILIES[model_type], {key: config[key] for key in config if key not in MORE.get(model_type, {})})


@OPTIONAL
def test_null_means_what_transformers_takes_it_to_mean(model_type: str, key: str) -> None:
    """Where it builds a model from null at all."""
    config = {**config_of(model_type), key: None}
    try:
        on_meta(config)
    except (StrictDataclassFieldValidationError, TypeError):
        return
    same_model(FAMILIES[model_type], config)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_head_is_tied_if_the_config_says_so(model_type: str, tied: bool) -> None:
    same_model(FAMILIES[model_type], {**config_of(model_type), "tie_word_embeddings": tied})


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "num_attention_heads"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_config_without_a_size_is_refused_by_its_name(model_type: str, name: str) -> None:
    family, config = FAMILIES[model_type], config_of(model_type)
    keys = family.rules.keys_of(name)
    with pytest.raises(TeacherError) as caught:
        family.architecture({key: value for key, value in config.items() if key not in keys})
    expected = f"teacher: config.json has no {' or '.join(keys)}; accepted: a complete {model_type} config."
    assert str(caught.value) == expected


def test_gpt2_may_use_the_names_of_others() -> None:
    """transformers maps them onto its own, and a student's config keeps to those that the teacher's uses."""
    gpt2 = family_named("gpt2")
    config = {
        "model_type": "gpt2", "vocab_size": 7, "num_hidden_layers": 2, "hidden_size": 24, "n_inner": 12,
        "num_attention_heads": 6, "max_position_embeddings": 16,
    }  # fmt: skip
    same_model(gpt2, config)
    student = gpt2.architecture(config).resized(num_attention_heads=3, hidden_size=12)
    written = gpt2.config(config, student, (0, 1))
    assert written.keys() - config.keys() == {"tie_word_embeddings"}
    same_model(gpt2, written)
    assert gpt2.architecture(written) == student


# --- students -----------------------------------------------------------------------------------------------

MAY_CHANGE = {
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "num_experts", "num_local_experts", "moe_intermediate_size", "n_layer", "n_embd", "n_inner", "n_head",
    "layer_types", "no_rope_layers",
}  # fmt: skip
KEPT: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "hidden_act": "gelu"},
    "gemma2": {"query_pre_attn_scalar": 7, "attn_logit_softcapping": 20.0},
    "gemma3_text": {"rope_local_base_freq": 5000.0, "query_pre_attn_scalar": 7},
    "phi3": {"partial_rotary_factor": 0.5, "rope_theta": 5e5},
    "nemotron": {"partial_rotary_factor": 0.25, "norm_eps": 1e-3},
    "stablelm": {"partial_rotary_factor": 0.5, "layer_norm_eps": 1e-3},
    "gpt_neox": {"rotary_pct": 0.5, "rotary_emb_base": 5000},
    "gpt2": {"activation_function": "relu", "scale_attn_weights": False},
    "mixtral": {"router_jitter_noise": 0.1},
}
"""Settings that hold for the student as for the teacher, other than what transformers fills in."""


@st.composite
def cuts(draw: st.DrawFn, variant: Variant) -> tuple[Architecture, tuple[int, ...]]:
    """Any student, and the layers that stay in it."""
    whole, shape = variant.architecture, draw(students(variant))
    sliding = variant.family.rules.sliding_layers(variant.config, whole.num_hidden_layers)
    return shape, choose(random_scores(whole, draw(st.integers(0, 99))), whole, shape, sliding).layers


@pytest.mark.parametrize("variant", ALL, ids=str)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_config_reads_back_as_the_shape_it_was_written_for(variant: Variant, data: st.DataObject) -> None:
    shape, kept_layers = data.draw(cuts(variant))
    assert variant.family.architecture(variant.family.config(variant.config, shape, kept_layers)) == shape


@pytest.mark.parametrize("variant", ALL, ids=str)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_students_config_changes_nothing_but_sizes_and_lists(variant: Variant, data: st.DataObject) -> None:
    shape, kept_layers = data.draw(cuts(variant))
    more = {} if variant.architecture.long_rope else KEPT.get(variant.family.model_type, {})
    teacher = {**variant.config, **more}
    student = variant.family.config(teacher, shape, kept_layers)
    assert {key: student[key] for key in teacher if key not in MAY_CHANGE} == {
        key: value for key, value in teacher.items() if key not in MAY_CHANGE
    }
    before, after = parsed(teacher).to_dict(), parsed(student).to_dict()
    assert {key for key in {**before, **after} if before.get(key) != after.get(key)} <= MAY_CHANGE


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_a_teachers_config_written_for_itself_means_the_same(variant: Variant) -> None:
    layers = tuple(range(variant.architecture.num_hidden_layers))
    before = parsed(variant.config).to_dict()
    after = parsed(variant.family.config(variant.config, variant.architecture, layers)).to_dict()
    # What transformers derives from null or nothing is written out.
    derived = {"n_inner", "head_dim"}
    changed = {key for key in {**before, **after} if before.get(key) != after.get(key)}
    assert all(key in derived and before.get(key) is None for key in changed), changed


# --- what is refused ----------------------------------------------------------------------------------------

REFUSED = [
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx False or None"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention False or None"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention False or None"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention False or None"),
    ("qwen3_moe", {"mlp_only_layers": [1]}, "mlp_only_layers [] or None"),
    ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step 1"),
]


@pytest.mark.parametrize(("model_type", "setting", "accepted"), REFUSED)
def test_a_setting_that_the_table_does_not_hold_for_is_refused(
    model_type: str, setting: dict[str, Any], accepted: str
) -> None:
    family, config = family_named(model_type), config_of(model_type)
    ((key, value),) = setting.items()
    with pytest.raises(TeacherError) as caught:
        family.architecture({**config, **setting}, source="t/config.json")
    assert str(caught.value) == f"teacher: t/config.json has {key} {value}; accepted: {accepted}."
    for harmless in next(each.accepted for each in family.rules.requirements if each.key == key):
        same_model(family, {**config, key: harmless} if harmless is not None else config)


LISTS = [("smollm3", "no_rope_layers"), *((model_type, "layer_types") for model_type in FAMILIES)]


@pytest.mark.parametrize(("model_type", "key"), LISTS)
@pytest.mark.parametrize("value", [["full_attention"] * 3, [], "full_attention"])
def test_a_list_of_another_length_than_the_layers_is_refused(model_type: str, key: str, value: object) -> None:
    with pytest.raises(TeacherError) as caught:
        family_named(model_type).architecture({**config_of(model_type), key: value})
    problem = f"has {key} {value} for 2 layers"
    assert str(caught.value) == f"teacher: config.json {problem}; accepted: a list of 2 entries."


# --- which shapes are legal ---------------------------------------------------------------------------------


def is_built_as_told(family: Family, shape: Architecture, config: dict[str, Any]) -> bool:
    """Whether transformers accepts the config that is written for a shape, and makes this shape of it."""
    try:
        model = on_meta(config)
    except (StrictDataclassClassValidationError, ValueError, ZeroDivisionError):
        return False
    groups = getattr(model.config, "num_key_value_heads", model.config.num_attention_heads)
    return tensors_on_disk(model) == dict(family.tensors(shape)) and groups == shape.num_key_value_heads


@pytest.mark.parametrize("variant", [each for each in ALL if each.number == 0 or each.architecture.long_rope], ids=str)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_shape_is_legal_exactly_where_transformers_builds_it(variant: Variant, data: st.DataObject) -> None:
    groups, per_group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    heads, head_dim = groups * per_group, variant.architecture.head_dim
    hidden = data.draw(st.sampled_from([heads * head_dim, heads * head_dim + 1, heads * 6]) | st.integers(1, 30))
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": groups}
    shape = variant.architecture.model_copy(update=sizes)
    config = variant.family.config(variant.config, shape, tuple(range(shape.num_hidden_layers)))
    if variant.family.is_legal(shape):
        assert is_built_as_told(variant.family, shape, config)
        assert variant.family.architecture(config) == shape
    elif is_built_as_told(variant.family, shape, config):
        # Some config classes take a hidden size that the heads do not divide, or not into pairs of rotary entries, and
        # round down; that is refused.
        assert any(isinstance(rule, Product) and rule.field == "hidden_size" for rule in variant.family.constraints)
        assert hidden % (2 * heads)
        assert hidden // (2 * heads) == head_dim // 2


def one_channel_more(variant: Variant) -> Architecture:
    return variant.architecture.model_copy(update={"hidden_size": variant.architecture.hidden_size + 1})


CONSTRAINED = [variant for variant in ALL if not variant.family.is_legal(one_channel_more(variant))]


@pytest.mark.parametrize("variant", CONSTRAINED, ids=str)
def test_an_illegal_shape_is_refused_with_what_would_be_legal(variant: Variant) -> None:
    family, illegal = variant.family, one_channel_more(variant)
    with pytest.raises(TeacherError) as caught:
        family.architecture({**variant.config, family.rules.keys_of("hidden_size")[0]: illegal.hidden_size})
    rule = next(rule for rule in family.constraints if "hidden_size" in rule.fields)
    message = str(caught.value)
    assert message.startswith(
        f"teacher: config.json is not a legal {family.model_type} (hidden_size {illegal.hidden_size}"
    )
    assert message.endswith(f"; accepted: {rule}.")


def test_the_families_whose_hidden_size_is_not_free() -> None:
    bound = {
        name for name, family in FAMILIES.items() if any("hidden_size" in rule.fields for rule in family.constraints)
    }
    assert {variant.family.model_type for variant in CONSTRAINED} == bound


MALFORMED = [
    ("qwen2", {"max_window_layers": "x", "use_sliding_window": True}, "has max_window_layers x"),
    ("mistral", {"sliding_window": "3"}, "has sliding_window 3"),
    ("mistral", {"sliding_window": True}, "has sliding_window True"),
    ("gemma3_text", {"sliding_window_pattern": 0}, "has sliding_window_pattern 0"),
    ("gemma3_text", {"sliding_window_pattern": "2"}, "has sliding_window_pattern 2"),
    ("gemma2", {"layer_types": ["chunked_attention"] * 4}, "has chunked_attention in layer_types"),
    ("qwen3", {"layer_types": [1, 2, 3, 4]}, "has 1 in layer_types"),
    ("smollm3", {"no_rope_layers": ["a", 1, 1, 0]}, "has a in no_rope_layers"),
    ("smollm3", {"no_rope_layers": [True, 1, 1, 0]}, "has True in no_rope_layers"),
    ("llama", {"num_hidden_layers": True}, "num_hidden_layers: True"),
    ("llama", {"tie_word_embeddings": "no"}, "tie_word_embeddings: no"),
    ("llama", {"hidden_size": "24"}, "hidden_size: 24 should be a valid integer"),
    ("qwen3_moe", {"num_experts": 0, "num_experts_per_tok": 0}, "has no experts"),
    ("qwen3_moe", {"num_experts_per_tok": None}, "has no num_experts_per_tok"),
    ("mixtral", {"num_local_experts": None}, "has no num_local_experts or num_experts"),
    ("mixtral", {"num_experts_per_tok": 0}, "num_experts_per_tok: 0 of the experts would do nothing"),
    (
        "gpt2",
        {"num_hidden_layers": 2},
        "has {'n_layer': 4, 'num_hidden_layers': 2}, all of which mean num_hidden_layers",
    ),
]


@pytest.mark.parametrize(("model_type", "changes", "problem"), MALFORMED)
def test_what_a_config_cannot_mean_is_refused_and_never_guessed(
    model_type: str, changes: dict[str, Any], problem: str
) -> None:
    variant = next(each for each in ALL if each.family.model_type == model_type)
    with pytest.raises(TeacherError) as caught:
        variant.family.architecture({**variant.config, **changes})
    assert problem in str(caught.value)


def test_a_table_with_a_constraint_that_the_grid_does_not_follow_is_refused() -> None:
    with pytest.raises(ValueError, match="llama: constraints may bind hidden_size and heads only"):
        replace(FAMILIES["llama"], constraints=(Multiple("intermediate_size", "num_attention_heads"),))
