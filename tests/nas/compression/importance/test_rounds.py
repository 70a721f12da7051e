"""Cutting in rounds: against plain repeated pruning, whose every student is measured by itself."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from nas.architecture import Architecture
from nas.calibration import CalibrationSpec
from nas.compression.checkpoint import own_tensors
from nas.compression.choose import Kept, choose
from nas.compression.data import Batch
from nas.compression.importance import Origin, Plan, Source, calibrate
from nas.compression.importance.plan import size_after
from nas.compression.importance.rounds import Stage, cut_in_rounds, shape_after
from nas.compression.layerwise import LayersInMemory
from nas.compression.prune import cut
from nas.compression.scores import Scores
from tests.nas.families.small import ALL, Variant, built

TOKENS = torch.randint(0, 40, (4, 9), generator=torch.Generator().manual_seed(3))
BY_NAME = {str(variant): variant for variant in ALL}
SIZES = {"num_hidden_layers": 2, "hidden_size": 12, "intermediate_size": 8, "num_attention_heads": 2}


def loaded(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    model = built(config)
    report = type(model).from_pretrained(
        None, config=model.config, state_dict=dict(tensors), dtype=torch.float64, attn_implementation="eager",
        experts_implementation="eager", output_loading_info=True,
    )  # fmt: skip
    return report[0].eval()


def measuring(variant: Variant, spec: CalibrationSpec) -> Any:
    def measure(stage: Stage, target: Architecture) -> Scores:
        shape = stage.architecture
        tensors = {name: stage.read(name) for name, _ in variant.family.tensors(shape)}
        layers = LayersInMemory(loaded(dict(stage.config), tensors), variant.family, shape.num_hidden_layers)
        once = spec.model_copy(update={"rounds": 1})
        plan = Plan(shape, once, (target.num_hidden_layers,), stage.sliding)
        source = Source(layers, stage.read, torch.device("cpu"))
        return calibrate(plan, source, Batch(TOKENS[:, :-1], TOKENS[:, 1:]), Origin("", "", "", 0)).scores(once)

    return measure


def student_of(variant: Variant) -> Architecture:
    sizes = dict(SIZES)
    if variant.architecture.num_experts:
        sizes["num_experts"] = 3
    if not variant.family.is_legal(variant.architecture.resized(**sizes)):
        sizes["hidden_size"] = 8
    return variant.architecture.resized(**sizes)


def in_rounds(variant: Variant, tensors: dict[str, torch.Tensor], spec: CalibrationSpec) -> tuple[Architecture, Kept]:
    student = student_of(variant)
    first = Stage(variant.architecture, variant.config, tensors.__getitem__)
    return student, cut_in_rounds(first, student, spec, measuring(variant, spec))


@pytest.mark.parametrize("name", ["llama-0", "gemma2-0", "gpt_neox-0", "phi3-0", "mixtral-0", "stablelm-2"])
@pytest.mark.parametrize("spec", [{"rounds": 3}, {"rounds": 2, "contiguous": True}])
def test_rounds_cut_what_pruning_again_and_again_would(name: str, spec: dict[str, Any]) -> None:
    variant, asked = BY_NAME[name], CalibrationSpec.model_validate(spec)
    tensors = own_tensors(built(variant.config))
    student, kept = in_rounds(variant, tensors, asked)
    at_once = dict(cut(tensors.__getitem__, variant.architecture, student, kept))
    stage, measure = Stage(variant.architecture, variant.config, tensors.__getitem__), measuring(variant, asked)
    for done in range(asked.rounds):
        target = shape_after(variant.architecture, student, done + 1, asked.rounds)
        scores = measure(stage, target)
        of_round = choose(scores, stage.architecture, target, stage.sliding, asked.layer_choice)
        step = dict(cut(stage.read, stage.architecture, target, of_round))
        stage = Stage(target, variant.family.config(stage.config, target, of_round.layers), step.__getitem__)
    assert at_once.keys() == step.keys()
    for tensor_name, tensor in step.items():
        torch.testing.assert_close(at_once[tensor_name], tensor, rtol=1e-12, atol=0)
    one_shot = in_rounds(variant, tensors, asked.model_copy(update={"rounds": 1}))[1]
    assert kept.layers != one_shot.layers or not torch.equal(kept.channels, one_shot.channels) or any(
        not torch.equal(ours, theirs) for ours, theirs in zip(kept.neurons, one_shot.neurons, strict=True)
    ), "or the rounds changed nothing, and the test proves nothing"  # fmt: skip


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_one_round_is_a_plain_choice(variant: Variant) -> None:
    tensors = own_tensors(built(variant.config))
    spec = CalibrationSpec(head_residual="query")
    student, kept = in_rounds(variant, tensors, spec)
    whole = Stage(variant.architecture, variant.config, tensors.__getitem__)
    scores = measuring(variant, spec)(whole, student)
    plain = choose(scores, variant.architecture, student, whole.sliding, residual="query")
    assert kept.layers == plain.layers
    assert torch.equal(kept.channels, plain.channels)
    for layer in kept.layers:
        for name in ("heads", "groups", "experts", "folded"):
            assert torch.equal(getattr(kept, name)[layer], getattr(plain, name)[layer]), name
        of_kept = kept.experts[layer] if variant.architecture.num_experts else slice(None)
        assert torch.equal(kept.neurons[layer][of_kept], plain.neurons[layer][of_kept])


def test_heads_that_went_earlier_are_folded_after_later_ones() -> None:
    """Six heads in one group, two rounds of six to four to two: the pairs follow the order in which they went."""
    whole = BY_NAME["llama-2"].architecture.model_copy(update={"num_key_value_heads": 1})
    student = whole.model_copy(update={"num_attention_heads": 2})
    rows = iter([[5.0, 1, 4, 0, 3, 2], [1.0, 2, 4, 3]])  # Stays 0, 2, 4, 5; then 4 and 5 of the teacher's.

    def measure(stage: Stage, target: Architecture) -> Scores:
        row, shape = torch.tensor(next(rows), dtype=torch.float64), stage.architecture
        nothing = torch.zeros(shape.num_hidden_layers, shape.num_hidden_layers, dtype=torch.float64)
        return Scores(
            layers=nothing[0], heads=row.repeat(shape.num_hidden_layers, 1), channels=torch.zeros(shape.hidden_size),
            neurons=torch.zeros(shape.num_hidden_layers, shape.intermediate_size), experts=nothing[:, :0],
            stretches=nothing,
        )  # fmt: skip

    tensors = {name: torch.zeros(size) for name, size in BY_NAME["llama-2"].family.tensors(whole)}
    first = Stage(whole, {**BY_NAME["llama-2"].config, "num_key_value_heads": 1}, tensors.__getitem__)
    spec = CalibrationSpec(rounds=2, head_residual="query")
    kept = cut_in_rounds(first, student, spec, measure)
    assert kept.heads[0].tolist() == [4, 5]
    # Best first: 4, 5, then 2 and 0 of the second round, then 1 and 3 of the first: 5 takes in 2, and 4 takes in 0.
    assert sorted(kept.folded[0].tolist()) == [[4, 0], [5, 2]]


def test_sizes_go_in_equal_steps() -> None:
    """P1, section 2.2: d_s - i (d_s - d_t) / T."""
    assert [size_after(6144, 4096, done, 4) for done in range(5)] == [6144, 5632, 5120, 4608, 4096]
    assert [size_after(8, 5, done, 2) for done in range(3)] == [8, 7, 5]


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_shapes_between_rounds_are_legal_and_shrink(variant: Variant) -> None:
    student, whole = student_of(variant), variant.architecture
    shapes = [shape_after(whole, student, done, 5) for done in range(6)]
    assert (shapes[0], shapes[-1]) == (whole, student)
    assert all(variant.family.is_legal(shape) for shape in shapes)
    for larger, smaller in pairwise(shapes):
        assert all(a >= b for a, b in zip(larger.axes, smaller.axes, strict=True))
