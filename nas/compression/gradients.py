"""The gradient of one batch, added up over its micro-batches, and what weighs how much in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nas.compression.data import Batch


@dataclass(frozen=True)
class Terms:
    """A micro-batch's loss, summed over its tokens, float32, with a graph to the parameters.

    `balanced` is a second term, to be weighted such that, over the whole batch, it comes to the sum of `reference`: the
    paper's dynamic alpha = L_logits / L_is, both without a gradient of their own (P1, section 3.1).
    """

    loss: torch.Tensor
    balanced: torch.Tensor | None = None
    reference: float = 0.0


Objective = Callable[[Batch], Terms]


def accumulate(
    objective: Objective,
    batch: Batch,
    micro_batch_size: int,
    num_tokens: int,
    parameters: Sequence[torch.nn.Parameter],
) -> float:
    """Leaves the gradient of the loss per token in `.grad`, and returns that loss; `num_tokens` are the batch's.

    All is divided by the tokens of the whole batch: the micro-batch size changes memory, not the gradient. The weight
    of a balanced term is known only behind the last micro-batch, so its gradient is added up by itself until then.
    """
    total, balanced_sum, reference_sum = 0.0, 0.0, 0.0
    balanced_gradients: dict[torch.nn.Parameter, torch.Tensor] = {}
    for micro_batch in batch.split(micro_batch_size):
        terms = objective(micro_batch)
        (terms.loss / num_tokens).backward(retain_graph=terms.balanced is not None)
        total += terms.loss.item()
        if terms.balanced is not None:
            balanced_sum += terms.balanced.item()
            reference_sum += terms.reference
            _add(balanced_gradients, parameters, terms.balanced / num_tokens)
    if balanced_sum:
        alpha = reference_sum / balanced_sum
        for parameter, gradient in balanced_gradients.items():
            gradient.mul_(alpha)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        total += reference_sum
    return total / num_tokens


def _add(
    total: dict[torch.nn.Parameter, torch.Tensor], parameters: Sequence[torch.nn.Parameter], loss: torch.Tensor
) -> None:
    """Adds the loss's gradient by each parameter that it depends on."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        if gradient is not None:
            total[parameter] = total[parameter].add_(gradient) if parameter in total else gradient
