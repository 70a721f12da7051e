"""What one micro-batch costs a student: its losses on logits, on the text, and on hidden states.

Sums over tokens; the loop divides by the tokens of the whole batch. N tokens, V vocabulary entries.
"""

import torch

from nas.compression.chunked_loss import chunked_loss
from nas.compression.data import Batch
from nas.compression.gradients import Terms
from nas.compression.head import SplitModel
from nas.compression.hidden_states import HiddenStates, listening
from nas.compression.losses import LossAndGradient, language_modeling_with_gradient
from nas.compression.room import Room
from nas.compression.teacher import Teacher
from nas.distillation_spec import DistillationSpec


class DistillationObjective:
    """The loss of P1, section 3: w L_CLM + L_logits + alpha L_is, by default L_logits alone."""

    def __init__(
        self, student: SplitModel, teacher: Teacher, spec: DistillationSpec, hidden: HiddenStates | None
    ) -> None:
        self._student = student
        self._teacher = teacher
        self._spec = spec
        self._hidden = hidden
        self._room = Room()

    def __call__(self, batch: Batch) -> Terms:
        to_teacher = self._hidden.of_teacher() if self._hidden else []
        to_student = self._hidden.of_student() if self._hidden else []
        token_losses, of_teacher = self._teacher.targets(batch, to_teacher)
        with listening(self._student, to_student) as of_student:
            states_ND = self._student.states(batch.inputs_BT).flatten(0, 1)
        labels_N, weight = batch.targets_BT.flatten(), self._spec.language_modeling
        on_logits = torch.zeros((), dtype=torch.float64, device=states_ND.device)

        def losses(student_NV: torch.Tensor, rows: slice) -> LossAndGradient:
            losses_N, gradient_NV = token_losses(student_NV, rows)
            on_logits.add_(losses_N.sum(dtype=torch.float64))
            if weight:
                of_text_N, by_text_NV = language_modeling_with_gradient(student_NV, labels_N[rows], self._room)
                losses_N, gradient_NV = (
                    losses_N.add(of_text_N, alpha=weight),
                    gradient_NV.add_(by_text_NV, alpha=weight),
                )
            return losses_N, gradient_NV

        loss = chunked_loss(states_ND, self._student.head, losses)
        if self._hidden is None:
            return Terms(loss)
        on_states = self._hidden.loss(of_student, of_teacher)
        if self._spec.hidden_weight is not None:
            return Terms(loss + self._spec.hidden_weight * on_states)
        return Terms(loss, balanced=on_states, reference=on_logits.item())
