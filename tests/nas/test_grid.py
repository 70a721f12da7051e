"""Legal shapes, and what each rule removes, against plain loops that apply the rules one after another."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import grid as grids
from nas.architecture import AXES, Architecture
from nas.errors import SpecError
from nas.grid import Grid, grid
from nas.space import MOST_SIZES, SearchSpace
from tests.nas.families.small import ALL
from tests.nas.loops import Sizes, combinations
from tests.nas.shapes import small_llama

Rule = tuple[str, Callable[[Sizes], bool]]

SMALL = {str(variant): variant.architecture for variant in ALL}
GQA = small_llama(num_hidden_layers=4, intermediate_size=30)
OWN_KEYS = small_llama(num_key_value_heads=6)
WINDOWED = small_llama(num_hidden_layers=5, num_sliding_layers=3, sliding_window=8)


# --- the rules by hand ------------------------------------------------------------------------------------------


def hidden_fills_heads(sizes: Sizes) -> bool:
    return sizes["hidden_size"] % sizes["num_attention_heads"] == 0


def hidden_is_heads_of_4(sizes: Sizes) -> bool:
    return sizes["hidden_size"] == sizes["num_attention_heads"] * 4


def every_head_has_keys(sizes: Sizes) -> bool:
    return sizes["num_key_value_heads"] == sizes["num_attention_heads"]


MULTIPLE: Rule = ("hidden_size as a multiple of num_attention_heads", hidden_fills_heads)
PRODUCT: Rule = ("hidden_size as num_attention_heads x head_dim", hidden_is_heads_of_4)
OWN: Rule = ("num_key_value_heads as num_attention_heads", every_head_has_keys)

TEACHERS: dict[str, tuple[Architecture, list[Rule]]] = {
    "llama with groups": (GQA, [MULTIPLE]),
    "llama with a key and a value for every head": (OWN_KEYS, [MULTIPLE]),
    "llama of two layer types": (WINDOWED, [MULTIPLE]),
    "gpt2": (SMALL["gpt2-0"], [PRODUCT, OWN]),
    "starcoder2": (SMALL["starcoder2-0"], [PRODUCT]),
    "gemma2": (SMALL["gemma2-0"], [MULTIPLE]),
    "phi3 of a longer context": (SMALL["phi3-1"], [PRODUCT]),
    "phi3": (SMALL["phi3-0"], []),
    "qwen3_moe": (SMALL["qwen3_moe-0"], []),
}
"""Teachers, and what their families ask for."""


def rules_of(teacher: Architecture, of_family: list[Rule], multiple_of: dict[str, int]) -> list[Rule]:
    """All rules in turn."""
    per_group = teacher.num_attention_heads // teacher.num_key_value_heads
    largest, least = teacher.intermediate_size, teacher.num_experts_per_tok

    def is_multiple(axis: str, of: int) -> Rule:
        return f"{axis} as a multiple of {of}", lambda sizes: sizes[axis] % of == 0

    return [
        *(is_multiple(axis, of) for axis, of in multiple_of.items()),
        (f"intermediate_size up to the teacher's {largest}", lambda sizes: sizes["intermediate_size"] <= largest),
        (f"num_experts of at least the {least} for each token", lambda sizes: sizes["num_experts"] >= least),
        (
            "num_attention_heads as a multiple of num_key_value_heads",
            lambda sizes: sizes["num_attention_heads"] % sizes["num_key_value_heads"] == 0,
        ),
        (
            f"at most {per_group} heads to a key-value head, as the teacher has",
            lambda sizes: sizes["num_attention_heads"] <= per_group * sizes["num_key_value_heads"],
        ),
        *of_family,
    ]


def applied(rules: list[Rule], shapes: list[Sizes]) -> tuple[list[Sizes], dict[str, int]]:
    """What is left, and how many shapes each rule removed of those that the ones before it had left."""
    removed = {}
    for text, holds in rules:
        left = [sizes for sizes in shapes if holds(sizes)]
        if len(left) < len(shapes):
            removed[text] = len(shapes) - len(left)
        shapes = left
    return shapes, removed


def listed(found: Grid) -> list[tuple[int, ...]]:
    """The shapes of a grid along AXES, in order."""
    shapes = []
    for plane in found.planes:
        pairs = list(zip(plane.heads.tolist(), plane.key_values.tolist(), strict=True))
        others = product(plane.layers.tolist(), plane.intermediate.tolist(), pairs, plane.experts.tolist())
        shapes += [(layers, plane.hidden_size, ffn, *pair, experts) for layers, ffn, pair, experts in others]
    return sorted(shapes, reverse=True)


def axes_of(sizes: Sizes) -> tuple[int, ...]:
    return tuple(sizes[axis] for axis in AXES)


def spaces(teacher: Architecture) -> st.SearchStrategy[tuple[dict[str, list[int]], dict[str, int]]]:
    """Sizes for some axes, and multiples for some; those that rules like come as often as others."""
    axes = AXES if teacher.num_experts else AXES[:-1]
    of_axis = {}
    for axis in axes:
        largest = getattr(teacher, axis)
        divisors = [size for size in range(1, largest + 1) if largest % size == 0]
        of_axis[axis] = st.lists(
            st.sampled_from(divisors) | st.integers(1, largest), min_size=1, max_size=4, unique=True
        )
    multiples = st.dictionaries(st.sampled_from(axes), st.integers(1, 4), max_size=2)
    return st.tuples(st.fixed_dictionaries({}, optional=of_axis), multiples)


# --- rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEACHERS)
@settings(derandomize=True, deadline=None, max_examples=50)
@given(data=st.data())
def test_each_rule_removes_what_a_plain_loop_removes(name: str, data: st.DataObject) -> None:
    teacher, of_family = TEACHERS[name]
    choices, multiple_of = data.draw(spaces(teacher))
    shapes = combinations(teacher, choices)
    left, removed = applied(rules_of(teacher, of_family, multiple_of), shapes)
    space = SearchSpace.model_validate({**choices, "multiple_of": multiple_of})
    if not left:
        with pytest.raises(SpecError, match="has no legal shape") as caught:
            grid(space, teacher)
        assert caught.value.accepted == "; ".join(f"{text} (removed {count:,})" for text, count in removed.items())
        return
    found = grid(space, teacher)
    assert found.num_shapes == len(shapes)
    assert listed(found) == list(map(axes_of, left))
    assert list(found.removed.items()) == list(removed.items())
    assert found.layers == tuple(sorted({sizes["num_hidden_layers"] for sizes in left}, reverse=True))
    for axes in listed(found):
        teacher.resized(**dict(zip(AXES, axes, strict=True)))  # Raises for an impossible shape.


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([0.5, 1, 1.25, 1.5, 2, 1e30]), min_size=1, unique=True), st.integers(1, 8))
def test_multiples_of_the_hidden_size_go_up_to_the_teachers_mlp(factors: list[float], multiple: int) -> None:
    hidden_sizes, shapes = [24, 18, 12, 6], []
    for hidden in hidden_sizes:
        sizes = {max(1, int(factor * hidden / multiple + 0.5)) * multiple for factor in factors}
        shapes += combinations(GQA, {"hidden_size": [hidden], "intermediate_size": list(sizes)})
    left, removed = applied(rules_of(GQA, [MULTIPLE], {"intermediate_size": multiple}), shapes)
    space = SearchSpace.model_validate(
        {
            "hidden_size": hidden_sizes,
            "intermediate_size": {"times_hidden": factors},
            "multiple_of": {"intermediate_size": multiple},
        }
    )
    if not left:
        with pytest.raises(SpecError, match="has no legal shape"):
            grid(space, GQA)
        return
    found = grid(space, GQA)
    assert (found.num_shapes, found.removed) == (len(shapes), removed)
    assert listed(found) == sorted(map(axes_of, left), reverse=True)


def test_layers_that_attend_to_a_window_keep_their_share() -> None:
    (plane,) = grid(SearchSpace.model_validate({"num_hidden_layers": {"min": 1}}), WINDOWED).planes
    shares = dict(zip(plane.layers.tolist(), plane.sliding.tolist(), strict=True))
    assert shares == {layers: WINDOWED.resized(num_hidden_layers=layers).num_sliding_layers for layers in range(1, 6)}
    assert shares == {5: 3, 4: 2, 3: 2, 2: 1, 1: 1}


def test_key_value_heads_follow_the_heads_only_if_left_out() -> None:
    heads = {"num_attention_heads": [6, 3]}
    assert [axes[3:5] for axes in listed(grid(SearchSpace.model_validate(heads), OWN_KEYS))] == [(6, 6), (3, 3)]
    space = SearchSpace.model_validate({**heads, "num_key_value_heads": [6, 3]})
    found = grid(space, OWN_KEYS)
    assert [axes[3:5] for axes in listed(found)] == [(6, 6), (3, 3)]
    assert found.removed == {
        "num_attention_heads as a multiple of num_key_value_heads": 1,
        "at most 1 heads to a key-value head, as the teacher has": 1,
    }


def test_heads_fill_the_groups_that_stay() -> None:
    space = SearchSpace.model_validate({"num_attention_heads": {"min": 1}, "num_key_value_heads": {"min": 1}})
    assert [axes[3:5] for axes in listed(grid(space, GQA))] == [(6, 2), (4, 2), (3, 1), (2, 2), (2, 1), (1, 1)]


# --- refusals ---------------------------------------------------------------------------------------------------

MIXTRAL = SMALL["mixtral-0"]
IMPOSSIBLE: list[tuple[Architecture, dict[str, Any], str]] = [
    (
        GQA,
        {"num_hidden_layers": [5]},
        "space.num_hidden_layers: 5 is more than the teacher's 4; accepted: sizes up to 4.",
    ),
    (
        GQA,
        {"hidden_size": [25, 24]},
        "space.hidden_size: 25 is more than the teacher's 24; accepted: sizes up to 24.",
    ),
    (
        GQA,
        {"intermediate_size": {"min": 30, "max": 40, "step": 4}},
        "space.intermediate_size: 38 is more than the teacher's 30; accepted: sizes up to 30.",
    ),
    (
        GQA,
        {"hidden_size": {"ratios": [0.5]}, "multiple_of": {"hidden_size": 32}},
        "space.hidden_size: 32 is more than the teacher's 24; accepted: sizes up to 24.",
    ),
    (
        GQA,
        {"num_key_value_heads": {"min": 3}},
        "space.num_key_value_heads: {'min': 3} holds no size; accepted: sizes up to 2.",
    ),
    (
        GQA,
        {"num_experts": [1]},
        "space.num_experts: {'values': [1]} is no axis of a teacher without experts; accepted: no num_experts.",
    ),
    (MIXTRAL, {"num_experts": [6]}, "space.num_experts: 6 is more than the teacher's 5; accepted: sizes up to 5."),
    (
        MIXTRAL,
        {"num_experts": [1]},
        "space: {'num_experts': {'values': [1]}} has no legal shape; "
        "accepted: num_experts of at least the 2 for each token (removed 1).",
    ),
    (
        GQA,
        {"hidden_size": [23, 22]},
        "space: {'hidden_size': {'values': [23, 22]}} has no legal shape; "
        "accepted: hidden_size as a multiple of num_attention_heads (removed 2).",
    ),
]


@pytest.mark.parametrize(("teacher", "choices", "sentence"), IMPOSSIBLE)
def test_a_size_the_teacher_cannot_give_is_refused(
    teacher: Architecture, choices: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SpecError) as caught:
        grid(SearchSpace.model_validate(choices), teacher)
    assert str(caught.value) == sentence


WIDE = small_llama(hidden_size=2**30, intermediate_size=2**30, num_attention_heads=1, num_key_value_heads=1)


def test_a_range_of_too_many_sizes_is_refused() -> None:
    space = {"intermediate_size": {"min": 1, "max": MOST_SIZES + 1}}
    with pytest.raises(SpecError) as caught:
        grid(SearchSpace.model_validate(space), WIDE)
    assert str(caught.value) == (
        "space.intermediate_size: {'min': 1, 'max': 100001} comes to too many sizes; "
        "accepted: a step that leaves at most 100,000."
    )
    (plane,) = grid(SearchSpace.model_validate({"intermediate_size": {"min": 1, "max": MOST_SIZES}}), WIDE).planes
    assert plane.intermediate.tolist() == list(range(MOST_SIZES, 0, -1))
    with pytest.raises(SpecError, match=r"space\.hidden_size: \{'min': 1\} comes to too many sizes"):
        grid(SearchSpace.model_validate({"hidden_size": {"min": 1}}), WIDE)


def test_a_space_of_too_many_shapes_besides_the_mlps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "MOST_ROWS", 8)
    choices = {"num_hidden_layers": [4, 3, 2, 1], "intermediate_size": {"min": 1}, "hidden_size": [24, 12]}
    assert len(listed(grid(SearchSpace.model_validate(choices), GQA))) == 8 * 30
    with pytest.raises(SpecError) as caught:
        grid(SearchSpace.model_validate({**choices, "hidden_size": [24, 18, 12]}), GQA)
    assert str(caught.value) == (
        "space: 360 shapes are too many to count; accepted: larger steps: up to 8 besides the sizes of the MLP."
    )


def test_twenty_million_shapes_besides_the_mlps_are_a_space() -> None:
    """The number that docs/spec.md gives; refused in well under the seconds that counting them would take."""
    deep = WIDE.model_copy(update={"num_hidden_layers": 30_000})
    choices: dict[str, Any] = {"num_hidden_layers": {"min": 1, "max": 20_000}, "hidden_size": {"min": 1, "max": 1_000}}
    assert sum(plane.num_shapes for plane in grid(SearchSpace.model_validate(choices), deep).planes) == grids.MOST_ROWS
    more = {**choices, "num_hidden_layers": {"min": 1, "max": 20_001}}
    with pytest.raises(SpecError, match=r"space: 20,001,000 shapes are too many to count"):
        grid(SearchSpace.model_validate(more), deep)


def test_planes_share_their_sizes() -> None:
    """A copy for each hidden size would take gigabytes where both are many."""
    choices = {"hidden_size": {"min": 1, "max": 5_000}, "intermediate_size": {"min": 1, "max": 5_000}}
    planes = grid(SearchSpace.model_validate(choices), WIDE).planes
    assert len({id(plane.intermediate) for plane in planes}) == 1
