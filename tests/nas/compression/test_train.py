"""The loop: the same bits after an interruption, gradients that do not depend on micro-batches, honest failures."""

import itertools
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from nas.compression.data import Batch, PackedTokens, write_token_file
from nas.compression.losses import cross_entropy_BT
from nas.compression.train import Run, learning_rate, train
from nas.errors import TrainingDiverged
from nas.spec import TrainingSpec

SPEC = TrainingSpec(
    tokens=8 * 4 * 10, batch_size=4, peak_learning_rate=1e-2, warmup_steps=2, measurements=3, checkpoint_seconds=0
)


@pytest.fixture
def data(tmp_path: Path, tokenizer: Tokenizer, text_file: Path) -> PackedTokens:
    write_token_file(tmp_path / "t.bin", iter([text_file.read_text()]), tokenizer, 0, max_tokens=2000)
    return PackedTokens(tmp_path / "t.bin", sequence_length=8)


def new_model() -> torch.nn.Module:
    torch.manual_seed(7)
    return torch.nn.Sequential(
        torch.nn.Embedding(320, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 320)
    )


def new_run(data: PackedTokens, spec: TrainingSpec = SPEC, **changes: int) -> Run:
    model = new_model()

    def objective(batch: Batch) -> torch.Tensor:
        return cross_entropy_BT(model(batch.inputs_BT), batch.targets_BT).sum()

    cpu = torch.device("cpu")
    return Run(model=model, objective=objective, data=data, spec=spec, seed=3, device=cpu, **changes)


def nothing(_: object) -> None:
    pass


def weights(run: Run) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


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
    whole, split = new_run(data), new_run(data, SPEC.model_copy(update={"micro_batch_size": 1}))
    for name, run in (("whole", whole), ("split", split)):
        train(run, checkpoints=tmp_path / name, measure=nothing, progress=nothing)
    torch.testing.assert_close(weights(whole), weights(split), rtol=0, atol=2e-5)
    assert (weights(whole) - torch.cat([p.detach().flatten() for p in new_model().parameters()])).abs().max() > 1e-2


def test_one_step_equals_torchs_own_adamw(data: PackedTokens, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"tokens": 32, "weight_decay": 0.0, "clip_norm": 1e9})
    run, reference = new_run(data, spec), new_model()
    train(run, checkpoints=tmp_path, measure=nothing, progress=nothing)
    batch = data.training_batch(0, 4, seed=3)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    cross_entropy_BT(reference(batch.inputs_BT), batch.targets_BT).mean().backward()
    optimizer.step()
    expected = torch.cat([parameter.detach().flatten() for parameter in reference.parameters()])
    torch.testing.assert_close(weights(run), expected, rtol=0, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_before_the_step(data: PackedTokens, tmp_path: Path) -> None:
    run = new_run(data)
    before = weights(run)
    broken = Run(**{**vars(run), "objective": lambda batch: run.objective(batch) * float("nan")})
    with pytest.raises(TrainingDiverged, match=r"the training loss is nan at step 0 \(batch from sequence 0\)"):
        train(broken, checkpoints=tmp_path, measure=nothing, progress=nothing)
    assert torch.equal(weights(run), before)


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
    silent = Run(**{**vars(run), "objective": lambda batch: run.objective(batch) * 0})
    train(silent, checkpoints=tmp_path, measure=nothing, progress=nothing)
    for (name, after), before in zip(run.model.named_parameters(), new_model().parameters(), strict=True):
        decayed = before * (1 - 1e-2 * 50.0)
        torch.testing.assert_close(after, decayed if before.dim() == 2 else before, rtol=0, atol=1e-6, msg=name)
