"""The retraining loop: one for trials and promotions, and for the pretraining of the demo's teacher.

A run is "until N tokens" of a schedule that spans all of them. It can be killed at any moment: it goes on from
its newest checkpoint and, on the same device, ends with the same bits as a run left alone.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.compression.data import Batch, PackedTokens
from nas.compression.training_state import capture, newest_state, restore, write_state
from nas.errors import Interrupted, TrainingDiverged
from nas.training_spec import TrainingSpec

Objective = Callable[[Batch], torch.Tensor]
"""batch -> loss summed over its tokens, float32, with a graph to the model's parameters"""


@dataclass(frozen=True)
class Progress:
    """Where a run stands; `tokens_per_second` covers the time since the last report."""

    tokens: int
    total_tokens: int
    training_loss: float
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run. `first_sequence` is the place in the shuffled order at which it begins.

    It ends at `until_tokens` (completed to a whole step), or with the spec's budget; the schedule spans the latter.
    """

    model: torch.nn.Module
    objective: Objective
    data: PackedTokens
    spec: TrainingSpec
    seed: int
    device: torch.device
    micro_batch_size: int
    first_sequence: int = 0
    until_tokens: int | None = None

    @property
    def tokens_per_step(self) -> int:
        return self.spec.batch_size * self.data.sequence_length

    @property
    def num_steps(self) -> int:
        """The steps of the whole schedule."""
        return self.spec.num_steps(self.data.sequence_length)

    @property
    def last_step(self) -> int:
        """The step at which this run ends."""
        if self.until_tokens is None:
            return self.num_steps
        return min(math.ceil(self.until_tokens / self.tokens_per_step), self.num_steps)


def train(
    run: Run,
    *,
    checkpoints: Path,
    earlier_checkpoints: Iterable[Path] = (),
    measure: Callable[[int], None],
    progress: Callable[[Progress], None],
    interrupted: Callable[[], bool] = lambda: False,
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Trains `run.model` in place to the end of the run.

    `measure(tokens)` is called at the spec's measuring points, 0 tokens included, before the checkpoint of that
    step is written, and `saved()` after; after an interruption it is called again for points behind the newest
    checkpoint. Once `interrupted` says so, the state is saved before the next step, and Interrupted raised. Raises
    TrainingDiverged before a step on a non-finite loss or gradient.
    """
    optimizer = _optimizer(run.model, run.spec)
    step = 0
    if state := newest_state([checkpoints, *earlier_checkpoints]):
        restore(state, run.model, optimizer)
        step = state.step
        del state
    elif interrupted():
        raise Interrupted  # A state of step 0 would say that it was measured.
    else:
        measure(0)
    measuring_steps = run.spec.measuring_steps(run.data.sequence_length) | {run.last_step}
    reported_at, reported_step = time.monotonic(), step
    last_saved = time.monotonic()
    while step < run.last_step:
        loss = _step(run, optimizer, step)
        step += 1
        now = time.monotonic()
        if now - reported_at >= 0.5 or step == run.last_step:
            rate = (step - reported_step) * run.tokens_per_step / max(now - reported_at, 1e-9)
            progress(Progress(step * run.tokens_per_step, run.last_step * run.tokens_per_step, loss, rate))
            reported_at, reported_step = now, step
        if step in measuring_steps:
            measure(step * run.tokens_per_step)
        ends_here = step < run.last_step and interrupted()
        if ends_here or step in measuring_steps or now - last_saved >= run.spec.checkpoint_seconds:
            write_state(checkpoints, capture(step, run.model, optimizer))
            saved()
            last_saved = time.monotonic()
        if ends_here:
            raise Interrupted(step)


def learning_rate(spec: TrainingSpec, step: int, num_steps: int) -> float:
    """Linear warm-up (peak / W at step 0), then half a cosine from the peak to the minimum; `step` counts from 0."""
    warmup = min(spec.warmup_steps, num_steps // 2)
    if step < warmup:
        return spec.peak_learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(num_steps - 1 - warmup, 1)
    span = spec.peak_learning_rate - spec.min_learning_rate
    return spec.min_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _optimizer(model: torch.nn.Module, spec: TrainingSpec) -> torch.optim.AdamW:
    # Norm weights and biases (one dimension) are not decayed: pulling a scale towards zero is no regulariser.
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=spec.peak_learning_rate, betas=(spec.beta1, spec.beta2), fused=True)


def _step(run: Run, optimizer: torch.optim.Optimizer, step: int) -> float:
    """One optimizer step; returns the mean training loss of its batch in nats per token."""
    first_sequence = run.first_sequence + step * run.spec.batch_size
    batch = run.data.training_batch(first_sequence, run.spec.batch_size, run.seed).to(run.device)
    loss_sum = 0.0
    for micro_batch in batch.split(run.micro_batch_size):
        # Divided by the tokens of the whole batch: the micro-batch size changes memory, not the gradient.
        loss = run.objective(micro_batch) / run.tokens_per_step
        loss.backward()
        loss_sum += loss.item()
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.spec.clip_norm).item()
    for quantity, value in (("the training loss", loss_sum), ("the gradient's norm", norm)):
        if not math.isfinite(value):
            raise TrainingDiverged(quantity, value, step, first_sequence)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(run.spec, step, run.num_steps)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss_sum
