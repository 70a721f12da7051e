"""Every family's table against what transformers builds, without storage, from the config that the family writes."""

import re
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D

from nas.architecture import AXES, Architecture
from nas.compression.kernels import attention_keeps_scores
from nas.families import FAMILIES, Family
from nas.families.config import ConfigRules
from nas.families.parameter import Parameter, Rescale, Span
from nas.polynomial import Polynomial
from tests.nas.families.small import ALL, Variant, on_meta, outside, students, tensors_on_disk

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def sizes_of(shape: Architecture) -> dict[str, int]:
    return dict(zip(AXES, shape.axes, strict=True))


@st.composite
def models(draw: st.DrawFn, variant: Variant) -> tuple[dict[str, Any], Architecture, tuple[int, ...]]:
    """A teacher's config, tied or untied, of any vocabulary; a shape to be cut out of it; and the layers that stay."""
    changes = {"tie_word_embeddings": draw(st.booleans()), "vocab_size": draw(st.integers(3, 40))}
    shape = draw(students(variant)).model_copy(update=changes)
    layers = draw(st.permutations(range(variant.architecture.num_hidden_layers)))[: shape.num_hidden_layers]
    return {**variant.config, **changes}, shape, tuple(sorted(layers))


@pytest.mark.parametrize("variant", ALL, ids=str)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_tensors_and_counts_are_those_of_transformers(variant: Variant, data: st.DataObject) -> None:
    family = variant.family
    teacher, shape, kept_layers = data.draw(models(variant))
    model = on_meta(family.config(teacher, shape, kept_layers))
    tensors = list(family.tensors(shape))
    assert dict(tensors) == tensors_on_disk(model)
    assert len(tensors) == len(dict(tensors)), "a name is there twice"

    assert family.count(shape) == model.num_parameters()
    left_out = sum(parameter.numel() for parameter in outside(model))
    assert family.count(shape, embedding=False) == model.num_parameters() - left_out
    # The teacher's polynomial holds for every student.
    assert family.polynomial(family.architecture(teacher)).at(sizes_of(shape)) == model.num_parameters()


def matrices_on_disk(model: Any) -> set[str]:
    """The weights that tokens are multiplied with in linear layers, experts and routers, the head left out."""
    left_out = {id(parameter) for parameter in outside(model)}
    found: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) or type(module).__name__.endswith(("Experts", "Router")):
            parameters = module.named_parameters(path, recurse=False)
            found |= {name: each for name, each in parameters if each.dim() > 1 and id(each) not in left_out}
    return set(revert_weight_conversion(model, found))


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_matrices_are_what_tokens_are_multiplied_with(variant: Variant) -> None:
    shape = variant.architecture
    matrices = {name for each in variant.family.parameters if each.matrix for name, _ in each.tensors(shape)}
    assert matrices == matrices_on_disk(on_meta(variant.config))


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_attention_is_fused_wherever_transformers_lets_pytorch_compute_it(variant: Variant) -> None:
    assert variant.family.fused_attention == on_meta(variant.config)._supports_sdpa
    assert variant.family.fused_attention != attention_keeps_scores(variant.config)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_both_values_of_a_flag_are_tried(family: Family) -> None:
    """What the table depends on takes either value in one of the family's variants; tying, in the test above."""
    flags = {flag for each in family.parameters for flag in (each.when, each.unless) if flag is not None}
    variants = [each.architecture for each in ALL if each.family is family]
    assert variants
    for flag in flags - {"tie_word_embeddings"}:
        assert {getattr(shape, flag) for shape in variants} == {True, False}, flag


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_the_polynomial_counts_a_grid_of_shapes_at_once(variant: Variant) -> None:
    teacher = variant.architecture
    polynomial = variant.family.polynomial(teacher)
    axes = [np.arange(1, size + 1, dtype=np.int64) if size else np.zeros(1, np.int64) for size in (3, 5, 4, 2, 2)]
    axes.append(np.arange(1, 4) if teacher.num_experts else np.zeros(1, np.int64))
    counts = polynomial.over(dict(zip(AXES, np.ix_(*axes), strict=True)))
    assert counts.dtype == np.int64
    expected = [polynomial.at(dict(zip(AXES, map(int, sizes), strict=True))) for sizes in product(*axes)]
    assert counts.ravel().tolist() == expected
    for axis in AXES:
        intercept, slope = polynomial.along(axis)
        assert all(axis not in names for part in (intercept, slope) for names in part.terms)
        for sizes in ({**sizes_of(teacher), axis: size} for size in (0, 1, 7)):
            assert intercept.at(sizes) + slope.at(sizes) * sizes[axis] == polynomial.at(sizes)


PAGE = (Path(__file__).resolve().parents[3] / "docs" / "adding-a-family.md").read_text(encoding="utf-8")


def test_the_page_on_families_shows_the_table_that_there_is() -> None:
    (table,) = (code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "Family(" in code)
    names: dict[str, Any] = {}
    exec(table, names)
    assert names["STARCODER2"] == FAMILIES["starcoder2"]


@pytest.mark.parametrize("part", [Family, Parameter, Span, Rescale, ConfigRules])
def test_the_page_on_families_has_every_entry(part: "type[DataclassInstance]") -> None:
    for entry in fields(part):
        assert re.search(rf"\b{entry.name}\b", PAGE), entry.name


polynomials = st.dictionaries(
    st.lists(st.sampled_from("abc"), max_size=3).map(lambda names: tuple(sorted(names))), st.integers(-9, 9)
).map(Polynomial)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(polynomials, polynomials, st.fixed_dictionaries({name: st.integers(-20, 20) for name in "abc"}))
def test_polynomials_add_and_multiply_as_their_values_do(
    one: Polynomial, other: Polynomial, sizes: dict[str, int]
) -> None:
    assert (one + other).at(sizes) == one.at(sizes) + other.at(sizes)
    assert (one - other).at(sizes) == one.at(sizes) - other.at(sizes)
    assert (one * other).at(sizes) == one.at(sizes) * other.at(sizes)
    assert (one * 3 + 2).at(sizes) == one.at(sizes) * 3 + 2
    arrays = {name: np.array([size, 0, 1], dtype=np.int64) for name, size in sizes.items()}
    assert one.over(arrays).tolist() == [
        one.at({name: int(sizes[i]) for name, sizes in arrays.items()}) for i in range(3)
    ]


def test_a_square_is_no_line() -> None:
    squared = Polynomial.size("a") * Polynomial.size("a")
    with pytest.raises(ValueError, match="of a higher degree in a"):
        squared.along("a")
    assert squared.along("b") == (squared, Polynomial({}))
