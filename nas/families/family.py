"""What a family table says, and what follows from it: shapes, counts, student configs, what to cut where."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from pydantic import ValidationError

from nas.architecture import AXES, Architecture, sizes_of
from nas.errors import TeacherError
from nas.families.config import ConfigRules
from nas.families.constraint import Constraint
from nas.families.parameter import Parameter
from nas.polynomial import Polynomial


@dataclass(frozen=True)
class Taps:
    """The modules where calibration listens, with `{i}` for the layer.

    A norm that a checkpoint does not have is passed over. A gated MLP has a `gate_output_of`; where that is the same
    module as `up_output_of`, the first half of its output is the gate's. With experts, `experts` is the module that
    runs them, and there are no modules of neurons.
    """

    block: str
    norms: tuple[str, ...]
    heads_input_of: str
    neurons_input_of: str | None = None
    up_output_of: str | None = None
    gate_output_of: str | None = None
    experts: str | None = None


@dataclass(frozen=True)
class Select:
    """Which tensor of the teacher a student's tensor is cut from.

    `source_layer` and `unit` are positions in the teacher, None where the parameter has no layer or no units.
    """

    name: str
    source: str
    source_layer: int | None
    unit: int | None
    parameter: Parameter


UnitOf = Callable[[str, int | None, int], int]
"""(axis, layer of the teacher, unit of the student) -> the unit of the teacher that it was."""


@dataclass(frozen=True)
class Family:
    """A model family: its parameters with named axes, where to listen, and how its config is read.

    Without `fused_attention`, PyTorch's own cannot be used, and training keeps the scores of all pairs of tokens.
    `logit_divisor` and `logit_softcap` are the config's keys of what the head's products are divided by, and of what
    they are then bent to stay below, where a config has that.
    `prefix` is what a checkpoint may leave out before all names, `renamed` maps names of old checkpoints to the
    table's, and `ignored` are endings of names that old checkpoints carry and transformers does not read.
    """

    model_type: str
    parameters: tuple[Parameter, ...]
    taps: Taps
    rules: ConfigRules = field(default_factory=ConfigRules)
    constraints: tuple[Constraint, ...] = ()
    fused_attention: bool = True
    logit_divisor: str | None = None
    logit_softcap: str | None = None
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for a table that the grid of shapes could not follow: it goes by pairs of heads."""
        bound = {name for constraint in self.constraints for name in constraint.fields}
        if not bound <= {"hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"}:
            raise ValueError(f"{self.model_type}: constraints may bind hidden_size and heads only, not {bound}")

    @property
    def has_experts(self) -> bool:
        return self.taps.experts is not None

    @property
    def fields(self) -> tuple[str, ...]:
        """The Architecture fields that a config of this family holds: sizes, and what the table depends on."""
        axes = [axis for axis in AXES if axis != "num_experts" or self.has_experts]
        experts = ["num_experts_per_tok"] if self.has_experts else []
        of_table = [span.axis for p in self.parameters for dimension in p.dimensions for span in dimension]
        flags = [flag for p in self.parameters for flag in (p.when, p.unless) if flag is not None]
        names = dict.fromkeys(["vocab_size", *axes, "head_dim", *experts, *of_table, *flags, *self.rules.settings])
        return tuple(name for name in names if self.rules.keys_of(name))

    # --- configs --------------------------------------------------------------------------------------------

    def architecture(self, config: dict[str, Any], *, source: str = "config.json") -> Architecture:
        """The shape that a Hugging Face config describes.

        Where the config leaves them out, `head_dim` is hidden_size / num_attention_heads, and every head has keys
        and values of its own. Raises TeacherError, naming `source`, for a missing or impossible field, and for a
        setting that the table does not hold for.
        """
        values = self.rules.sizes(config, self.fields)
        required = {name for name in values if Architecture.model_fields[name].is_required() or "expert" in name}
        for name in sorted(required, key=list(values).index):
            if values[name] is None:
                keys = " or ".join(self.rules.keys_of(name) or (name,))
                raise TeacherError("teacher", source, f"has no {keys}", f"a complete {self.model_type} config")
        given = {name: value for name, value in values.items() if value is not None}
        try:
            # Strictly: what transformers refuses, such as "24" for 24, is not to be guessed.
            shape = Architecture.model_validate({"family": self.model_type, **given}, strict=True)
        except ValidationError as error:
            problem = f"is not a legal shape ({_first_of(error)})"
            raise TeacherError("teacher", source, problem, "a legal config") from error
        self.rules.check(config, shape.num_hidden_layers, source)
        if self.has_experts and not shape.num_experts:
            raise TeacherError("teacher", source, "has no experts", f"a {self.model_type} with experts")
        if broken := [constraint for constraint in self.constraints if not constraint.holds(shape.model_dump())]:
            sizes = ", ".join(f"{name} {getattr(shape, name)}" for name in broken[0].fields)
            raise TeacherError("teacher", source, f"is not a legal {self.model_type} ({sizes})", str(broken[0]))
        sliding = sum(self.rules.sliding_layers(config, shape.num_hidden_layers))
        return shape.model_copy(update={"num_sliding_layers": sliding, "sliding_window": self.rules.window(config)})

    def config(
        self, teacher_config: Mapping[str, Any], student: Architecture, kept_layers: tuple[int, ...]
    ) -> dict[str, Any]:
        """The student's config: the teacher's, with the sizes of `student` and the entries of the layers that stay.

        `kept_layers` are positions in the teacher. Nothing else changes.
        """
        sizes = {name: getattr(student, name) for name in self.fields}
        num_layers = self.rules.read(teacher_config, "num_hidden_layers") or student.num_hidden_layers
        lists = self.rules.lists_of(teacher_config, num_layers, kept_layers)
        return {**teacher_config, **self.rules.written(teacher_config, sizes), **lists}

    def tells_layers_apart(self, config: Mapping[str, Any]) -> bool:
        """Whether a student's config depends on which of the teacher's layers stay."""
        return bool(self.rules.lists_of(config, self.rules.read(config, "num_hidden_layers"), ()))

    # --- sizes ----------------------------------------------------------------------------------------------

    def is_legal(self, architecture: Architecture) -> bool:
        """Whether transformers accepts a config of this shape."""
        sizes = architecture.model_dump()
        return all(constraint.holds(sizes) for constraint in self.constraints)

    def tensors(self, architecture: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor of a checkpoint with this architecture."""
        for parameter in self.parameters:
            yield from parameter.tensors(architecture)

    def count(self, architecture: Architecture, *, embedding: bool = True) -> int:
        """Exact number of parameters, with or without embeddings and head."""
        counted = tuple(parameter for parameter in self.parameters if embedding or not parameter.embedding)
        return self.polynomial(architecture, counted).at(sizes_of(architecture))

    def polynomial(self, architecture: Architecture, parameters: tuple[Parameter, ...] | None = None) -> Polynomial:
        """Entries of the parameters (all of them unless given) in every shape that differs only along AXES."""
        counted = (each.polynomial(architecture) for each in (self.parameters if parameters is None else parameters))
        return reduce(Polynomial.__add__, counted, Polynomial({}))

    # --- cutting --------------------------------------------------------------------------------------------

    def selections(self, student: Architecture, kept_layers: tuple[int, ...], unit_of: UnitOf) -> Iterator[Select]:
        """For every tensor of the student, in the table's order, where it comes from."""
        for parameter in self.parameters:
            if not parameter.present(student):
                continue
            for layer, source_layer in enumerate(kept_layers) if parameter.in_layer else ((0, None),):
                for unit in parameter.units(student):
                    source_unit = None
                    if parameter.each is not None and unit is not None:
                        source_unit = unit_of(parameter.each, source_layer, unit)
                    yield Select(
                        name=parameter.name.format(i=layer, u=unit),
                        source=parameter.name.format(i=source_layer, u=source_unit),
                        source_layer=source_layer,
                        unit=source_unit,
                        parameter=parameter,
                    )


def _first_of(error: ValidationError) -> str:
    details = error.errors()[0]
    where = "".join(f"{name}: {details['input']} " for name in details["loc"])
    return where + details["msg"].removeprefix("Value error, ").removeprefix("Input ")
