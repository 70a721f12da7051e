"""Losses over tokens, summed in float32; the caller divides once by the number of tokens.

B sequences, T tokens, V vocabulary entries.
"""

import torch
import torch.nn.functional as F


def cross_entropy_BT(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every token, in nats."""
    return F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none").view_as(targets_BT)


def forward_kl_BT(student_BTV: torch.Tensor, teacher_BTV: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of every token over the whole vocabulary, in nats, at temperature 1 (P1, section 3).

    No gradient reaches the teacher's logits.
    """
    student_log_BTV = F.log_softmax(student_BTV.float(), dim=-1)
    teacher_log_BTV = F.log_softmax(teacher_BTV.detach().float(), dim=-1)
    return (teacher_log_BTV.exp() * (teacher_log_BTV - student_log_BTV)).sum(dim=-1)
