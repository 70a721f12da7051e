"""A parameter of a family's table: its name, its named dimensions, and what follows from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

from nas.architecture import AXES, Architecture
from nas.polynomial import Polynomial


@dataclass(frozen=True)
class Span:
    """Consecutive entries of a dimension: `axis` units of `width` entries each, `times` over.

    `axis` is an Architecture field; `width` is one too (`head_dim`), or None for single entries. `times` is 3 where
    query, key and value of a head lie side by side.
    """

    axis: str
    width: str | None = None
    times: int = 1

    def size(self, architecture: Architecture) -> int:
        return int(getattr(architecture, self.axis)) * self.unit_size(architecture)

    def unit_size(self, architecture: Architecture) -> int:
        return self.times * (1 if self.width is None else int(getattr(architecture, self.width)))

    def polynomial(self, architecture: Architecture) -> Polynomial:
        if self.axis in AXES:
            return Polynomial.size(self.axis) * self.unit_size(architecture)
        return Polynomial.constant(self.size(architecture))


Dimension = tuple[Span, ...]
"""One dimension of a tensor: spans one after another. Fused matrices have several, as in Q + K + V."""

VOCAB: Dimension = (Span("vocab_size"),)
POSITIONS: Dimension = (Span("max_position_embeddings"),)
HIDDEN: Dimension = (Span("hidden_size"),)
FFN: Dimension = (Span("intermediate_size"),)
HEADS: Dimension = (Span("num_attention_heads", "head_dim"),)
KV_HEADS: Dimension = (Span("num_key_value_heads", "head_dim"),)
HEAD_DIM: Dimension = (Span("head_dim"),)
EXPERTS: Dimension = (Span("num_experts"),)


@dataclass(frozen=True)
class Rescale:
    """What cutting an axis does to values: (old + offset) * (student's size / teacher's size) ** exponent - offset.

    It applies if the Architecture's flag `when` is set. `offset` is 1 where the model itself adds 1 to the weight.
    """

    axis: str
    exponent: float
    offset: float = 0.0
    when: str | None = None

    def factor(self, teacher: Architecture, student: Architecture) -> float:
        if self.when is not None and not getattr(teacher, self.when):
            return 1.0
        return float((getattr(student, self.axis) / getattr(teacher, self.axis)) ** self.exponent)


@dataclass(frozen=True)
class Parameter:
    """A parameter as checkpoints name it, `{i}` for the layer, and its dimensions in memory order.

    It is present if the Architecture's flag `when` is set, and `unless` is not. With `each`, there is one tensor for
    every unit of that axis, `{u}` in its name. Every token is multiplied with a `matrix`, along its dimension `reads`;
    that is what FLOPs count (of the head they count one by themselves, since a tied one is no parameter). Where query,
    key and value share a dimension, the query comes first. `embedding` marks what a non-embedding
    count leaves out: embeddings and the head. `rescale` says how its values follow a cut.
    """

    name: str
    dimensions: tuple[Dimension, ...]
    matrix: bool = False
    reads: int = 1
    embedding: bool = False
    when: str | None = None
    unless: str | None = None
    each: str | None = None
    rescale: Rescale | None = None

    @property
    def in_layer(self) -> bool:
        return "{i}" in self.name

    def present(self, architecture: Architecture) -> bool:
        return (self.when is None or getattr(architecture, self.when)) and not (
            self.unless is not None and getattr(architecture, self.unless)
        )

    def shape(self, architecture: Architecture) -> tuple[int, ...]:
        return tuple(sum(span.size(architecture) for span in dimension) for dimension in self.dimensions)

    def units(self, architecture: Architecture) -> tuple[int | None, ...]:
        """The units of `each`, or one None."""
        return (None,) if self.each is None else tuple(range(getattr(architecture, self.each)))

    def tensors(self, architecture: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each of its tensors."""
        if not self.present(architecture):
            return
        for layer in range(architecture.num_hidden_layers) if self.in_layer else (0,):
            for unit in self.units(architecture):
                yield self.name.format(i=layer, u=unit), self.shape(architecture)

    def entries(self, architecture: Architecture) -> Polynomial:
        """Entries of one tensor."""
        of_dimensions = [
            reduce(Polynomial.__add__, (span.polynomial(architecture) for span in dimension))
            for dimension in self.dimensions
        ]
        return reduce(Polynomial.__mul__, of_dimensions)

    def polynomial(self, architecture: Architecture) -> Polynomial:
        """Entries in all layers and units together, in the sizes along AXES; 0 where it is not present."""
        if not self.present(architecture):
            return Polynomial({})
        counted = self.entries(architecture)
        if self.in_layer:
            counted *= Polynomial.size("num_hidden_layers")
        if self.each is not None:
            counted *= Polynomial.size(self.each)
        return counted
