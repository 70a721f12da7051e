"""Which entries of which matrices take in what a head that goes differs by (P1, section 2.3)."""

from collections.abc import Sequence

import torch

from nas.architecture import Architecture
from nas.calibration import HeadResidual
from nas.compression.choose import Kept
from nas.families import Dimension, Parameter

_HEADS = "num_attention_heads"


def partner_entries(
    parameter: Parameter,
    parameters: Sequence[Parameter],
    teacher: Architecture,
    student: Architecture,
    kept: Kept,
    layer: int | None,
) -> tuple[torch.Tensor | None, ...]:
    """For each dimension, None, or for every entry of the student's the partner's entry in the teacher, -1 for none.

    `parameters` are the whole table's: a bias is folded as its matrix is.
    """
    partners: list[torch.Tensor | None] = [None] * len(parameter.dimensions)
    position = _folded_dimension(parameter, parameters, kept.residual)
    if position is None or layer is None or not len(kept.folded[layer]):
        return tuple(partners)
    dimension = parameter.dimensions[position]
    first = [span.axis for span in dimension].index(_HEADS)
    before, span = dimension[:first], dimension[first]
    in_teacher, in_student = (sum(each.size(shape) for each in before) for shape in (teacher, student))
    unit = span.unit_size(teacher)
    # Where query, key and value of a head lie side by side, the query comes first.
    query = torch.arange(unit // span.times)
    stays, goes = kept.folded[layer].unbind(dim=1)
    places = torch.searchsorted(kept.heads[layer], stays.contiguous())
    entries = torch.full((sum(each.size(student) for each in dimension),), -1)
    entries[in_student + places[:, None] * unit + query] = in_teacher + goes[:, None] * unit + query
    partners[position] = entries
    return tuple(partners)


def _folded_dimension(parameter: Parameter, parameters: Sequence[Parameter], residual: HeadResidual) -> int | None:
    """Along which dimension heads are folded; None where the parameter makes neither queries nor the output."""
    if residual == "off":
        return None
    if (makes := _makes_queries_along(parameter)) is not None:
        return makes
    if parameter.matrix:
        reads_heads = _has_heads(parameter.dimensions[parameter.reads])
        return parameter.reads if reads_heads and residual == "query_and_output" else None
    query_biases = {
        each.name.removesuffix(".weight") + ".bias" for each in parameters if _makes_queries_along(each) is not None
    }
    return 0 if parameter.name in query_biases else None


def _makes_queries_along(parameter: Parameter) -> int | None:
    """The dimension of a matrix that it writes queries along; where it makes keys and values too, they come after."""
    others = [position for position in range(len(parameter.dimensions)) if position != parameter.reads]
    writes = (position for position in others if _has_heads(parameter.dimensions[position]))
    return next(writes, None) if parameter.matrix else None


def _has_heads(dimension: Dimension) -> bool:
    return any(span.axis == _HEADS for span in dimension)
