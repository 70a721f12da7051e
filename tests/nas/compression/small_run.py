"""A small run of the training loop, the same wherever it is made, and a process that kills itself in its midst."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from nas.compression.data import Batch, PackedTokens
from nas.compression.gradients import Terms
from nas.compression.train import Run, train
from nas.training_spec import TrainingSpec

SPEC = TrainingSpec(
    tokens=8 * 4 * 10, batch_size=4, peak_learning_rate=1e-2, warmup_steps=2, measurements=3, checkpoint_seconds=0
)
"""10 steps of 32 tokens, measured at 0, 96, 224 and 320."""


def new_model() -> torch.nn.Module:
    torch.manual_seed(7)
    return torch.nn.Sequential(
        torch.nn.Embedding(320, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 320)
    )


def cross_entropy(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Summed over tokens."""
    return F.cross_entropy(model(batch.inputs_BT).flatten(0, 1), batch.targets_BT.flatten(), reduction="sum")


def new_run(data: PackedTokens, spec: TrainingSpec = SPEC, **changes: int) -> Run:
    model = new_model()

    def objective(batch: Batch) -> Terms:
        return Terms(cross_entropy(model, batch))

    cpu = torch.device("cpu")
    settings = {"micro_batch_size": spec.batch_size, **changes}
    return Run(model=model, objective=objective, data=data, spec=spec, seed=3, device=cpu, **settings)


def with_objective(run: Run, objective: Callable[[Batch], Terms]) -> Run:
    return Run(**{**vars(run), "objective": objective})


def weights(run: Run) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


def curve_into(run: Run, curve: dict[int, float]) -> Callable[[int], None]:
    """Measures the loss on fixed sequences, to the last bit."""

    @torch.no_grad()
    def measure(tokens: int) -> None:
        curve[tokens] = cross_entropy(run.model, run.data.first(6)).item()

    return measure


def run_until_killed(
    data: Path, checkpoints: Path, spec: TrainingSpec, at_step: int | None, at_flush: int | None
) -> None:
    """Kills its process within a step, or at one of the flushes of which a checkpoint has several."""
    torch.set_num_threads(1)
    flush, num_flushes = os.fsync, 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def flush_or_die(descriptor: int) -> None:
        nonlocal num_flushes
        num_flushes += 1
        if num_flushes == at_flush:
            die()
        flush(descriptor)

    os.fsync = flush_or_die  # type: ignore[assignment]
    run = new_run(PackedTokens(data, sequence_length=8), spec)

    def objective(batch: Batch) -> Terms:
        if at_step is not None and batch.first == at_step * spec.batch_size:
            die()
        return run.objective(batch)

    train(with_objective(run, objective), checkpoints=checkpoints, measure=lambda _: None, progress=lambda _: None)
