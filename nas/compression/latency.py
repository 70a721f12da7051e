"""Run time of decoder layers on the device at hand: real layers in a real model, with random weights.

A block is timed where it stands, between marks that hooks set before and after it, in whole forward passes of a model
that has two layers: what its neighbour and the head leave in the caches is then what a block of a whole model finds.
Called by itself again and again, with the inputs that it gets in the model, a block keeps its weights in the caches:
for decoding, the sum then was 0.69 to 0.73 of a whole model on a quiet CPU, where marks gave 0.99 to 1.01. Differences
between models of one and of two layers gave 0.91 to 1.06, since they carry the noise of both. What is outside of blocks
comes out of the same passes: the whole less its layers, so that the parts of a pass always sum to it.

All models are gone through several times, so that a device that is slower for some seconds is so for all of them.
"""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil

import numpy as np
import torch

from nas.architecture import Architecture
from nas.compression.kernels import attention_keeps_scores
from nas.compression.memory import FREE_SHARE, free_bytes, layers_that_fit
from nas.compression.passes import Effort, Passes, random_model, time_passes
from nas.cost import Phase
from nas.latency import (
    BlockShape,
    BlockTiming,
    Check,
    LatencyTable,
    MeasuredOn,
    OutsideTiming,
    PhaseTable,
    TimedDtype,
    Timing,
)
from nas.model_folder import ModelFolder


@dataclass(frozen=True)
class Bench:
    """What is timed: models of the teacher's kind on `device`, in `dtype`, for `batch_size` sequences of `context`.

    Each pass is repeated at least `repetitions` times and for at least `seconds`, spread over `rounds`. `room` is how
    many bytes a whole model may take; left out, most of what the device has free.
    """

    teacher: ModelFolder
    device: torch.device
    dtype: TimedDtype
    batch_size: int
    context: int
    phases: tuple[Phase, ...]
    seconds: float = 0.5
    repetitions: int = 12
    rounds: int = 3
    room: float | None = None

    @property
    def effort(self) -> Effort:
        """Of one round."""
        return Effort(warm_up=2, repetitions=ceil(self.repetitions / self.rounds), seconds=self.seconds / self.rounds)


def measure(
    bench: Bench,
    blocks: Sequence[BlockShape],
    checks: Sequence[Architecture],
    progress: Callable[[int, int], None],
) -> LatencyTable:
    """The times of `blocks`, and of the models of `checks` as wholes beside what the table says of them.

    A check that memory does not hold is timed with as many of its layers as fit. Blocks that differ in `sliding` only
    come from one model. `progress(done, total)` is called after every model that was timed.
    """
    sizes = list(dict.fromkeys(block.model_copy(update={"sliding": False}) for block in blocks))
    small = [_two_layers(bench.teacher, size) for size in sizes]
    whole = [_fitting(bench, architecture) for architecture in checks]
    samples = {phase: _Samples() for phase in bench.phases}
    done, total = 0, bench.rounds * (len(small) + len(whole))
    for _ in range(bench.rounds):
        for models, in_parts in ((small, True), (whole, False)):
            for architecture in models:
                _time(bench, architecture, samples, in_parts=in_parts)
                done += 1
                progress(done, total)
    phases = {phase: _phase_table(found) for phase, found in samples.items()}
    parts = _table(bench, phases)
    for phase, found in samples.items():
        checked = [_check(parts, phase, *pair, found.whole[pair[1]]) for pair in zip(checks, whole, strict=True)]
        phases[phase] = phases[phase].model_copy(update={"checks": tuple(checked)})
    return _table(bench, phases)


# --- models -------------------------------------------------------------------------------------------------


def _two_layers(teacher: ModelFolder, size: BlockShape) -> Architecture:
    """A model of two layers of this size: one of each type where the teacher has two types, else two that are alike."""
    sliding = 1 if teacher.architecture.has_layer_types else 2 * all(teacher.sliding_layers)
    shape = {**teacher.architecture.model_dump(), **size.model_dump(exclude={"sliding"})}
    return Architecture.model_validate({**shape, "num_hidden_layers": 2, "num_sliding_layers": sliding})


def _like(teacher: ModelFolder, architecture: Architecture) -> tuple[int, ...]:
    """Which of the teacher's layers those of a model are like: the first ones of each type.

    A teacher of one layer stands for both layers of a model.
    """
    types = {slides: [i for i, each in enumerate(teacher.sliding_layers) if each == slides] for slides in (True, False)}
    sliding = architecture.num_sliding_layers
    wanted = {True: sliding, False: architecture.num_hidden_layers - sliding}
    return tuple(
        sorted((layers * wanted[slides])[i] for slides, layers in types.items() for i in range(wanted[slides]))
    )


def _fitting(bench: Bench, architecture: Architecture) -> Architecture:
    """The model with as many of its layers as memory holds."""
    num_layers = layers_that_fit(
        architecture,
        bench.dtype,
        FREE_SHARE * free_bytes(bench.device) if bench.room is None else bench.room,
        bench.batch_size,
        bench.context,
        eager=attention_keeps_scores(bench.teacher.config),
    )
    return architecture.resized(num_hidden_layers=num_layers)


# --- times --------------------------------------------------------------------------------------------------


@dataclass
class _Samples:
    """Milliseconds of every repetition: outside of blocks by hidden size, of blocks, and of whole models."""

    outside: dict[int, list[float]] = field(default_factory=dict)
    blocks: dict[BlockShape, list[float]] = field(default_factory=dict)
    whole: dict[Architecture, list[float]] = field(default_factory=dict)


def _time(bench: Bench, architecture: Architecture, samples: dict[Phase, _Samples], *, in_parts: bool) -> None:
    """Adds the samples of one model: of its parts, or of all of it."""
    family, kept_layers = bench.teacher.family, _like(bench.teacher, architecture)
    config = family.config(bench.teacher.config, architecture, kept_layers)
    model = random_model(config, getattr(torch, bench.dtype), bench.device)
    names = [family.taps.block.format(i=i) for i in range(len(kept_layers))] if in_parts else []
    layers = [model.get_submodule(name) for name in names]
    for phase, found in samples.items():
        passes = Passes(
            model,
            phase,
            batch_size=bench.batch_size,
            context=bench.context,
            learned_positions=architecture.max_position_embeddings,
        )
        times = time_passes(passes, bench.effort, layers, bench.device)
        if not in_parts:
            found.whole.setdefault(architecture, []).extend(sum(row) for row in times)
            continue
        found.outside.setdefault(architecture.hidden_size, []).extend(sum(row[::2]) for row in times)
        for i, layer in enumerate(kept_layers):
            block = _block(architecture, sliding=bench.teacher.sliding_layers[layer])
            found.blocks.setdefault(block, []).extend(row[2 * i + 1] for row in times)


def _block(architecture: Architecture, *, sliding: bool) -> BlockShape:
    sizes = {name: getattr(architecture, name) for name in BlockShape.model_fields if name != "sliding"}
    return BlockShape(**sizes, sliding=sliding)


# --- the table ----------------------------------------------------------------------------------------------


def _table(bench: Bench, phases: Mapping[Phase, PhaseTable]) -> LatencyTable:
    return LatencyTable(
        teacher=bench.teacher.architecture,
        measured_on=_measured_on(bench),
        batch_size=bench.batch_size,
        context=bench.context,
        prefill=phases.get("prefill"),
        decode=phases.get("decode"),
    )


def _phase_table(found: _Samples) -> PhaseTable:
    return PhaseTable(
        outside=tuple(OutsideTiming(hidden_size=size, timing=_timing(ms)) for size, ms in found.outside.items()),
        blocks=tuple(BlockTiming(block=block, timing=_timing(ms)) for block, ms in found.blocks.items()),
    )


def _check(
    table: LatencyTable, phase: Phase, asked: Architecture, timed: Architecture, milliseconds: Sequence[float]
) -> Check:
    """Of a model as it was asked for, and as it was timed."""
    measured, predicted = _timing(milliseconds), table.milliseconds(timed, phase)
    return Check(
        architecture=timed,
        layers_left_out=asked.num_hidden_layers - timed.num_hidden_layers,
        predicted_milliseconds=predicted,
        measured=measured,
        ratio=measured.median / predicted,
    )


def _timing(milliseconds: Sequence[float]) -> Timing:
    lower, median, upper = np.percentile(milliseconds, (25, 50, 75)).tolist()
    return Timing(median=median, lower_quartile=lower, upper_quartile=upper, repetitions=len(milliseconds))


def _measured_on(bench: Bench) -> MeasuredOn:
    if bench.device.type == "cuda":
        name = torch.cuda.get_device_name(bench.device)
    else:
        name = str(torch.cpu.get_capabilities().get("cpu_name") or "CPU")
    return MeasuredOn(
        device=name,
        dtype=bench.dtype,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        transformers=importlib.metadata.version("transformers"),
        at=datetime.now(UTC),
    )
