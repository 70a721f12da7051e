"""The loop: the same bits after an interruption, gradients that do not depend on micro-batches, honest failures."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from nas.compression.data import PackedTokens, write_token_file
from nas.compression.gradients import Terms
from nas.compression.train import Run, learning_rate, train
from nas.errors import Interrupted
from nas.training_spec import TrainingSpec
from tests.nas.compression.small_run import SPEC, cross_entropy, new_model, new_run, weights, with_objective


@pytest.fixture
def data(tmp_path: Path, tokenizer: Tokenizer, text_file: Path) -> PackedTokens:
    write_token_file(tmp_path / "t.bin", iter([text_file.read_text()]), tokenizer, 0, max_tokens=2000)
    return PackedTokens(tmp_path / "t.bin", sequence_length=8)


def nothing(_: object) -> None:
    pass


def test_interrupted_run_ends_with_the_same_bits(data: PackedTokens, tmp_path: Path) -> None:
    whole, measured = new_run(data), list[int]()
    train(whole, checkpoints=tmp_path / "whole", measure=measured.append, progress=nothing)
    assert measured == [0, 96, 224, 320]

    measured_in_parts = list[int]()

    def interrupted(tokens: int) -> None:
        if tokens > 200:
            raise KeyboardInterrupt
        measured_in_parts.append(tokens)

    with pytest.raises(KeyboardInterrupt):
        train(new_run(data), checkpoints=tmp_path / "first", measure=interrupted, progress=nothing)
    second = new_run(data)
    train(
        second,
        checkpoints=tmp_path / "second",
        earlier_checkpoints=[tmp_path / "first"],
        measure=measured_in_parts.append,
        progress=nothing,
    )
    assert measured_in_parts == measured
    assert torch.equal(weights(second), weights(whole))


def test_a_run_that_is_told_to_end_saves_its_state_first_and_ends_with_the_same_bits(
    data: PackedTokens, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"checkpoint_seconds": 10_000})
    whole, last, measured = new_run(data, spec), new_run(data, spec), list[int]()
    train(whole, checkpoints=tmp_path / "whole", measure=nothing, progress=nothing)
    earlier = list[Path]()
    # Asked before the first measurement, and after each step: ended within the warm-up, a step later, before the last.
    for step, asked in ((4, [False] * 4), (5, []), (9, [False] * 3)):
        answers, folder = iter([*asked, True]), tmp_path / f"until-{step}"
        with pytest.raises(Interrupted, match=f"^saved at step {step}$"):
            train(
                new_run(data, spec),
                checkpoints=folder,
                earlier_checkpoints=earlier,
                measure=measured.append,
                progress=nothing,
                interrupted=lambda answers=answers: next(answers),  # type: ignore[misc]
            )
        assert max(path.name for path in folder.iterdir()) == f"step-{step:09d}"
        earlier.append(folder)
    train(last, checkpoints=tmp_path / "last", earlier_checkpoints=earlier, measure=measured.append, progress=nothing)
    assert measured == [0, 96, 224, 320]
    assert torch.equal(weights(last), weights(whole))


def test_a_run_that_is_told_to_end_before_it_has_begun_leaves_nothing(data: PackedTokens, tmp_path: Path) -> None:
    """A state of step 0 would say that the loss at 0 tokens was measured."""
    measured = list[int]()
    with pytest.raises(Interrupted, match=r"^nothing was saved$"):
        train(
            new_run(data),
            checkpoints=tmp_path / "saved",
            measure=measured.append,
            progress=nothing,
            interrupted=lambda: True,
        )
    assert measured == []
    assert not (tmp_path / "saved").exists()


def test_stopping_early_is_a_point_on_the_same_curve(data: PackedTokens, tmp_path: Path) -> None:
    whole = new_run(data)
    train(whole, checkpoints=tmp_path / "whole", measure=nothing, progress=nothing)
    half = new_run(data, until_tokens=160)
    train(half, checkpoints=tmp_path / "rungs", measure=nothing, progress=nothing)
    rest = new_run(data, until_tokens=320)
    train(rest, checkpoints=tmp_path / "rungs", measure=nothing, progress=nothing)
    assert torch.equal(weights(rest), weights(whole))
    assert not torch.equal(weights(half), weights(whole))


def test_micro_batches_change_memory_but_not_the_result(data: PackedTokens, tmp_path: Path) -> None:
    whole, split = new_run(data), new_run(data, micro_batch_size=1)
    for name, run in (("whole", whole), ("split", split)):
        train(run, checkpoints=tmp_path / name, measure=nothing, progress=nothing)
    torch.testing.assert_close(weights(whole), weights(split), rtol=0, atol=2e-5)
    assert (weights(whole) - torch.cat([p.detach().flatten() for p in new_model().parameters()])).abs().max() > 1e-2


def test_the_loop_equals_one_written_out(data: PackedTokens, tmp_path: Path) -> None:
    """Batches from where the run begins, the rate of every step, clipping that bites, AdamW's own arithmetic."""
    spec = SPEC.model_copy(update={"tokens": 6 * 32 - 5, "clip_norm": 0.05, "min_learning_rate": 1e-3})
    run, reference = new_run(data, spec, first_sequence=9), new_model()
    train(run, checkpoints=tmp_path, measure=nothing, progress=nothing)

    rates = [5e-3, 1e-2, *(1e-3 + 9e-3 * (1 + math.cos(math.pi * k / 3)) / 2 for k in range(4))]
    decayed = [p for p in reference.parameters() if p.dim() == 2]
    others = [p for p in reference.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    for step, rate in enumerate(rates):
        batch = data.training_batch(9 + 4 * step, 4, seed=3)
        optimizer.zero_grad()
        (cross_entropy(reference, batch) / 32).backward()
        gradients = [p.grad for p in reference.parameters() if p.grad is not None]
        norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients))
        assert norm > 0.05
        for gradient in gradients:
            gradient *= 0.05 / norm
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    expected = torch.cat([parameter.detach().flatten() for parameter in reference.parameters()])
    torch.testing.assert_close(weights(run), expected, rtol=0, atol=1e-5)


def test_whatever_has_parameters_can_be_trained(data: PackedTokens, tmp_path: Path) -> None:
    """A student comes with a learned projection beside it."""
    alone, beside = new_run(data), new_run(data)
    together = torch.nn.ModuleDict({"student": beside.model, "unused": torch.nn.Linear(2, 2)})
    train(alone, checkpoints=tmp_path / "alone", measure=nothing, progress=nothing)
    for until in (160, 320):
        run = Run(**{**vars(beside), "model": together, "until_tokens": until})
        train(run, checkpoints=tmp_path / "beside", measure=nothing, progress=nothing)
    assert torch.equal(weights(beside), weights(alone))


def test_a_checkpoint_is_written_at_every_measurement(data: PackedTokens, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"checkpoint_seconds": 10_000})
    train(new_run(data, spec), checkpoints=tmp_path / "saved", measure=nothing, progress=nothing)
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["step-000000007", "step-000000010"]


def test_learning_rate_warms_up_to_the_peak_and_falls_along_a_cosine_to_the_minimum() -> None:
    spec = TrainingSpec(tokens=1, peak_learning_rate=1.0, min_learning_rate=0.2, warmup_steps=4)
    rates = [learning_rate(spec, step, 25) for step in range(25)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[14] == pytest.approx(0.6)  # halfway down
    assert rates[24] == pytest.approx(0.2)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[4:]))


def test_a_schedule_shorter_than_its_warm_up_still_reaches_the_peak() -> None:
    spec = TrainingSpec(tokens=1, peak_learning_rate=1.0, min_learning_rate=0.0, warmup_steps=40)
    rates = [learning_rate(spec, step, 10) for step in range(10)]
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)


def test_biases_and_norms_are_not_decayed(data: PackedTokens, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"tokens": 32, "weight_decay": 50.0})
    run = new_run(data, spec)
    silent = with_objective(run, lambda batch: Terms(run.objective(batch).loss * 0))
    train(silent, checkpoints=tmp_path, measure=nothing, progress=nothing)
    for (name, after), before in zip(run.model.named_parameters(), new_model().parameters(), strict=True):
        decayed = before * (1 - 1e-2 * 50.0)
        torch.testing.assert_close(after, decayed if before.dim() == 2 else before, rtol=0, atol=1e-6, msg=name)
