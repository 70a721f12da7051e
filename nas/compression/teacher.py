"""The teacher's part in a student's loss, computed live for every batch; cached_teacher.py has the other way.

B sequences, T tokens, N tokens of any sequences, V vocabulary entries.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from nas.compression.chunked_loss import TokenLosses
from nas.compression.data import Batch
from nas.compression.head import SplitModel
from nas.compression.hidden_states import Heard, listening
from nas.compression.losses import (
    LOGITS_LOSSES,
    LogitsLoss,
    LossAndGradient,
    among_top_k,
    forward_kl,
    forward_kl_with_gradient,
    with_gradient,
)
from nas.compression.room import Room
from nas.distillation_spec import DistillationSpec, HiddenTerm

Divergences = Callable[[torch.Tensor, slice], torch.Tensor]
"""(a chunk's logits_NV of the student, float32; which tokens they are of) -> KL(teacher || student) of each, (N,), at
temperature 1, over the whole vocabulary, without a gradient"""


class Teacher(Protocol):
    """What a student learns from: losses on logits, hidden states, and, for the record, how far it still is."""

    def targets(self, batch: Batch, listen_to: Sequence[tuple[HiddenTerm, int]]) -> tuple[TokenLosses, Heard]:
        """For the tokens of a training batch, flattened: the losses on logits, and the hidden states asked for."""

    def divergences(self, batch: Batch) -> Divergences:
        """For the tokens of validation sequences, flattened."""


class LiveTeacher(Teacher):
    """A frozen model that is run for every batch. Its logits are made chunk by chunk, as the student's are."""

    def __init__(self, model: SplitModel, spec: DistillationSpec | None = None) -> None:
        model.model.requires_grad_(False)
        self.model = model.model
        self._split = model
        self._head = model.head.prepared()
        self._spec = spec or DistillationSpec()
        self._losses = logits_losses(self._spec)
        self._room = Room()

    @torch.no_grad()
    def targets(self, batch: Batch, listen_to: Sequence[tuple[HiddenTerm, int]]) -> tuple[TokenLosses, Heard]:
        if self._spec.logits == "none" and not listen_to:
            return _nothing, {}
        with listening(self._split, listen_to) as heard:
            states_ND = self._split.states(batch.inputs_BT).flatten(0, 1)
        losses = self._losses
        if losses is None:
            return _nothing, heard
        return lambda student_NV, rows: losses(student_NV, self._head.logits(states_ND[rows], self._room)), heard

    @torch.no_grad()
    def divergences(self, batch: Batch) -> Divergences:
        states_ND = self._split.states(batch.inputs_BT).flatten(0, 1)
        return lambda student_NV, rows: forward_kl(student_NV, self._head.logits(states_ND[rows], self._room))


def logits_losses(spec: DistillationSpec) -> Callable[[torch.Tensor, torch.Tensor], LossAndGradient] | None:
    """(student_NV, teacher_NV) -> the spec's losses on logits with their gradient; None where it has none.

    The teacher's logits may be overwritten.
    """
    if spec.logits == "none":
        return None
    if spec.logits == "forward_kl" and spec.top_k is None and spec.temperature == 1.0:
        rooms = Room(), Room()
        return lambda student_NV, teacher_NV: forward_kl_with_gradient(student_NV, teacher_NV, *rooms)
    loss: LogitsLoss = LOGITS_LOSSES[spec.logits]
    if spec.top_k is not None:
        loss = among_top_k(loss, spec.top_k)
    temperature = spec.temperature

    def at_temperature(student_NV: torch.Tensor, teacher_NV: torch.Tensor) -> LossAndGradient:
        losses_N, gradient_NV = with_gradient(loss, student_NV / temperature, teacher_NV / temperature)
        return losses_N, gradient_NV.div_(temperature)

    return at_temperature


def _nothing(student_NV: torch.Tensor, rows: slice) -> LossAndGradient:
    return student_NV.new_zeros(len(student_NV)), torch.zeros_like(student_NV)
