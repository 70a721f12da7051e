"""Measured latency: times of single blocks on one device, and sums of them for whole models.

As in Puzzle (arXiv 2411.19146): every distinct block is timed on the hardware at hand, and a model takes what its
blocks take, besides what comes before and after them.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from nas.architecture import AXES, Architecture
from nas.border import Border, Number
from nas.cost import Phase
from nas.durable import write_text
from nas.errors import SpecError

PHASES: tuple[Phase, ...] = ("prefill", "decode")
TimedDtype = Literal["float32", "bfloat16", "float16"]
"""What weights and products may be in; for others, a model would have to be quantised first."""

TIMED_DTYPES: tuple[TimedDtype, ...] = ("float32", "bfloat16", "float16")

_FIELD = "budget.latency.table"
_ACCEPTED = "a file that topiary latency wrote"
_SHARED = tuple(name for name in Architecture.model_fields if name not in (*AXES, "num_sliding_layers"))
"""What all blocks of a table have in common, besides their sizes along AXES."""


class BlockShape(Border):
    """The sizes of one decoder layer, attention and MLP together; `sliding`: it attends to a window only."""

    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    num_experts: int = Field(default=0, ge=0)
    sliding: bool = False

    @property
    def label(self) -> str:
        """Hidden x intermediate x heads, as in `4096 x 16384 x 48/8 (sliding)`."""
        heads = f"{self.num_attention_heads}/{self.num_key_value_heads}"
        experts = [f"{self.num_experts} experts"] if self.num_experts else []
        sizes = " x ".join([str(self.hidden_size), str(self.intermediate_size), heads, *experts])
        return f"{sizes} (sliding)" if self.sliding else sizes


def blocks_of(architecture: Architecture) -> dict[BlockShape, int]:
    """How many blocks of each shape a model has: layers that attend to everything, and to a window, are two shapes."""
    sizes = {name: getattr(architecture, name) for name in BlockShape.model_fields if name in AXES}
    sliding = architecture.num_sliding_layers
    counts = {False: architecture.num_hidden_layers - sliding, True: sliding}
    return {BlockShape(**sizes, sliding=slides): count for slides, count in counts.items() if count}


class Timing(Border):
    """Milliseconds: the median of all repetitions, and the quartiles below and above it."""

    median: Number = Field(ge=0)
    lower_quartile: Number = Field(ge=0)
    upper_quartile: Number = Field(ge=0)
    repetitions: int = Field(gt=0)


class OutsideTiming(Border):
    """What a forward pass takes outside of blocks: embedding, masks, positions, final norm, and the head."""

    hidden_size: int = Field(gt=0)
    timing: Timing


class BlockTiming(Border):
    block: BlockShape
    timing: Timing


class Check(Border):
    """A model timed as a whole, held against the sum of its parts; `ratio` is measured / predicted.

    `layers_left_out` counts those without which it was timed, since memory would not have held the whole.
    """

    architecture: Architecture
    layers_left_out: int = 0
    predicted_milliseconds: Number
    measured: Timing
    ratio: Number


class PhaseTable(Border):
    """All times of one phase."""

    outside: tuple[OutsideTiming, ...]
    blocks: tuple[BlockTiming, ...]
    checks: tuple[Check, ...] = ()


class MeasuredOn(Border):
    """What the times are of; `threads` are torch's on the CPU."""

    device: str
    dtype: TimedDtype
    threads: int
    torch: str
    transformers: str
    at: datetime


class LatencyTable(Border):
    """Times of blocks for `batch_size` sequences of `context` tokens, with random weights.

    They hold for every model that differs from `teacher` only along AXES. A phase that was not measured is None.
    """

    format: Literal[1] = 1
    teacher: Architecture
    measured_on: MeasuredOn
    batch_size: int = Field(gt=0)
    context: int = Field(gt=0)
    prefill: PhaseTable | None = None
    decode: PhaseTable | None = None

    @property
    def family(self) -> str:
        return self.teacher.family

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Those that were measured."""
        return tuple(self._times)

    @cached_property
    def _times(self) -> dict[Phase, tuple[dict[int, float], dict[BlockShape, float]]]:
        """Milliseconds for each phase: outside of blocks by hidden size, and of each block."""
        given = {phase: self._of(phase) for phase in PHASES}
        return {
            phase: (
                {each.hidden_size: each.timing.median for each in table.outside},
                {each.block: each.timing.median for each in table.blocks},
            )
            for phase, table in given.items()
            if table is not None
        }

    def _of(self, phase: Phase) -> PhaseTable | None:
        return self.prefill if phase == "prefill" else self.decode

    def checks(self, phase: Phase) -> tuple[Check, ...]:
        """Empty where the phase was not measured."""
        table = self._of(phase)
        return () if table is None else table.checks

    def milliseconds(self, architecture: Architecture, phase: Phase) -> float:
        """Of one forward pass: what is outside of blocks, and the sum over blocks.

        Raises SpecError, which names `budget.latency`, for a phase or a block that was not measured, and for a model
        that differs from the table's teacher in more than AXES.
        """
        if phase not in self._times:
            accepted = " or ".join(self.phases) or "a table with a measured phase"
            raise SpecError("budget.latency.phase", phase, "was not measured for this table", accepted)
        self._check_same_kind(architecture)
        outside, blocks = self._times[phase]
        counts = blocks_of(architecture)
        for block in counts:
            if block not in blocks or architecture.hidden_size not in outside:
                problem = f"has no time for the block {block.label} of {architecture.label}"
                raise SpecError(_FIELD, f"the table of {self._measured}", problem, "one measured for this space")
        return outside[architecture.hidden_size] + sum(count * blocks[block] for block, count in counts.items())

    def covers(self, architectures: Iterable[Architecture]) -> bool:
        """Whether `milliseconds` has an answer for each of them, in every phase that was measured."""
        try:
            for architecture in architectures:
                for phase in self.phases:
                    self.milliseconds(architecture, phase)
        except SpecError:
            return False
        return bool(self.phases)

    @property
    def _measured(self) -> str:
        """As in `2027-03-01`: tables of one name are told apart by their dates."""
        return f"{self.measured_on.at:%Y-%m-%d}"

    def _check_same_kind(self, architecture: Architecture) -> None:
        for name in _SHARED:
            given, measured = getattr(architecture, name), getattr(self.teacher, name)
            if given != measured:
                problem = f"was measured for models with {name} {measured}, not {given}"
                raise SpecError(_FIELD, f"the table of {self._measured}", problem, "one measured for this teacher")


def read_table(path: Path, family: str | None = None) -> LatencyTable:
    """The table in a file, which has to be of `family` if that is given.

    Raises SpecError, which names `budget.latency.table`, for a file that is missing, damaged, or of another family.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(_FIELD, str(path), "does not exist", _ACCEPTED) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SpecError(_FIELD, str(path), f"cannot be read ({reason})", _ACCEPTED) from error
    try:
        table = LatencyTable.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise SpecError(_FIELD, str(path), f"is no table of measured latency ({reason})", _ACCEPTED) from error
    if family is not None and table.family != family:
        problem = f"was measured for a {table.family}, not for a {family}"
        raise SpecError(_FIELD, str(path), problem, "a table of the teacher's own family")
    return table


def write_table(path: Path, table: LatencyTable) -> None:
    """Writes the table as JSON; the file appears whole or not at all."""
    write_text(path, table.model_dump_json(indent=2) + "\n")
