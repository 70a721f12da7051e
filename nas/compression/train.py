"""The retraining loop: one for trials and promotions, and for the pretraining of the demo's teacher.

A run is "until N tokens" of a schedule that spans all of them. It can be killed at any moment: it goes on from
its newest checkpoint and, on the same device, ends with the same bits as a run left alone. A loss or a gradient that is
not finite takes it back to its newest checkpoint.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.compression.batches_ahead import BatchesAhead
from nas.compression.data import Batch, PackedTokens
from nas.compression.gradients import Objective, accumulate
from nas.compression.recompute import layers_recomputed
from nas.compression.telemetry import Meter
from nas.compression.telemetry import Progress as Progress
from nas.compression.training_state import capture, newest_state, restore, write_state
from nas.errors import Interrupted, TrainingDiverged
from nas.training_record import Rollback
from nas.training_spec import RunSpec

logger = logging.getLogger(__name__)

_WITH_FUSED_ADAMW = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run. `first_sequence` is the place in the shuffled order at which it begins.

    `model` holds all that is trained, of whatever kind, and `flops_per_token` are those of one step; 0 where unknown.
    It ends at `until_tokens` (completed to a whole step), or with the spec's budget; the schedule spans the latter.
    """

    model: torch.nn.Module
    objective: Objective
    data: PackedTokens
    spec: RunSpec
    seed: int
    device: torch.device
    micro_batch_size: int
    first_sequence: int = 0
    until_tokens: int | None = None
    flops_per_token: float = 0.0

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
    rolled_back: Callable[[Rollback], None] = lambda _: None,
) -> None:
    """Trains `run.model` in place to the end of the run.

    `measure(tokens)` is called at the spec's measuring points, 0 tokens included, before the checkpoint of that
    step is written, and `saved()` after; after an interruption it is called again for points behind the newest
    checkpoint. Once `interrupted` says so, the state is saved before the next step, and Interrupted raised.

    On a loss, gradient or weight that is not finite, and on TrainingDiverged from `measure`, it goes back to the newest
    checkpoint before anything is stepped on or saved, and tells `rolled_back`, which at the beginning is told what is
    on record from earlier attempts. Raises TrainingDiverged when that was done as often as the spec says and the run
    does not get past the step, and CheckpointError if a checkpoint cannot be read back.
    """
    trainer = _Trainer(run, [checkpoints, *earlier_checkpoints], measure, saved)
    if not trainer.resume() and interrupted():
        raise Interrupted  # A state of step 0 would say that it was measured.
    for rollback in trainer.rollbacks:
        rolled_back(rollback)
    meter = Meter(run.flops_per_token, run.device)
    with BatchesAhead(trainer.read, run.last_step) as batches:
        while True:
            try:
                trainer.measure_and_save()
                while trainer.step < run.last_step:
                    trainer.take_step(batches.of_step(trainer.step))
                    meter.step_taken(run.tokens_per_step, batches.seconds_waited)
                    if meter.is_due or trainer.step == run.last_step:
                        progress(meter.report(trainer.tokens, run.last_step * run.tokens_per_step, trainer.loss))
                    trainer.measure_and_save()
                    if trainer.step < run.last_step and interrupted():
                        trainer.save()
                        raise Interrupted(trainer.step)
                return
            except TrainingDiverged as error:
                rolled_back(trainer.roll_back(error))


class _Trainer:
    """A model and its optimizer, `step` steps from the start, with checkpoints behind them in the first of `folders`.

    `loss` is the mean training loss of the last step's batch in nats per token.
    """

    def __init__(
        self, run: Run, folders: list[Path], measure: Callable[[int], None], saved: Callable[[], None]
    ) -> None:
        self._run, self._folders, self._measure, self._saved = run, folders, measure, saved
        self._parameters = list(run.model.parameters())
        self._optimizer = _optimizer(self._parameters, run.spec)
        self._measuring_steps = run.spec.measuring_steps(run.data.sequence_length) | {0, run.last_step}
        self._measured_until = self._saved_at = self._failed_at = -1
        self._last_saved = time.monotonic()
        self._tries = 0
        self.step, self.loss = 0, math.nan
        self.rollbacks: tuple[Rollback, ...] = ()

    @property
    def tokens(self) -> int:
        return self.step * self._run.tokens_per_step

    def resume(self) -> bool:
        """Goes to the newest checkpoint of all attempts; says whether there is one."""
        state = newest_state(self._folders)
        if state is None:
            return False
        restore(state, self._run.model, self._optimizer)
        self.step = self._saved_at = state.step
        # It was written after its measurement. What was measured once stays as it is: the first record counts.
        self._measured_until = max(self._measured_until, state.step)
        self.rollbacks = self.rollbacks or state.rollbacks
        return True

    def read(self, step: int) -> Batch:
        """The batch of a step, on the CPU."""
        return self._run.data.training_batch(self._position(step), self._run.spec.batch_size, self._run.seed)

    def take_step(self, batch: Batch) -> None:
        """One optimizer step. Raises TrainingDiverged before it, the model unchanged."""
        run, step = self._run, self.step
        with layers_recomputed(run.model) if run.spec.gradient_checkpointing else nullcontext():
            on_device = batch.to(run.device)
            loss = accumulate(run.objective, on_device, run.micro_batch_size, run.tokens_per_step, self._parameters)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, run.spec.clip_norm).item()
        self._check_finite("the training loss", loss)
        self._check_finite("the gradient's norm", norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(run.spec, step, run.num_steps)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step, self.loss = step + 1, loss

    def measure_and_save(self) -> None:
        """Measures and saves at a measuring point, saves anywhere when the last checkpoint is old enough."""
        is_due = self.step in self._measuring_steps and self.step > self._saved_at
        if is_due and self.step > self._measured_until:
            self._measure(self.tokens)
            self._measured_until = self.step
        if is_due or time.monotonic() - self._last_saved >= self._run.spec.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        """Writes a checkpoint of where it is, if there is none. Raises TrainingDiverged if it would be of no use."""
        if self.step == self._saved_at:
            return
        # A step can overflow although its gradient did not: a checkpoint of that would be no way back.
        norms = torch.stack([parameter.detach().norm() for parameter in self._parameters])
        last = max(self.step - 1, 0)
        self._check_finite("the weights' norm", norms.norm().item(), last)
        state = capture(self.step, self._run.model, self._optimizer, self.rollbacks)
        write_state(self._folders[0], state, keep=self._run.spec.checkpoints_kept)
        self._saved()
        self._saved_at, self._last_saved = self.step, time.monotonic()

    def roll_back(self, error: TrainingDiverged) -> Rollback:
        """Goes to the newest checkpoint, or stays at the start; raises the error if that was done often enough."""
        if error.step > self._failed_at:
            self._failed_at, self._tries = error.step, 0
        self._tries += 1
        if self._tries > self._run.spec.rollbacks:
            raise TrainingDiverged(
                error.quantity, error.value, error.step, error.first_sequence, self._tries
            ) from error
        self._optimizer.zero_grad(set_to_none=True)
        if not self.resume() and self.step > 0:
            raise error  # All checkpoints are damaged.
        rollback = Rollback.model_validate(
            {
                "step": error.step,
                "first_sequence": error.first_sequence,
                "quantity": error.quantity,
                "value": str(error.value),
                "to_step": self.step,
            }
        )
        self.rollbacks = (*self.rollbacks, rollback)
        logger.warning("%s; it goes on from step %d", error, self.step)
        return rollback

    def _check_finite(self, quantity: str, value: float, of_step: int | None = None) -> None:
        """Of the batch of the step that comes, unless told whose; raises TrainingDiverged."""
        if not math.isfinite(value):
            batch_of = self.step if of_step is None else of_step
            raise TrainingDiverged(quantity, value, self.step, self._position(batch_of))

    def _position(self, step: int) -> int:
        return self._run.first_sequence + step * self._run.spec.batch_size


def learning_rate(spec: RunSpec, step: int, num_steps: int) -> float:
    """Linear warm-up (peak / W at step 0), then half a cosine from the peak to the minimum; `step` counts from 0."""
    warmup = min(spec.warmup_steps, num_steps // 2)
    if step < warmup:
        return spec.peak_learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(num_steps - 1 - warmup, 1)
    span = spec.peak_learning_rate - spec.min_learning_rate
    return spec.min_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _optimizer(parameters: Sequence[torch.nn.Parameter], spec: RunSpec) -> torch.optim.AdamW:
    # Norm weights and biases (one dimension) are not decayed: pulling a scale towards zero is no regulariser.
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    # One kernel for all of a step where the device has it, else one for each of its operations, over many parameters.
    fused = all(parameter.device.type in _WITH_FUSED_ADAMW for parameter in parameters)
    betas = (spec.beta1, spec.beta2)
    return torch.optim.AdamW(groups, lr=spec.peak_learning_rate, betas=betas, fused=fused, foreach=not fused)
