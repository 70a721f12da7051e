"""Teacher correction: a whole model trained on the text itself, before students are cut out of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.compression.checkpoint import load_model, own_tensors
from nas.compression.chunked_loss import chunked_loss
from nas.compression.data import Batch, PackedTokens
from nas.compression.evaluate import Evaluation, evaluate
from nas.compression.gradients import Terms
from nas.compression.head import SplitModel
from nas.compression.losses import LossAndGradient, language_modeling_with_gradient
from nas.compression.room import Room
from nas.compression.train import Progress, Run, train
from nas.errors import TrainingDiverged
from nas.model_folder import ModelFolder
from nas.training_cost import flops_per_token
from nas.training_record import Rollback
from nas.training_spec import RunSpec


@dataclass(frozen=True)
class Correction:
    """One run of language modelling. `record(tokens, evaluation)` may see a point twice after an interruption."""

    teacher: ModelFolder
    data: PackedTokens
    validation: Batch
    training: RunSpec
    seed: int
    device: torch.device
    dtype: torch.dtype

    def run(
        self,
        *,
        checkpoints: Path,
        earlier_checkpoints: tuple[Path, ...],
        record: Callable[[int, Evaluation], None],
        progress: Callable[[Progress], None],
        interrupted: Callable[[], bool] = lambda: False,
        saved: Callable[[], None] = lambda: None,
        rolled_back: Callable[[Rollback], None] = lambda _: None,
    ) -> dict[str, torch.Tensor]:
        """The teacher's weights behind the run, float32 on the CPU.

        Raises Interrupted, its state saved, once `interrupted` says so, and TrainingDiverged.
        """
        model = load_model(self.teacher, self.device)
        split = SplitModel(model, self.dtype, self.device)
        shape, length = self.teacher.architecture, self.data.sequence_length
        micro_batch_size = self.training.fitting_micro_batch(length, shape.vocab_size)

        def measure(tokens: int) -> None:
            evaluation = evaluate(split, self.validation, micro_batch_size=micro_batch_size)
            if not math.isfinite(evaluation.loss):
                step = tokens // (self.training.batch_size * length)
                last_batch = max(step - 1, 0) * self.training.batch_size
                raise TrainingDiverged("the validation loss", evaluation.loss, step, last_batch)
            record(tokens, evaluation)

        run = Run(
            model=model,
            objective=TextObjective(split),
            data=self.data,
            spec=self.training,
            seed=self.seed,
            device=self.device,
            micro_batch_size=micro_batch_size,
            flops_per_token=flops_per_token(shape, None, length),
        )
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
        return {name: tensor.cpu() for name, tensor in own_tensors(model).items()}


class TextObjective:
    """The cross-entropy with the text's own next tokens, summed over a micro-batch."""

    def __init__(self, model: SplitModel) -> None:
        self._model = model
        self._room = Room()

    def __call__(self, batch: Batch) -> Terms:
        labels_N = batch.targets_BT.flatten()

        def losses(logits_NV: torch.Tensor, rows: slice) -> LossAndGradient:
            return language_modeling_with_gradient(logits_NV, labels_N[rows], self._room)

        return Terms(chunked_loss(self._model.states(batch.inputs_BT).flatten(0, 1), self._model.head, losses))
