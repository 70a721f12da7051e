"""The validation loss: exact cross-entropy in nats per token on fixed sequences, and KL to the teacher beside it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nas.compression.data import Batch
from nas.compression.head import SplitModel
from nas.compression.losses import cross_entropy_BT
from nas.compression.teacher import Teacher


@dataclass(frozen=True)
class Evaluation:
    """Means over all validation tokens, and the loss of each sequence (num_sequences,)."""

    loss: float
    kl_to_teacher: float | None
    loss_per_sequence: NDArray[np.float32]


@torch.no_grad()
def evaluate(
    model: SplitModel, validation: Batch, *, teacher: Teacher | None = None, micro_batch_size: int = 8
) -> Evaluation:
    """Loss of the model on the sequences of `validation`; KL too where there is a teacher.

    Sums are float64 over float32 token losses, divided once, so the value does not depend on the micro-batch
    size beyond the rounding of the products.
    """
    losses: list[torch.Tensor] = []
    kl_sum = 0.0
    for batch in validation.split(micro_batch_size):
        states_ND = model.states(batch.inputs_BT).flatten(0, 1)
        head, labels_N = model.head.prepared(), batch.targets_BT.flatten()
        divergences = None if teacher is None else teacher.divergences(batch)
        of_tokens: list[torch.Tensor] = []
        for rows in head.chunks(len(states_ND)):
            logits_NV = head.logits(states_ND[rows])
            of_tokens.append(cross_entropy_BT(logits_NV[None], labels_N[None, rows])[0])
            if divergences is not None:
                kl_sum += divergences(logits_NV, rows).double().sum().item()
        losses.append(torch.cat(of_tokens).view(batch.targets_BT.shape).double().mean(dim=-1))
    per_sequence = torch.cat(losses)
    return Evaluation(
        loss=per_sequence.mean().item(),
        kl_to_teacher=None if teacher is None else kl_sum / validation.targets_BT.numel(),
        loss_per_sequence=per_sequence.float().cpu().numpy(),
    )
