"""What stays x the teacher's tensors -> the student's: every tensor cut along its named axes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nas.architecture import Architecture
from nas.compression.checkpoint import check_head, write_model_folder
from nas.compression.choose import Kept
from nas.compression.residual import partner_entries
from nas.compression.weight_files import SHARD_BYTES, open_tensors
from nas.families import Dimension, family_named
from nas.model_folder import ModelFolder

Index = torch.Tensor | None
"""Entries of a dimension, or None for all of them."""

_SAME_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Selecting moves bits; numpy, which knows no bfloat16, does it several times faster than torch."""


def cut_folder(
    teacher: ModelFolder,
    student: Architecture,
    kept: Kept,
    into: Path,
    provenance: object,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes the student as a folder in the teacher's dtype, piece by piece: neither needs to fit into memory.

    `progress` is told the bytes written, of how many. Raises FolderError if `into` exists, and TeacherError as
    `check_head` does; the folder appears whole under its name or not at all.
    """
    check_head(teacher)
    config = teacher.family.config(teacher.config, student, kept.layers)
    with open_tensors(teacher) as read:
        tensors = cuts(read, teacher.architecture, student, kept)
        write_model_folder(into, config, tensors, teacher, provenance, progress, shard_bytes=shard_bytes)


def cut(
    read: Callable[[str], torch.Tensor], teacher: Architecture, student: Architecture, kept: Kept
) -> Iterator[tuple[str, torch.Tensor]]:
    """The student's tensors by name, in the teacher's dtype; `read` gives a tensor of the teacher by name.

    One tensor is held at a time. What is cut nowhere is the teacher's own; nothing that was read is changed.
    """
    for name, tensor in cuts(read, teacher, student, kept):
        yield name, tensor[:]


def cuts(
    read: Callable[[str], torch.Tensor], teacher: Architecture, student: Architecture, kept: Kept
) -> Iterator[tuple[str, "Cut"]]:
    """The student's tensors by name, each yet to be computed."""
    family = family_named(teacher.family)
    for selection in family.selections(student, kept.layers, kept.unit):
        parameter, layer = selection.parameter, selection.source_layer
        expert = selection.unit if parameter.each == "num_experts" else None
        rescale = parameter.rescale
        yield (
            selection.name,
            Cut(
                whole=read(selection.source),
                stay=tuple(_kept_entries(each, teacher, kept, layer, expert) for each in parameter.dimensions),
                partners=partner_entries(parameter, family.parameters, teacher, student, kept, layer),
                offset=0.0 if rescale is None else rescale.offset,
                factor=1.0 if rescale is None else rescale.factor(teacher, student),
            ),
        )


@dataclass(frozen=True)
class Cut:
    """A tensor of the student, of one or two dimensions: slicing it computes those rows, in memory of their own.

    `stay` has for each dimension what stays of the teacher's tensor, `partners` what it takes in (see
    `partner_entries`). Values become (value + offset) * factor - offset. Raises ValueError, when made, for an entry
    that the teacher's tensor does not have.
    """

    whole: torch.Tensor
    stay: tuple[Index, ...]
    partners: tuple[Index, ...]
    offset: float
    factor: float

    def __post_init__(self) -> None:
        for size, stay, partners in zip(self.whole.shape, self.stay, self.partners, strict=True):
            for index, least in ((stay, 0), (partners, -1)):
                if index is not None and not ((index >= least) & (index < size)).all():
                    raise ValueError(f"entries from {index.min()} to {index.max()} of a dimension that has {size}")

    @property
    def shape(self) -> tuple[int, ...]:
        sizes = zip(self.whole.shape, self.stay, strict=True)
        return tuple(size if index is None else len(index) for size, index in sizes)

    @property
    def dtype(self) -> torch.dtype:
        return self.whole.dtype

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Bit for bit the teacher's, but for what is taken in or rescaled, in float64, then rounded."""
        of_rows, *of_columns = self.stay
        whole = self.whole if of_rows is not None else self.whole[rows]
        stay = (None if of_rows is None else of_rows[rows], *of_columns)
        result = _select(whole, stay)
        for position, partners in enumerate(self.partners):
            if partners is not None:
                _take_in(result, whole, stay, position, partners[rows] if position == 0 else partners)
        if self.factor == 1.0:
            return result
        return ((result.double() + self.offset) * self.factor - self.offset).to(self.dtype)


def _kept_entries(
    dimension: Dimension, teacher: Architecture, kept: Kept, layer: int | None, expert: int | None
) -> Index:
    """Which entries of a dimension stay, its spans one after another."""
    entries, offset = [], 0
    for span in dimension:
        units = kept.units(span.axis, layer, expert)
        width, size = span.unit_size(teacher), span.size(teacher)
        of_span = torch.arange(size) if units is None else (units[:, None] * width + torch.arange(width)).flatten()
        entries.append(offset + of_span)
        offset += size
    stay = torch.cat(entries)
    return stay if len(stay) < offset else None


def _select(tensor: torch.Tensor, stay: Sequence[Index]) -> torch.Tensor:
    """The entries that stay of each dimension, bit for bit; the tensor itself where all do."""
    bits = tensor.detach().cpu().view(_SAME_SIZE[tensor.itemsize]).numpy()
    for position, index in enumerate(stay):
        if index is not None:
            # `Cut` has looked that no index is out of bounds: this mode, for such, is twice as fast as one that looks.
            bits = np.take(bits, index.numpy(), axis=position, mode="clip")
    return torch.from_numpy(bits).view(tensor.dtype)


def _take_in(
    result: torch.Tensor, tensor: torch.Tensor, stay: Sequence[Index], position: int, partners: torch.Tensor
) -> None:
    """Changes what has a partner in this dimension to itself + (itself - partner).

    The result is no memory of the teacher's: where there are partners, they go.
    """
    taken_in = (partners >= 0).nonzero().flatten()
    of_partners = [partners[taken_in] if each == position else index for each, index in enumerate(stay)]
    theirs = _select(tensor, of_partners)
    own = result.index_select(position, taken_in)
    result.index_copy_(position, taken_in, (2 * own.double() - theirs.double()).to(result.dtype))
