"""A student of any family must be the teacher with the cut parts masked, computed by transformers, in float64."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.architecture import Architecture
from nas.compression.checkpoint import own_tensors
from nas.compression.choose import choose
from nas.compression.importance.weights import random_scores
from nas.compression.prune import cut
from tests.nas.families.masked import compute_in_float64, masked
from tests.nas.families.small import ALL, Variant, built, students


def student_of(variant: Variant, teacher: Any, shape: Architecture, seed: int) -> tuple[Any, Any]:
    whole, family = variant.architecture, variant.family
    sliding = family.rules.sliding_layers(variant.config, whole.num_hidden_layers)
    kept = choose(random_scores(whole, seed), whole, shape, sliding)
    tensors = dict(cut(own_tensors(teacher).__getitem__, whole, shape, kept))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == dict(family.tensors(shape))
    config = family.config(variant.config, shape, kept.layers)
    assert family.architecture(config) == shape
    model = built(config, seed=1)
    loaded, report = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=tensors,
        dtype=torch.float64,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    assert not any(report.values()), report
    return loaded.eval(), kept


@pytest.mark.parametrize("variant", ALL, ids=str)
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@torch.no_grad()
def test_a_student_of_any_legal_shape_equals_the_masked_teacher(variant: Variant, data: st.DataObject) -> None:
    shape = data.draw(students(variant))
    teacher = built(variant.config)
    inputs = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 9))))
    student, kept = student_of(variant, teacher, shape, seed=data.draw(st.integers(0, 99)))
    assert student.num_parameters() == variant.family.count(shape)
    with ExitStack() as stack:
        compute_in_float64(student, stack)
        logits = student(inputs).logits
    with masked(teacher, variant.family, variant.architecture, kept):
        expected = teacher(inputs).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
