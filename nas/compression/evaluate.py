"""The validation loss: exact cross-entropy in nats per token on fixed sequences, and KL to the teacher beside it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nas.compression.data import Batch
from nas.compression.losses import cross_entropy_BT, forward_kl_BT

Logits = Callable[[torch.Tensor], torch.Tensor]
"""inputs_BT -> logits_BTV"""


@dataclass(frozen=True)
class Evaluation:
    """Means over all validation tokens, and the loss of each sequence (num_sequences,)."""

    loss: float
    kl_to_teacher: float | None
    loss_per_sequence: NDArray[np.float32]


@torch.no_grad()
def evaluate(
    logits: Logits, validation: Batch, *, teacher_logits: Logits | None = None, micro_batch_size: int = 8
) -> Evaluation:
    """Loss of `logits` on the sequences of `validation`; KL too where the teacher's logits are given.

    Sums are float64 over float32 token losses, divided once, so the value does not depend on the micro-batch
    size beyond the rounding of the products.
    """
    losses: list[torch.Tensor] = []
    kl_sum = 0.0
    for batch in validation.split(micro_batch_size):
        student_BTV = logits(batch.inputs_BT)
        losses.append(cross_entropy_BT(student_BTV, batch.targets_BT).double().mean(dim=-1))
        if teacher_logits is not None:
            kl_sum += forward_kl_BT(student_BTV, teacher_logits(batch.inputs_BT)).double().sum().item()
    per_sequence = torch.cat(losses)
    return Evaluation(
        loss=per_sequence.mean().item(),
        kl_to_teacher=None if teacher_logits is None else kl_sum / validation.targets_BT.numel(),
        loss_per_sequence=per_sequence.float().cpu().numpy(),
    )
