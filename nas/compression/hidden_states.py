"""Hidden states of teacher and student, compared through one learned projection.

States are those of the residual stream (as it enters the first block, and leaves chosen ones) and what enters an MLP,
each token's divided by its root mean square: not every family has a norm of its own there. N tokens, D channels.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from nas.compression.head import SplitModel
from nas.distillation_spec import HiddenLoss, HiddenTerm
from nas.families import Family, family_named

Heard = dict[tuple[HiddenTerm, int], torch.Tensor]
"""What was heard of each term at each layer: (N, D). The embedding's layer is 0."""


class Projection(torch.nn.Linear):
    """The student's channels to the teacher's, one for all terms (P1, section 3.1); where they are as many, identity.

    Drawn by `seed`, so that a run is the same wherever it begins.
    """

    def __init__(self, student_size: int, teacher_size: int, seed: int) -> None:
        super().__init__(student_size, teacher_size)
        with torch.no_grad():
            self.bias.zero_()
            if student_size == teacher_size:
                self.weight.copy_(torch.eye(student_size))
            else:
                generator = torch.Generator().manual_seed(seed)
                self.weight.normal_(0, 1 / math.sqrt(student_size), generator=generator)


class HiddenStates:
    """The loss on hidden states of one student and its teacher: sum over terms, layers and tokens (P1, section 3.1)."""

    def __init__(
        self,
        terms: Sequence[HiddenTerm],
        layer_pairs: Sequence[tuple[int, int]],
        loss: HiddenLoss,
        projection: Projection,
    ) -> None:
        self._pairs: list[tuple[HiddenTerm, int, int]] = []  # term, the teacher's layer, the student's
        for term in terms:
            self._pairs += [(term, 0, 0)] if term == "embedding" else [(term, *pair) for pair in layer_pairs]
        self._loss = loss
        self.projection = projection

    def of_teacher(self) -> list[tuple[HiddenTerm, int]]:
        return [(term, teacher) for term, teacher, _ in self._pairs]

    def of_student(self) -> list[tuple[HiddenTerm, int]]:
        return [(term, student) for term, _, student in self._pairs]

    def loss(self, student: Heard, teacher: Heard) -> torch.Tensor:
        """The sum over all tokens, float32, with a graph to the student's states and the projection."""
        total = torch.zeros((), device=self.projection.weight.device)
        for term, at_teacher, at_student in self._pairs:
            projected_ND = self.projection(normalized(student[term, at_student]))
            total = total + _distance(self._loss, projected_ND, normalized(teacher[term, at_teacher]).detach())
        return total


def normalized(states_ND: torch.Tensor) -> torch.Tensor:
    """Each token's states in float32 (or more), divided by their root mean square."""
    states_ND = states_ND.to(torch.promote_types(states_ND.dtype, torch.float32))
    return F.rms_norm(states_ND, states_ND.shape[-1:], eps=1e-6)


def _distance(loss: HiddenLoss, student_ND: torch.Tensor, teacher_ND: torch.Tensor) -> torch.Tensor:
    if loss == "mse":
        return (student_ND - teacher_ND).square().mean(-1).sum()
    return (1 - F.cosine_similarity(student_ND, teacher_ND, dim=-1)).sum()


# --- listening -----------------------------------------------------------------------------------------------


@contextmanager
def listening(model: SplitModel, to: Sequence[tuple[HiddenTerm, int]]) -> Iterator[Heard]:
    """Within, a forward pass of the model leaves what is asked for in the dictionary that this yields."""
    heard: Heard = {}
    family = family_named(model.model.config.model_type)
    hooks = [_listen(model.model, family, term, layer, heard) for term, layer in to]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _listen(model: torch.nn.Module, family: Family, term: HiddenTerm, layer: int, heard: Heard) -> Any:
    block = model.get_submodule(family.taps.block.format(i=layer))

    def keep(states: torch.Tensor) -> None:
        heard[term, layer] = states.flatten(0, -2)

    if term == "block_output":
        return block.register_forward_hook(lambda _, __, output: keep(_states(output)))
    if term == "embedding":
        return block.register_forward_pre_hook(lambda _, args, kwargs: keep(_first(args, kwargs)), with_kwargs=True)
    into_mlp = family.taps.experts or family.taps.up_output_of
    if into_mlp is None:
        raise LookupError(f"the table of {family.model_type} names no module of its MLP")
    module = model.get_submodule(into_mlp.format(i=layer))
    return module.register_forward_pre_hook(lambda _, args, kwargs: keep(_first(args, kwargs)), with_kwargs=True)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    states: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return states


def _states(output: Any) -> torch.Tensor:
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states
