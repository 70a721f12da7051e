"""Run time of decoder layers on the device at hand: real layers in a real model, with random weights.

A block is timed where it stands, between marks that hooks set before and after it, in whole forward passes of a model
that has two layers: what its neighbours and the head leave in the caches is then what a block of a whole model finds.
Called by itself again and again, with the inputs that it gets in the model, a block keeps its weights in the caches;
for decoding, that came to 0.62 to 0.78 of the truth on a CPU, where marks came to 0.96 to 1.09. Differences between
models of one and two layers need no hooks, but carry the noise of both. What is outside of blocks comes out of the
same passes: the whole less its layers, so that the parts of a pass always sum to it.

On a GPU the marks are CUDA events of one stream, so gaps in which the device waits for the CPU belong to the part in
which they arise, and sums stay whole. That path has not run on a GPU yet.
"""

import copy
import gc
import importlib.metadata
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from nas.architecture import Architecture
from nas.compression.checkpoint import _attention, parse_config
from nas.compression.memory import layers_that_fit
from nas.families import Family
from nas.latency import (
    BlockShape,
    BlockTiming,
    Check,
    LatencyTable,
    MeasuredOn,
    OutsideTiming,
    Phase,
    PhaseTable,
    TimedDtype,
    Timing,
)
from nas.model_folder import ModelFolder

_POOL = 1_000_003
"""Random numbers that weights are filled with, over and over; a prime, so that no two rows are equal."""


@dataclass(frozen=True)
class Effort:
    """How often a pass is repeated: `warm_up` times for nothing, then until both of the others are reached."""

    warm_up: int = 2
    repetitions: int = 10
    seconds: float = 0.5


@dataclass(frozen=True)
class Bench:
    """What is timed: models of the teacher's kind on `device`, in `dtype`, for `batch_size` sequences of `context`."""

    teacher: ModelFolder
    device: torch.device
    dtype: TimedDtype
    batch_size: int
    context: int
    effort: Effort = Effort()

    @property
    def family(self) -> Family:
        return self.teacher.family

    @property
    def torch_dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.dtype)
        return found


def measure(
    bench: Bench,
    blocks: Sequence[BlockShape],
    checks: Sequence[Architecture],
    phases: Sequence[Phase],
    progress: Callable[[int, int], None],
) -> LatencyTable:
    """The times of `blocks`, and of the models of `checks` as wholes beside what the table says of them.

    A check that memory does not hold is timed with as many of its layers as fit. `progress(done, total)` is called
    after every model that was timed. Blocks that differ in `sliding` only come from one model.
    """
    sizes = list(dict.fromkeys(block.model_copy(update={"sliding": False}) for block in blocks))
    total = len(sizes) + len(checks)
    parts: dict[Phase, list[_Parts]] = {phase: [] for phase in phases}
    for done, size in enumerate(sizes, start=1):
        architecture, kept_layers = _two_layers(bench.teacher, size)
        with _built(bench, architecture, kept_layers) as model:
            for phase in phases:
                parts[phase].append(_time_parts(bench, model, phase, size, kept_layers))
        progress(done, total)
    tables = {phase: _phase_table(of_phase) for phase, of_phase in parts.items()}
    table = LatencyTable(
        teacher=bench.teacher.architecture,
        measured_on=_measured_on(bench),
        batch_size=bench.batch_size,
        context=bench.context,
        prefill=tables.get("prefill"),
        decode=tables.get("decode"),
    )
    checked: dict[Phase, list[Check]] = {phase: [] for phase in phases}
    for done, architecture in enumerate(checks, start=len(sizes) + 1):
        for phase, check in _check(bench, architecture, table, phases):
            checked[phase].append(check)
        progress(done, total)
    return table.model_copy(
        update={
            str(phase): tables[phase].model_copy(update={"checks": tuple(found)}) for phase, found in checked.items()
        }
    )


# --- models -------------------------------------------------------------------------------------------------


def _two_layers(teacher: ModelFolder, size: BlockShape) -> tuple[Architecture, tuple[int, ...]]:
    """A model of two layers of this size, one of each type that the teacher has; which of its layers they are like."""
    kept_layers = tuple(sorted({teacher.sliding_layers.index(slides) for slides in teacher.sliding_layers}))
    kept_layers = kept_layers if len(kept_layers) == 2 else kept_layers * 2
    shape = {**teacher.architecture.model_dump(), **size.model_dump(exclude={"sliding"})}
    sliding = sum(teacher.sliding_layers[layer] for layer in kept_layers)
    return Architecture.model_validate({**shape, "num_hidden_layers": 2, "num_sliding_layers": sliding}), kept_layers


def _whole(teacher: ModelFolder, architecture: Architecture) -> tuple[int, ...]:
    """Layers of the teacher that a model of this shape may have been cut from: the first ones of each type."""
    sliding = [layer for layer, slides in enumerate(teacher.sliding_layers) if slides]
    others = [layer for layer, slides in enumerate(teacher.sliding_layers) if not slides]
    num_sliding = architecture.num_sliding_layers
    return tuple(sorted(sliding[:num_sliding] + others[: architecture.num_hidden_layers - num_sliding]))


@contextmanager
def _built(bench: Bench, architecture: Architecture, kept_layers: tuple[int, ...]) -> Iterator[Any]:
    """A model with random weights, gone after the block."""
    config = parse_config(bench.family.config(bench.teacher.config, architecture, kept_layers))
    chosen = {"attn_implementation": _attention(config), **_experts(architecture, bench.torch_dtype)}
    # transformers would draw every weight anew, which takes longer than all that is timed.
    with no_init_weights(), bench.device:
        model: Any = AutoModelForCausalLM.from_config(config, dtype=bench.torch_dtype, **chosen).eval()
    model.tie_weights()
    _fill(model, bench)
    try:
        yield model
    finally:
        del model
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def _experts(architecture: Architecture, dtype: torch.dtype) -> dict[str, str]:
    """The plain way to run experts, where their rows are no multiples of 16 bytes, which the usual one needs."""
    rows = (architecture.hidden_size, architecture.intermediate_size)
    fits = all(row * dtype.itemsize % 16 == 0 for row in rows)
    return {} if fits or not architecture.num_experts else {"experts_implementation": "eager"}


def _fill(model: torch.nn.Module, bench: Bench) -> None:
    """Matrices at random, so that routers spread tokens over experts; norms at 1 and biases at 0."""
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(bench.device, bench.torch_dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                for piece in parameter.view(-1).split(_POOL):
                    piece.copy_(pool[: len(piece)])
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)


# --- passes -------------------------------------------------------------------------------------------------


class Passes:
    """Forward passes of one phase, each with the cache as it was before the first.

    Prefill is one pass over batch_size x context tokens into an empty cache; decode is one more token for each
    sequence, with the keys and values of `context` tokens in the cache. Only the logits of the last token are
    computed, as for generating text.
    """

    def __init__(self, bench: Bench, model: Any, phase: Phase) -> None:
        self._model = model
        vocabulary, positions = (
            bench.teacher.architecture.vocab_size,
            bench.teacher.architecture.max_position_embeddings,
        )
        generator = torch.Generator().manual_seed(0)
        shape_BT = (bench.batch_size, bench.context)
        self._inputs_BT = torch.randint(vocabulary, shape_BT, generator=generator).to(bench.device)
        self._positions_BT: torch.Tensor | None = None
        self.cache: Any = None
        if phase == "decode":
            self.cache = self()
            self._inputs_BT = self._inputs_BT[:, -1:].contiguous()
            # Learned positions may end with the context; which one is looked up makes no difference in time.
            position = min(bench.context, positions - 1) if positions else bench.context
            self._positions_BT = torch.full((bench.batch_size, 1), position, device=bench.device)

    def cache_before(self) -> Any:
        """A cache to go on from. A pass puts new tensors in place of the old ones, which stay as they are."""
        if self.cache is None:
            return None
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        return cache

    @torch.no_grad()
    def __call__(self, cache: Any = None) -> Any:
        """The cache after a pass that begins with `cache`."""
        output = self._model(
            self._inputs_BT,
            past_key_values=cache,
            position_ids=self._positions_BT,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.past_key_values


class _Marks:
    """Moments of a pass: of the CPU, or, where the device works for itself, events in its stream."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._moments: list[Any] = []

    def set(self, *_: object) -> None:
        if self._is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._moments.append(event)
        else:
            self._moments.append(time.perf_counter())

    def wait(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize()

    def take(self) -> list[float]:
        """Milliseconds between each mark and the next; no mark is left."""
        self.wait()
        pairs = zip(self._moments, self._moments[1:], strict=False)
        times = [before.elapsed_time(after) if self._is_cuda else (after - before) * 1e3 for before, after in pairs]
        self._moments = []
        return times


def _time(bench: Bench, model: Any, phase: Phase, layers: Iterable[torch.nn.Module]) -> list[list[float]]:
    """For each repetition, milliseconds between the marks: before the pass, at both ends of each layer, after it."""
    passes, marks, effort = Passes(bench, model, phase), _Marks(bench.device), bench.effort
    hooks: list[Any] = []
    for layer in layers:
        hooks += [layer.register_forward_pre_hook(marks.set), layer.register_forward_hook(marks.set)]

    def once() -> list[float]:
        cache = passes.cache_before()
        marks.wait()
        marks.set()
        passes(cache)
        marks.set()
        return marks.take()

    try:
        for _ in range(effort.warm_up):
            once()
        times: list[list[float]] = []
        begun = time.perf_counter()
        while len(times) < effort.repetitions or time.perf_counter() - begun < effort.seconds:
            times.append(once())
    finally:
        for hook in hooks:
            hook.remove()
    return times


# --- tables -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """Milliseconds of every repetition: outside of blocks, and in each block of these sizes."""

    hidden_size: int
    outside: list[float]
    blocks: dict[BlockShape, list[float]]


def _time_parts(bench: Bench, model: Any, phase: Phase, size: BlockShape, kept_layers: tuple[int, ...]) -> _Parts:
    block_name = bench.family.taps.block
    times = _time(bench, model, phase, [model.get_submodule(block_name.format(i=i)) for i in range(len(kept_layers))])
    blocks: dict[BlockShape, list[float]] = {}
    for i, layer in enumerate(kept_layers):
        block = size.model_copy(update={"sliding": bench.teacher.sliding_layers[layer]})
        blocks.setdefault(block, []).extend(row[2 * i + 1] for row in times)
    return _Parts(size.hidden_size, [sum(row[::2]) for row in times], blocks)


def _phase_table(parts: Sequence[_Parts]) -> PhaseTable:
    outside: dict[int, list[float]] = {}
    for each in parts:
        outside.setdefault(each.hidden_size, []).extend(each.outside)
    blocks = [(block, times) for each in parts for block, times in each.blocks.items()]
    return PhaseTable(
        outside=tuple(OutsideTiming(hidden_size=size, timing=_timing(times)) for size, times in outside.items()),
        blocks=tuple(BlockTiming(block=block, timing=_timing(times)) for block, times in blocks),
    )


def _check(
    bench: Bench, architecture: Architecture, table: LatencyTable, phases: Sequence[Phase]
) -> Iterator[tuple[Phase, Check]]:
    num_layers = _layers_that_fit(bench, architecture)
    fitting = architecture.resized(num_hidden_layers=num_layers)
    with _built(bench, fitting, _whole(bench.teacher, fitting)) as model:
        for phase in phases:
            measured = _timing([sum(row) for row in _time(bench, model, phase, ())])
            predicted = table.milliseconds(fitting, phase)
            yield (
                phase,
                Check(
                    architecture=fitting,
                    layers_left_out=architecture.num_hidden_layers - num_layers,
                    predicted_milliseconds=predicted,
                    measured=measured,
                    ratio=measured.median / predicted,
                ),
            )


def _layers_that_fit(bench: Bench, architecture: Architecture) -> int:
    eager = _attention(parse_config(bench.teacher.config)) == "eager"
    return layers_that_fit(architecture, bench.dtype, bench.device, bench.batch_size, bench.context, eager=eager)


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
