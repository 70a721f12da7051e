"""Heads that take in what others differ by: the student must be the masked teacher whose heads were changed by loops.

The loops know each family's own layout; the code under test knows tables only.
"""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch

from nas.architecture import Architecture
from nas.calibration import HeadResidual
from nas.compression.checkpoint import own_tensors
from nas.compression.choose import Kept, choose, folded_heads
from nas.compression.importance.weights import random_scores
from nas.compression.prune import cut, cuts
from tests.nas.families.masked import compute_in_float64, masked
from tests.nas.families.small import ALL, Variant, built, legal_hidden_sizes

GROUPED = [variant for variant in ALL if variant.architecture.num_key_value_heads == 2]
OWN_KEYS = [variant for variant in ALL if variant.architecture.num_key_value_heads == 6]
INPUTS = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(4))
PLACES: tuple[HeadResidual, ...] = ("query", "query_and_output")


def student_of(variant: Variant) -> Architecture:
    """Every axis is cut, and of the heads two in each group of three, or four of six that have their own keys."""
    whole = variant.architecture
    groups = 2 if whole.num_key_value_heads == 2 else 4
    hidden = [size for size in legal_hidden_sizes(variant, 4) if size < whole.hidden_size][-1]
    experts = {"num_experts": whole.num_experts - 1} if whole.num_experts else {}
    sizes = {"num_hidden_layers": 3, "hidden_size": hidden, "intermediate_size": 9, "num_attention_heads": 4}
    return whole.resized(num_key_value_heads=groups, **sizes, **experts)


def chosen(variant: Variant, residual: HeadResidual) -> Kept:
    whole = variant.architecture
    sliding = variant.family.rules.sliding_layers(variant.config, whole.num_hidden_layers)
    return choose(random_scores(whole, seed=2), whole, student_of(variant), sliding, residual=residual)


def pairs_by_hand(kept: Kept) -> tuple[torch.Tensor, ...]:
    """The first head that stays with the last that goes, the last that stays with the first that goes."""
    pairs = []
    for heads in kept.heads:
        goes = [head for head in range(6) if head not in heads.tolist()]
        pairs.append(torch.tensor([[int(heads[0]), goes[-1]], [int(heads[-1]), goes[0]]]))
    return tuple(pairs)


def logits_of_student(variant: Variant, teacher: Any, kept: Kept) -> torch.Tensor:
    shape = student_of(variant)
    tensors = dict(cut(own_tensors(teacher).__getitem__, variant.architecture, shape, kept))
    config = variant.family.config(variant.config, shape, kept.layers)
    as_loaded = {"attn_implementation": "eager", "experts_implementation": "eager", "output_loading_info": True}
    model = built(config, seed=1)
    loaded, report = type(model).from_pretrained(
        None, config=model.config, state_dict=tensors, dtype=torch.float64, **as_loaded
    )
    assert not any(report.values()), report
    with ExitStack() as stack:
        compute_in_float64(loaded.eval(), stack)
        logits: torch.Tensor = loaded(INPUTS).logits
    return logits


def fold_by_loops(variant: Variant, teacher: Any, kept: Kept) -> None:
    """Changes the teacher's own weights, in every layer."""
    size = variant.architecture.head_dim
    for i in range(4):
        matrices = _matrices(variant.family.model_type, teacher, i)
        for stays, goes in kept.folded[i].tolist():
            for number in range(size):
                into, out_of = (matrices.query_row(head, size) + number for head in (stays, goes))
                matrices.query[into] += matrices.query[into] - matrices.query[out_of]
                if matrices.query_bias is not None:
                    matrices.query_bias[into] += matrices.query_bias[into] - matrices.query_bias[out_of]
                if kept.residual == "query_and_output":
                    column, other = stays * size + number, goes * size + number
                    matrices.output[:, column] += matrices.output[:, column] - matrices.output[:, other]


class _Matrices:
    """Of one layer: views of the weights, the query's with a row and the output's with a column for each entry."""

    def __init__(self, query: Any, output: Any, *, transposed: bool = False, side_by_side: bool = False) -> None:
        self.query = query.weight.data.T if transposed else query.weight.data
        self.query_bias = None if query.bias is None else query.bias.data
        self.output = output.weight.data.T if transposed else output.weight.data
        self._stride = 3 if side_by_side else 1

    def query_row(self, head: int, size: int) -> int:
        return head * size * self._stride


def _matrices(model_type: str, model: Any, i: int) -> _Matrices:
    if model_type == "gpt2":
        attention = model.transformer.h[i].attn
        return _Matrices(attention.c_attn, attention.c_proj, transposed=True)
    if model_type == "gpt_neox":
        attention = model.gpt_neox.layers[i].attention
        return _Matrices(attention.query_key_value, attention.dense, side_by_side=True)
    attention = model.model.layers[i].self_attn
    return _Matrices(attention.qkv_proj if model_type == "phi3" else attention.q_proj, attention.o_proj)


def differs_from_the_teacher(variant: Variant, kept: Kept) -> None:
    teacher, changed = built(variant.config), built(variant.config)
    fold_by_loops(variant, changed, kept)
    logits = logits_of_student(variant, teacher, kept)
    with masked(changed, variant.family, variant.architecture, kept):
        expected = changed(INPUTS).logits
    with masked(teacher, variant.family, variant.architecture, kept):
        unchanged = teacher(INPUTS).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
    assert (expected - unchanged).abs().max() > 1e-3, "the residual must change something"


@pytest.mark.parametrize("residual", PLACES)
@pytest.mark.parametrize("variant", GROUPED, ids=str)
@torch.no_grad()
def test_heads_of_a_group_take_in_what_goes(variant: Variant, residual: HeadResidual) -> None:
    kept = chosen(variant, residual)
    assert all(pairs.shape == (2, 2) for pairs in kept.folded)
    differs_from_the_teacher(variant, kept)


@pytest.mark.parametrize("residual", PLACES)
@pytest.mark.parametrize("variant", OWN_KEYS, ids=str)
@torch.no_grad()
def test_every_layout_is_folded_where_there_are_pairs(variant: Variant, residual: HeadResidual) -> None:
    """`choose` pairs no heads that have keys of their own; the tables say where they are all the same."""
    kept = chosen(variant, residual)
    differs_from_the_teacher(variant, replace(kept, folded=pairs_by_hand(kept)))


@pytest.mark.parametrize("variant", OWN_KEYS, ids=str)
def test_heads_with_keys_of_their_own_stay_as_they_are(variant: Variant) -> None:
    tensors = own_tensors(built(variant.config))
    plain, folded = (
        dict(cut(tensors.__getitem__, variant.architecture, student_of(variant), chosen(variant, residual)))
        for residual in ("off", "query_and_output")
    )
    assert all(torch.equal(folded[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_rows_are_the_same_whatever_pieces_they_are_computed_in(variant: Variant) -> None:
    """Nothing of the teacher's changes meanwhile."""
    tensors = {name: tensor.bfloat16() for name, tensor in own_tensors(built(variant.config)).items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    kept = chosen(variant, "query_and_output")
    for name, tensor in cuts(tensors.__getitem__, variant.architecture, student_of(variant), kept):
        pieces = [tensor[start : start + 5] for start in range(0, tensor.shape[0], 5)]
        assert torch.equal(torch.cat(pieces).view(torch.int16), tensor[:].view(torch.int16)), name
        assert (tuple(tensor[:].shape), tensor[:].dtype) == (tensor.shape, tensor.dtype)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())


def test_what_is_taken_in_is_rounded_once() -> None:
    variant = GROUPED[0]
    tensors = {name: tensor.bfloat16() for name, tensor in own_tensors(built(variant.config)).items()}
    kept = replace(chosen(variant, "query"), channels=torch.arange(24))
    student = student_of(variant).model_copy(update={"hidden_size": 24})
    folded = dict(cut(tensors.__getitem__, variant.architecture, student, kept))
    name = "model.layers.{}.self_attn.q_proj.weight"
    for i, layer in enumerate(kept.layers):
        query = tensors[name.format(layer)].unflatten(0, (6, 8))
        partners = dict(kept.folded[layer].tolist())
        for place, head in enumerate(kept.heads[layer].tolist()):
            found = folded[name.format(i)].unflatten(0, (4, 8))[place]
            expected = query[head]
            if head in partners:
                expected = (2 * query[head].double() - query[partners[head]].double()).bfloat16()
            assert torch.equal(found, expected)


# --- pairs --------------------------------------------------------------------------------------------------


def pairs(scores: list[float], groups: list[int], num_groups: int, keep: int) -> list[list[int]]:
    found: list[list[int]] = folded_heads(torch.tensor(scores), torch.tensor(groups), num_groups, keep).tolist()
    return sorted(found)


def test_the_last_that_stays_takes_in_the_first_that_goes() -> None:
    """Heads are named by their rank here, from 0."""
    best_first = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert pairs(best_first, [0], 1, keep=6) == []
    assert pairs(best_first, [0], 1, keep=5) == [[4, 5]]
    assert pairs(best_first, [0], 1, keep=4) == [[2, 5], [3, 4]]
    assert pairs(best_first, [0], 1, keep=3) == [[0, 5], [1, 4], [2, 3]]


def test_where_more_than_half_go_the_last_are_taken_in_by_nobody() -> None:
    best_first = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert pairs(best_first, [0], 1, keep=2) == [[0, 3], [1, 2]]
    assert pairs(best_first, [0], 1, keep=1) == [[0, 1]]


def test_pairs_follow_scores_within_their_group_and_groups_that_go_have_none() -> None:
    scores = [1.0, 3.0, 2.0, 40.0, 60.0, 50.0, 0.2, 0.1, 0.3]
    assert pairs(scores, [0, 1, 2], 3, keep=2) == [[2, 0], [5, 3], [6, 7]]
    assert pairs(scores, [0, 2], 3, keep=2) == [[2, 0], [6, 7]]
    assert pairs(scores, [1], 3, keep=1) == [[4, 5]]


def test_a_group_of_one_head_has_no_pairs() -> None:
    assert pairs([1.0, 2.0, 3.0], [1, 2], 3, keep=1) == []
