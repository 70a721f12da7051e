"""Losses over tokens, each summed or averaged over the vocabulary in float32; nobody divides by tokens here.

B sequences, T tokens, N tokens of any sequences, V vocabulary entries. No gradient reaches a teacher.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from nas.compression.room import Room
from nas.distillation_spec import LogitLoss

LogitsLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(student_NV, teacher_NV), both float32 logits -> losses_N"""


def cross_entropy_BT(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every token, in nats."""
    return F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none").view_as(targets_BT)


# --- of a student's logits to a teacher's --------------------------------------------------------------------


def forward_kl(student_NV: torch.Tensor, teacher_NV: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of every token, in nats (P1, section 3)."""
    return _kl(teacher_NV.log_softmax(-1), student_NV.log_softmax(-1))


def reverse_kl(student_NV: torch.Tensor, teacher_NV: torch.Tensor) -> torch.Tensor:
    """KL(student || teacher) of every token, in nats."""
    return _kl(student_NV.log_softmax(-1), teacher_NV.log_softmax(-1))


def jensen_shannon(student_NV: torch.Tensor, teacher_NV: torch.Tensor) -> torch.Tensor:
    """The mean of both distributions' KL to their middle, in nats: at most log 2."""
    student_NV, teacher_NV = student_NV.log_softmax(-1), teacher_NV.log_softmax(-1)
    middle_NV = torch.logaddexp(student_NV, teacher_NV) - math.log(2)
    return (_kl(teacher_NV, middle_NV) + _kl(student_NV, middle_NV)) / 2


def mse(student_NV: torch.Tensor, teacher_NV: torch.Tensor) -> torch.Tensor:
    """The mean over the vocabulary of the squared difference of logits."""
    return (student_NV - teacher_NV).square().mean(-1)


def cosine(student_NV: torch.Tensor, teacher_NV: torch.Tensor) -> torch.Tensor:
    """1 - the cosine between both vectors of probabilities."""
    return 1 - F.cosine_similarity(student_NV.softmax(-1), teacher_NV.softmax(-1), dim=-1)


def cross_entropy(student_NV: torch.Tensor, teacher_NV: torch.Tensor) -> torch.Tensor:
    """-sum of the teacher's probabilities times the student's log-probabilities, in nats: forward KL + H(teacher)."""
    return -(teacher_NV.softmax(-1) * student_NV.log_softmax(-1)).sum(-1)


LOGITS_LOSSES: dict[LogitLoss, LogitsLoss] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "mse": mse,
    "cosine": cosine,
    "cross_entropy": cross_entropy,
}


def _kl(log_p_NV: torch.Tensor, log_q_NV: torch.Tensor) -> torch.Tensor:
    return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)


def among_top_k(loss: LogitsLoss, top_k: int) -> LogitsLoss:
    """The loss on the teacher's `top_k` largest logits, and the student's there, as if there were no others."""

    def of_top_k(student_NV: torch.Tensor, teacher_NV: torch.Tensor) -> torch.Tensor:
        if top_k >= teacher_NV.shape[-1]:
            return loss(student_NV, teacher_NV)
        teacher_NK, entries_NK = teacher_NV.topk(top_k, dim=-1)
        return loss(student_NV.gather(-1, entries_NK), teacher_NK)

    return of_top_k


# --- with their gradients, for chunks ------------------------------------------------------------------------

LossAndGradient = tuple[torch.Tensor, torch.Tensor]
"""losses_N, and the gradient_NV of their sum by the student's logits, whose memory the next call may take"""


def with_gradient(loss: LogitsLoss, student_NV: torch.Tensor, teacher_NV: torch.Tensor) -> LossAndGradient:
    """Any loss and its gradient by the student's logits, by autograd."""
    with torch.enable_grad():
        student_NV = student_NV.detach().requires_grad_()
        losses_N = loss(student_NV, teacher_NV.detach())
        (gradient_NV,) = torch.autograd.grad(losses_N.sum(), student_NV)
    return losses_N.detach(), gradient_NV


@torch.no_grad()
def forward_kl_with_gradient(
    student_NV: torch.Tensor, teacher_NV: torch.Tensor, gradient_room: Room, room: Room
) -> LossAndGradient:
    """As `with_gradient(forward_kl, ...)`, with the gradient q - p written out, which takes half the time.

    The teacher's logits are overwritten.
    """
    log_q_NV = gradient_room.log_softmax(student_NV)
    log_p_NV = room.log_softmax(teacher_NV)
    p_NV = torch.exp(log_p_NV, out=teacher_NV)
    losses_N = log_p_NV.sub_(log_q_NV).mul_(p_NV).sum(-1)
    return losses_N, log_q_NV.exp_().sub_(p_NV)


@torch.no_grad()
def language_modeling_with_gradient(
    student_NV: torch.Tensor, labels_N: torch.Tensor, gradient_room: Room
) -> LossAndGradient:
    """The cross-entropy with the text's own next tokens, and its gradient q - 1."""
    log_q_NV = gradient_room.log_softmax(student_NV)
    losses_N = -log_q_NV.gather(-1, labels_N[:, None]).squeeze(-1)
    gradient_NV = log_q_NV.exp_()
    gradient_NV[torch.arange(len(labels_N), device=labels_N.device), labels_N] -= 1
    return losses_N, gradient_NV
