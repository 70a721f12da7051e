"""A student between its cut and its export: built from tensors, distilled from a teacher, measured on the way."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nas.architecture import Architecture
from nas.compression.checkpoint import build_model, own_tensors
from nas.compression.data import Batch, PackedTokens
from nas.compression.evaluate import Evaluation, evaluate
from nas.compression.head import SplitModel
from nas.compression.hidden_states import HiddenStates, Projection
from nas.compression.objective import DistillationObjective
from nas.compression.teacher import Teacher
from nas.compression.train import Progress, Run, train
from nas.distillation_spec import DistillationSpec
from nas.errors import TrainingDiverged
from nas.families import family_named
from nas.training_cost import flops_per_token
from nas.training_record import Rollback
from nas.training_spec import TrainingSpec


@dataclass(frozen=True)
class Distillation:
    """One retraining of one student. `record(tokens, evaluation)` may see a point twice after an interruption.

    `teacher_shape` is that of the model behind `teacher`, which `runs_live` or has left its answers.
    """

    config: dict[str, Any]
    teacher: Teacher
    teacher_shape: Architecture
    data: PackedTokens
    validation: Batch
    training: TrainingSpec
    until_tokens: int
    first_sequence: int
    seed: int
    device: torch.device
    dtype: torch.dtype
    losses: DistillationSpec = field(default_factory=DistillationSpec)
    runs_live: bool = True

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
        rolled_back: Callable[[Rollback], None] = lambda _: None,
    ) -> tuple[dict[str, torch.Tensor], int]:
        """The weights after retraining, float32 on the CPU, and the tokens they have seen in this run.

        Raises Interrupted, its state saved, once `interrupted` says so.
        """
        model = build_model(self.config, weights, self.device)
        student = SplitModel(model, self.dtype, self.device)

        def measure(tokens: int) -> None:
            evaluation = evaluate(
                student, self.validation, teacher=self.teacher, micro_batch_size=self.micro_batch_size
            )
            if not math.isfinite(evaluation.loss):
                step = tokens // (self.training.batch_size * self.data.sequence_length)
                last_batch = self.first_sequence + max(step - 1, 0) * self.training.batch_size
                raise TrainingDiverged("the validation loss", evaluation.loss, step, last_batch)
            record(tokens, evaluation)

        run = self._run(student)
        train(
            run,
            checkpoints=checkpoints,
            earlier_checkpoints=earlier_checkpoints,
            measure=measure,
            progress=progress,
            interrupted=interrupted,
            saved=saved,
            rolled_back=rolled_back,
        )
        return {name: tensor.cpu() for name, tensor in own_tensors(model).items()}, run.last_step * run.tokens_per_step

    def _run(self, student: SplitModel) -> Run:
        hidden, trained = self._hidden_states(), student.model
        if hidden is not None:
            trained = torch.nn.ModuleDict({"student": student.model, "projection": hidden.projection})
        return Run(
            model=trained,
            objective=DistillationObjective(student, self.teacher, self.losses, hidden),
            data=self.data,
            spec=self.training,
            seed=self.seed,
            device=self.device,
            micro_batch_size=self.micro_batch_size,
            first_sequence=self.first_sequence,
            until_tokens=self.until_tokens,
            flops_per_token=flops_per_token(
                self._shape, self.teacher_shape if self.runs_live else None, self.data.sequence_length
            ),
        )

    def _hidden_states(self) -> HiddenStates | None:
        """The loss on hidden states, where the spec has one for a student of this depth."""
        teacher, student = self.teacher_shape, self._shape
        layers = (teacher.num_hidden_layers, student.num_hidden_layers)
        terms = self.losses.terms(*layers)
        if not terms:
            return None
        projection = Projection(student.hidden_size, teacher.hidden_size, self.seed).to(self.device)
        return HiddenStates(terms, self.losses.layer_pairs(*layers), self.losses.hidden_loss, projection)

    @property
    def _shape(self) -> Architecture:
        return family_named(self.config["model_type"]).architecture(self.config)
