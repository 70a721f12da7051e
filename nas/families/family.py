"""What a family table says, and what follows from it: shapes, counts, student configs, what to cut where."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from pydantic import ValidationError

from nas.architecture import Architecture
from nas.errors import TeacherError


@dataclass(frozen=True)
class Dimension:
    """One dimension of a tensor: `axis` units of `block` consecutive entries each.

    `axis` is an Architecture field; `block` is one too (`head_dim`), or None for single entries.
    """

    axis: str
    block: str | None = None

    def size(self, architecture: Architecture) -> int:
        return int(getattr(architecture, self.axis)) * self.block_size(architecture)

    def block_size(self, architecture: Architecture) -> int:
        return 1 if self.block is None else int(getattr(architecture, self.block))


@dataclass(frozen=True)
class Parameter:
    """A parameter's name, with `{i}` for the layer, and its dimensions in memory order.

    It is present if the Architecture's flag `when` is set, and `unless` is not. `embedding` marks what a
    non-embedding count leaves out: the embedding and the head.
    """

    name: str
    dimensions: tuple[Dimension, ...]
    embedding: bool = False
    when: str | None = None
    unless: str | None = None

    @property
    def in_layer(self) -> bool:
        return "{i}" in self.name

    def present(self, architecture: Architecture) -> bool:
        return (self.when is None or getattr(architecture, self.when)) and not (
            self.unless is not None and getattr(architecture, self.unless)
        )

    def shape(self, architecture: Architecture) -> tuple[int, ...]:
        return tuple(dimension.size(architecture) for dimension in self.dimensions)

    def count(self, architecture: Architecture) -> int:
        """Entries in all layers together; 0 where it is not present."""
        num_tensors = architecture.num_hidden_layers if self.in_layer else 1
        return prod(self.shape(architecture)) * num_tensors if self.present(architecture) else 0


@dataclass(frozen=True)
class Taps:
    """The modules where calibration listens, with `{i}` for the layer."""

    block: str
    norms: tuple[str, ...]
    heads_input_of: str
    neurons_input_of: str


@dataclass(frozen=True)
class Select:
    """Which tensor of the teacher a student's tensor is cut from, and along which dimensions."""

    name: str
    source: str
    source_layer: int | None
    parameter: Parameter


@dataclass(frozen=True)
class Family:
    """A model family: its parameters with named axes, where to listen, and which config keys follow an axis."""

    model_type: str
    parameters: tuple[Parameter, ...]
    taps: Taps
    multiples: tuple[tuple[str, str], ...] = ()
    """Pairs (field, other): a legal shape has `field` as a multiple of `other`, or transformers refuses its config."""

    def architecture(self, config: dict[str, Any], *, source: str = "config.json") -> Architecture:
        """The shape that a Hugging Face config describes.

        Where the config leaves them out, `head_dim` is hidden_size / num_attention_heads, and every head has keys
        and values of its own. Raises TeacherError, naming `source`, for a missing or impossible field.
        """
        values: dict[str, Any] = {"family": self.model_type}
        for name, field in Architecture.model_fields.items():
            if name == "family":
                continue
            if config.get(name) is not None:
                values[name] = config[name]
            elif name == "head_dim":
                values[name] = _quotient(values["hidden_size"], values["num_attention_heads"])
            elif name == "num_key_value_heads":
                values[name] = values["num_attention_heads"]
            elif field.is_required():
                raise TeacherError("teacher", source, f"has no {name}", f"a complete {self.model_type} config")
        try:
            return Architecture(**values)
        except ValidationError as error:
            problem = f"is not a legal shape ({_first_of(error)})"
            raise TeacherError("teacher", source, problem, "a legal config") from error

    def is_legal(self, architecture: Architecture) -> bool:
        """Whether transformers accepts a config of this shape."""
        return not any(getattr(architecture, field) % getattr(architecture, other) for field, other in self.multiples)

    def config(self, teacher_config: dict[str, Any], student: Architecture) -> dict[str, Any]:
        """The student's config: the teacher's, with the sizes of `student` and nothing else changed."""
        sizes = student.model_dump(exclude={"family"})
        return {**teacher_config, **sizes}

    def tensors(self, architecture: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor of a checkpoint with this architecture."""
        for parameter in self.parameters:
            if parameter.present(architecture):
                for layer in range(architecture.num_hidden_layers) if parameter.in_layer else (0,):
                    yield parameter.name.format(i=layer), parameter.shape(architecture)

    def selections(self, student: Architecture, kept_layers: tuple[int, ...]) -> Iterator[Select]:
        """For every tensor of the student, in the table's order, where it comes from."""
        for parameter in self.parameters:
            if not parameter.present(student):
                continue
            if parameter.in_layer:
                for layer, source in enumerate(kept_layers):
                    yield Select(parameter.name.format(i=layer), parameter.name.format(i=source), source, parameter)
            else:
                yield Select(parameter.name, parameter.name, None, parameter)

    def count(self, architecture: Architecture, *, embedding: bool = True) -> int:
        """Exact number of parameters, with or without the embedding and the head."""
        counted = (parameter for parameter in self.parameters if embedding or not parameter.embedding)
        return sum(parameter.count(architecture) for parameter in counted)


def _quotient(size: object, parts: object) -> int:
    """What a config means that leaves it out; 0, which no Architecture accepts, where it is not to be had."""
    return size // parts if isinstance(size, int) and isinstance(parts, int) and parts > 0 else 0


def _first_of(error: ValidationError) -> str:
    details = error.errors()[0]
    where = "".join(f"{field}: {details['input']} " for field in details["loc"])
    return where + details["msg"].removeprefix("Value error, ").removeprefix("Input ")
