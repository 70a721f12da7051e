"""Head and loss together, chunk by chunk, forward and backward at once: never logits of all tokens.

A chunk's logits are made, give its losses and their gradient by the logits, which at once becomes that by the states
and by the head's weight, and are gone before the next chunk's are made. N tokens, D channels, V of the vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch

from nas.compression.head import Head
from nas.compression.room import Room

TokenLosses = Callable[[torch.Tensor, slice], tuple[torch.Tensor, torch.Tensor]]
"""(a chunk's logits_NV, float32; which tokens they are of) -> losses_N, and their sum's gradient_NV by the logits."""


def chunked_loss(states_ND: torch.Tensor, head: Head, token_losses: TokenLosses) -> torch.Tensor:
    """The sum of all tokens' losses, float32, with a graph to the states and to the head's weight."""
    loss: torch.Tensor = _ChunkedLoss.apply(states_ND, head.weight_VD, head, token_losses)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedLoss(torch.autograd.Function):
    """Gradients are computed with the loss, and only scaled when they are asked for."""

    @staticmethod
    def forward(
        ctx: Any, states_ND: torch.Tensor, weight_VD: torch.Tensor, head: Head, token_losses: TokenLosses
    ) -> torch.Tensor:
        head = head.prepared()
        states_ND = states_ND.detach()
        by_states_ND = torch.empty_like(states_ND)
        by_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), dtype=torch.float64, device=states_ND.device)
        room = Room()
        for rows in head.chunks(len(states_ND)):
            inputs_ND = states_ND[rows].to(head.dtype)
            logits_NV = head.logits(inputs_ND, room)
            losses_N, gradient_NV = token_losses(logits_NV, rows)
            total += losses_N.sum(dtype=torch.float64)
            gradient_NV = head.back_to_product(gradient_NV, logits_NV).to(head.dtype)
            by_states_ND[rows] = torch.mm(gradient_NV, head.weight_VD)
            if by_weight_VD is not None:
                _add_product(by_weight_VD, gradient_NV.t(), inputs_ND)
        ctx.gradients = (by_states_ND, by_weight_VD)
        return total.to(torch.promote_types(states_ND.dtype, torch.float32))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_states_ND, by_weight_VD = ctx.gradients
        del ctx.gradients  # They are scaled in place, so they serve once.
        return by_states_ND.mul_(scale), None if by_weight_VD is None else by_weight_VD.mul_(scale), None, None


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right, summed in the dtype of the total."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(torch.mm(left, right))
