"""What is not finite: it is never stepped on, and a run that comes past it ends as if nothing had been."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from nas.compression.data import Batch, PackedTokens, write_token_file
from nas.compression.gradients import Terms
from nas.compression.train import Run, train
from nas.errors import Interrupted, TrainingDiverged
from nas.training_record import Rollback
from nas.training_spec import TrainingSpec
from tests.nas.compression.small_run import SPEC, curve_into, new_run, weights, with_objective

SELDOM = SPEC.model_copy(update={"checkpoint_seconds": 10_000})
"""Checkpoints at 0, 3, 7 and 10 steps."""

Fault = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def data(tmp_path: Path, tokenizer: Tokenizer, text_file: Path) -> PackedTokens:
    write_token_file(tmp_path / "t.bin", iter([text_file.read_text()]), tokenizer, 0, max_tokens=2000)
    return PackedTokens(tmp_path / "t.bin", sequence_length=8)


def nan_loss(loss: torch.Tensor) -> torch.Tensor:
    return loss * math.nan


def infinite_loss(loss: torch.Tensor) -> torch.Tensor:
    return loss + math.inf


def nan_gradient(loss: torch.Tensor) -> torch.Tensor:
    return loss + (loss * 0).sqrt()  # Of which the value is 0, and the slope infinite.


def faulty(run: Run, faults: dict[int, int], fault: Fault = nan_loss) -> tuple[Run, list[int]]:
    """The run with a fault at some steps, so many times each, and a list that the steps it comes to are added to."""
    left, steps = dict(faults), list[int]()

    def objective(batch: Batch) -> Terms:
        step = (batch.first - run.first_sequence) // run.spec.batch_size
        steps.append(step)
        terms = run.objective(batch)
        if left.get(step, 0) == 0:
            return terms
        left[step] -= 1
        return Terms(fault(terms.loss))

    return with_objective(run, objective), steps


def trained(run: Run, folder: Path, **more: object) -> tuple[dict[int, float], list[Rollback], list[int]]:
    """Trains it; returns its curve, its rollbacks, and the points in the order in which they were measured."""
    curve, rollbacks, order = dict[int, float](), list[Rollback](), list[int]()
    measure = curve_into(run, curve)

    def measure_once(tokens: int) -> None:
        order.append(tokens)
        measure(tokens)

    settings = {"measure": measure_once, "progress": lambda _: None, **more}
    train(run, checkpoints=folder, rolled_back=rollbacks.append, **settings)  # type: ignore[arg-type]
    return curve, rollbacks, order


@pytest.mark.parametrize(
    ("fault", "quantity", "value"),
    [
        (nan_loss, "the training loss", "nan"),
        (infinite_loss, "the training loss", "inf"),
        (nan_gradient, "the gradient's norm", "nan"),
    ],
)
def test_a_fault_that_passes_leaves_no_trace_but_its_record(
    data: PackedTokens, tmp_path: Path, fault: Fault, quantity: str, value: str
) -> None:
    whole, disturbed = new_run(data, SELDOM, first_sequence=9), new_run(data, SELDOM, first_sequence=9)
    expected, none, _ = trained(whole, tmp_path / "whole")
    run, steps = faulty(disturbed, {5: 2, 9: 1}, fault)
    curve, rollbacks, order = trained(run, tmp_path / "disturbed")
    assert none == []
    assert (curve, order) == (expected, [0, 96, 224, 320])
    assert torch.equal(weights(disturbed), weights(whole))
    assert steps == [*range(6), 3, 4, 5, 3, 4, 5, *range(6, 10), 7, 8, 9]
    assert rollbacks == [
        Rollback(step=step, first_sequence=9 + 4 * step, quantity=quantity, value=value, to_step=to_step)  # type: ignore[arg-type]
        for step, to_step in ((5, 3), (5, 3), (9, 7))
    ]


def test_a_fault_that_stays_fails_the_run_with_its_step_and_batch(data: PackedTokens, tmp_path: Path) -> None:
    run, steps = faulty(new_run(data, SELDOM, first_sequence=9), {5: 100})
    said = r"^the training loss is nan at step 5 \(batch from sequence 29\), tried 3 times$"
    with pytest.raises(TrainingDiverged, match=said):
        trained(run, tmp_path / "run")
    assert steps == [*range(6), 3, 4, 5, 3, 4, 5]
    assert max(path.name for path in (tmp_path / "run").iterdir()) == "step-000000003"


def test_a_run_that_fails_earlier_on_its_way_back_has_not_come_further(data: PackedTokens, tmp_path: Path) -> None:
    run, steps = faulty(new_run(data, SELDOM), {5: 1})

    def at_4_on_the_way_back(batch: Batch) -> Terms:
        terms = run.objective(batch)
        return Terms(nan_loss(terms.loss)) if batch.first == 16 and 5 in steps else terms

    with pytest.raises(TrainingDiverged, match=r"at step 4 \(batch from sequence 16\), tried 3 times$"):
        trained(with_objective(run, at_4_on_the_way_back), tmp_path / "run")
    assert steps == [*range(6), 3, 4, 3, 4]


def test_without_rollbacks_the_first_fault_is_the_last(data: PackedTokens, tmp_path: Path) -> None:
    spec = SELDOM.model_copy(update={"rollbacks": 0})
    run, steps = faulty(new_run(data, spec), {0: 1})
    before = weights(run)
    with pytest.raises(TrainingDiverged, match=r"^the training loss is nan at step 0 \(batch from sequence 0\)$"):
        trained(run, tmp_path / "run")
    assert steps == [0]
    assert torch.equal(weights(run), before)


@pytest.mark.parametrize("at", [0, 224])
def test_a_measurement_that_is_not_finite_is_made_again(data: PackedTokens, tmp_path: Path, at: int) -> None:
    whole, disturbed = new_run(data, SELDOM), new_run(data, SELDOM)
    expected, _, _ = trained(whole, tmp_path / "whole")
    curve, times = dict[int, float](), list[int]()
    measure = curve_into(disturbed, curve)

    def sometimes(tokens: int) -> None:
        times.append(tokens)
        if tokens == at and times.count(at) == 1:
            raise TrainingDiverged("the validation loss", math.nan, tokens // 32, 0)
        measure(tokens)

    _, rollbacks, _ = trained(disturbed, tmp_path / "run", measure=sometimes)
    assert curve == expected
    assert torch.equal(weights(disturbed), weights(whole))
    assert [(each.quantity, each.step, each.to_step) for each in rollbacks] == [
        ("the validation loss", at // 32, 3 if at else 0)
    ]


def test_a_damaged_checkpoint_is_passed_over_on_the_way_back(data: PackedTokens, tmp_path: Path) -> None:
    whole, disturbed = new_run(data, SELDOM), new_run(data, SELDOM)
    expected, _, _ = trained(whole, tmp_path / "whole")
    run, steps = faulty(disturbed, {8: 1})
    measure_only = run.objective

    def damage_first(batch: Batch) -> Terms:
        if batch.first == 32 and steps.count(8) == 0:
            tensors = tmp_path / "run" / "step-000000007" / "tensors.safetensors"
            damaged = bytearray(tensors.read_bytes())
            damaged[-1] ^= 1
            tensors.write_bytes(damaged)
        return measure_only(batch)

    curve, rollbacks, order = trained(with_objective(run, damage_first), tmp_path / "run")
    assert [each.to_step for each in rollbacks] == [3]
    assert (curve, order) == (expected, [0, 96, 224, 320]), "what was measured is not measured again"
    assert torch.equal(weights(disturbed), weights(whole))


def test_a_checkpoint_of_weights_that_are_not_finite_is_never_written(data: PackedTokens, tmp_path: Path) -> None:
    spec = TrainingSpec.model_validate({**SELDOM.model_dump(), "peak_learning_rate": 1e300, "weight_decay": 0})
    with pytest.raises(TrainingDiverged, match=r"is (nan|inf) at step 1 .*, tried 3 times$"):
        trained(new_run(data, spec), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-000000000"]


def test_rollbacks_stay_on_record_over_an_interruption(data: PackedTokens, tmp_path: Path) -> None:
    run, _ = faulty(new_run(data, SELDOM), {5: 1})
    answers = iter([False] * 9 + [True])
    with pytest.raises(Interrupted):
        trained(run, tmp_path / "first", interrupted=lambda: next(answers))
    _, rollbacks, _ = trained(new_run(data, SELDOM), tmp_path / "next", earlier_checkpoints=[tmp_path / "first"])
    assert [(each.step, each.to_step) for each in rollbacks] == [(5, 3)]
