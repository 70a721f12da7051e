"""What weights alone say of units, read tensor by tensor: their magnitude, and the norm of what reads them."""

from collections.abc import Callable, Iterator

import torch

from nas.architecture import Architecture
from nas.compression.scores import Scores
from nas.families import Parameter, family_named

Read = Callable[[str], torch.Tensor]
"""The teacher's tensor of this name."""

_SCORED = {
    "num_attention_heads": "heads",
    "intermediate_size": "neurons",
    "num_experts": "experts",
    "hidden_size": "channels",
}


def magnitudes(read: Read, teacher: Architecture) -> Scores:
    """The L2 norm of all weights that belong to a unit, of layers of all theirs."""
    return _norms(read, teacher, _of_every_dimension)


def reader_norms(read: Read, teacher: Architecture) -> Scores:
    """The L2 norm of the weights that a unit's output is multiplied with: what Wanda multiplies an activation by.

    Nothing reads an expert, whose norms are 1, as are those of layers.
    """
    norms = _norms(read, teacher, lambda parameter: (parameter.reads,) if parameter.matrix else ())
    return Scores(
        layers=torch.ones_like(norms.layers),
        heads=norms.heads,
        neurons=norms.neurons,
        experts=torch.ones_like(norms.experts),
        channels=norms.channels,
        stretches=norms.stretches,
    )


def _of_every_dimension(parameter: Parameter) -> tuple[int, ...]:
    return tuple(range(len(parameter.dimensions)))


def _norms(read: Read, teacher: Architecture, dimensions_of: Callable[[Parameter], tuple[int, ...]]) -> Scores:
    squares = empty_scores(teacher)
    squares.stretches.fill_(torch.nan)
    for parameter, name, layer, unit in _tensors(teacher):
        if layer is None and not dimensions_of(parameter):
            continue  # An embedding is large, and reads no unit.
        tensor = read(name).double().square()
        expert = unit if parameter.each == "num_experts" else None
        if layer is not None:
            squares.layers[layer] += tensor.sum()
        if parameter.each in _SCORED and unit is not None and dimensions_of(parameter):
            _row(squares, _SCORED[parameter.each], layer, None)[unit] += tensor.sum()
        for position in dimensions_of(parameter):
            others = tuple(each for each in range(tensor.dim()) if each != position)
            entries, offset = tensor.sum(dim=others) if others else tensor, 0
            for span in parameter.dimensions[position]:
                of_span = entries[offset : offset + span.size(teacher)]
                offset += span.size(teacher)
                if span.axis in _SCORED:
                    units = of_span.unflatten(0, (-1, span.unit_size(teacher))).sum(dim=1)
                    _row(squares, _SCORED[span.axis], layer, expert).add_(units)
    return Scores(**{name: values.sqrt() for name, values in vars(squares).items()})


def _row(scores: Scores, axis: str, layer: int | None, expert: int | None) -> torch.Tensor:
    """Where units of this axis add up."""
    whole: torch.Tensor = getattr(scores, axis)
    if axis == "channels":
        return whole
    of_layer = whole[layer]
    return of_layer[expert] if axis == "neurons" and expert is not None else of_layer


def _tensors(teacher: Architecture) -> Iterator[tuple[Parameter, str, int | None, int | None]]:
    """Every tensor of the teacher, with its layer and the unit that it is one of several for."""
    everything = range(teacher.num_hidden_layers)
    family = family_named(teacher.family)
    for selection in family.selections(teacher, tuple(everything), lambda axis, layer, position: position):
        yield selection.parameter, selection.source, selection.source_layer, selection.unit


def empty_scores(shape: Architecture) -> Scores:
    """All zero."""
    layers, experts = shape.num_hidden_layers, [shape.num_experts] if shape.num_experts else []

    def zeros(*size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.float64)

    return Scores(
        layers=zeros(layers),
        heads=zeros(layers, shape.num_attention_heads),
        neurons=zeros(layers, *experts, shape.intermediate_size),
        experts=zeros(layers, shape.num_experts),
        channels=zeros(shape.hidden_size),
        stretches=zeros(layers, layers),
    )


def random_scores(shape: Architecture, seed: int) -> Scores:
    """Uniform between 0 and 1, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    empty = empty_scores(shape)
    return Scores(**{name: values.uniform_(0, 1, generator=generator) for name, values in vars(empty).items()})
