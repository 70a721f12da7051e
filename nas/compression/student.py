"""A student between its cut and its export: built from tensors, distilled from a teacher, measured on the way."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.compression.checkpoint import build_model, own_tensors
from nas.compression.data import Batch, PackedTokens
from nas.compression.evaluate import Evaluation, evaluate
from nas.compression.losses import forward_kl_BT
from nas.compression.teacher import LiveTeacher, logits_of
from nas.compression.train import Objective, Progress, Run, train
from nas.errors import TrainingDiverged
from nas.training_spec import TrainingSpec


@dataclass(frozen=True)
class Distillation:
    """One retraining of one student. `record(tokens, evaluation)` may see a point twice after an interruption."""

    config: dict[str, Any]
    teacher: LiveTeacher
    data: PackedTokens
    validation: Batch
    training: TrainingSpec
    until_tokens: int
    first_sequence: int
    seed: int
    device: torch.device
    dtype: torch.dtype

    @property
    def micro_batch_size(self) -> int:
        return self.training.fitting_micro_batch(self.data.sequence_length, self.config["vocab_size"])

    def run(
        self,
        weights: Mapping[str, torch.Tensor],
        *,
        checkpoints: Path,
        earlier_checkpoints: tuple[Path, ...],
        record: Callable[[int, Evaluation], None],
        progress: Callable[[Progress], None],
        interrupted: Callable[[], bool] = lambda: False,
        saved: Callable[[], None] = lambda: None,
    ) -> tuple[dict[str, torch.Tensor], int]:
        """The weights after retraining, float32 on the CPU, and the tokens they have seen in this run.

        The only loss is forward KL on logits (P1, table 15). Raises Interrupted, its state saved, once `interrupted`
        says so.
        """
        model = build_model(self.config, weights, self.device)

        def logits(inputs_BT: torch.Tensor) -> torch.Tensor:
            return logits_of(model, inputs_BT, self.dtype, self.device)

        def objective(batch: Batch) -> torch.Tensor:
            return forward_kl_BT(logits(batch.inputs_BT), self.teacher(batch.inputs_BT)).sum()

        def measure(tokens: int) -> None:
            evaluation = evaluate(
                logits, self.validation, teacher_logits=self.teacher, micro_batch_size=self.micro_batch_size
            )
            if not math.isfinite(evaluation.loss):
                step = tokens // (self.training.batch_size * self.data.sequence_length)
                raise TrainingDiverged("the validation loss", evaluation.loss, step, self.first_sequence)
            record(tokens, evaluation)

        run = self._run(model, objective)
        train(
            run,
            checkpoints=checkpoints,
            earlier_checkpoints=earlier_checkpoints,
            measure=measure,
            progress=progress,
            interrupted=interrupted,
            saved=saved,
        )
        return {name: tensor.cpu() for name, tensor in own_tensors(model).items()}, run.last_step * run.tokens_per_step

    def _run(self, model: torch.nn.Module, objective: Objective) -> Run:
        return Run(
            model=model,
            objective=objective,
            data=self.data,
            spec=self.training,
            seed=self.seed,
            device=self.device,
            micro_batch_size=self.micro_batch_size,
            first_sequence=self.first_sequence,
            until_tokens=self.until_tokens,
        )
