"""`topiary latency`: times the blocks of a spec's candidates on the hardware at hand, and keeps them in a table."""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.text import Text

from api.display import FILE_WIDTH, SHAPE, plain_table
from api.exit_codes import SUCCESS
from api.one_job import JobFailed, jobs_beside, new_place
from nas.architecture import Architecture, sizes_of
from nas.cost import CostModel, Phase
from nas.enumeration import Enumeration, enumerate_candidates
from nas.errors import SpecError
from nas.families import family_named
from nas.hub import config_folder
from nas.jobs import Latency, LatencyMeasured
from nas.latency import (
    PHASES,
    TIMED_DTYPES,
    BlockShape,
    LatencyTable,
    TimedDtype,
    blocks_of,
    read_table,
    write_table,
)
from nas.model_folder import ModelFolder, inspect_config_folder
from nas.spec import SearchSpec
from nas.spec_file import read_spec

MOST_SHAPES = 500
"""Of blocks, unless the user wants more: at some seconds each, that is most of an hour."""

SECONDS = 0.5
"""For which every pass is repeated, unless the user says otherwise."""


@dataclass(frozen=True)
class Plan:
    """What is to be timed, and the candidates that the summary tells of."""

    job: Latency
    teacher: Architecture
    num_candidates: int
    smallest: Architecture
    largest: Architecture


def latency(parsed: argparse.Namespace) -> int:
    into = new_place("--into", parsed.into, "file")
    spec = read_spec(parsed.spec)
    phases = PHASES if parsed.phase == "both" else (parsed.phase,)
    plan = plan_of(spec, phases, most_shapes=parsed.shapes, seconds=parsed.seconds)
    try:
        with jobs_beside(into, parsed.ray_address) as jobs:
            table = read_table(Path(jobs.run_one(plan.job, LatencyMeasured, _said(plan)).table))
    except JobFailed as error:
        return error.told("the measurement")
    write_table(into, table)
    if parsed.json:
        print(table.model_dump_json())
    else:
        width = None if sys.stdout.isatty() else FILE_WIDTH
        Console(width=width).print(summary(plan, table), Text(f"table           {into}"), highlight=False)
    return SUCCESS


# --- what is to be timed ------------------------------------------------------------------------------------


def plan_of(
    spec: SearchSpec, phases: tuple[Phase, ...], *, most_shapes: int = MOST_SHAPES, seconds: float = SECONDS
) -> Plan:
    """The distinct blocks of all candidates and of the teacher, and its smallest and largest candidate as checks.

    What the table is for, the budget's own `latency`, is set aside. Such a budget has to know every shape that the
    others leave, so then none is sampled or thinned out. Raises UserError for a spec that cannot be used, and for
    more than `most_shapes` blocks.
    """
    teacher = inspect_config_folder(config_folder(spec.teacher))
    parameters = CostModel(teacher.architecture).parameters("total")

    def count(shape: Architecture) -> int:
        return parameters.at(sizes_of(shape))

    blocks, num_candidates = set(blocks_of(teacher.architecture)), 0
    ends: list[Architecture] = []
    for candidate in _candidates(spec, teacher.architecture):
        num_candidates += 1
        blocks.update(blocks_of(candidate))
        if len(blocks) > most_shapes:
            problem = f"has candidates of more than {most_shapes:,} different blocks, too many to time"
            accepted = "fewer sizes along its axes, or a larger --shapes"
            raise SpecError("space", spec.space.model_dump(exclude_none=True), problem, accepted)
        ends = [min([*ends[:1], candidate], key=count), max([*ends[1:], candidate], key=count)]
    smallest, largest = ends
    job = Latency(
        teacher=spec.teacher,
        blocks=tuple(sorted(blocks, key=_size, reverse=True)),
        checks=tuple(dict.fromkeys((smallest, largest))),
        phases=phases,
        batch_size=spec.serving.batch_size,
        context=_context(spec, teacher.architecture),
        dtype=_dtype(spec, teacher),
        seconds=seconds,
        resources=spec.resources,
    )
    return Plan(job, teacher.architecture, num_candidates, smallest, largest)


def _size(block: BlockShape) -> tuple[int, ...]:
    """Large blocks come first: if memory does not hold one, that shows at once."""
    return tuple(block.model_dump().values())


def _candidates(spec: SearchSpec, teacher: Architecture) -> Iterable[Architecture]:
    budget, space = spec.budget, spec.space
    if budget.latency is not None:
        budget = budget.model_copy(update={"latency": None})
        space = space.model_copy(update={"thin": None})
    found: Enumeration = enumerate_candidates(space, budget, teacher, sequence_length=spec.data.sequence_length)
    if spec.sample_size is None or spec.budget.latency is not None:
        return found
    return found.sample(spec.sample_size, spec.seed)


def _context(spec: SearchSpec, teacher: Architecture) -> int:
    """Tokens of a sequence; learned positions end somewhere."""
    context = spec.context
    if 0 < teacher.max_position_embeddings < context:
        field = "serving.context" if spec.serving.context is not None else "data.sequence_length"
        positions = teacher.max_position_embeddings
        problem = f"is longer than the teacher's {positions} learned positions"
        raise SpecError(field, context, problem, f"up to {positions}")
    return context


def _dtype(spec: SearchSpec, teacher: ModelFolder) -> TimedDtype:
    """What the spec says that weights are served in; else what the teacher's are stored in."""
    given = spec.serving.dtype or teacher.dtype
    timed = next((dtype for dtype in TIMED_DTYPES if dtype == given), None)
    if timed is None:
        accepted = f"{', '.join(TIMED_DTYPES)}, or nothing for the teacher's own"
        raise SpecError("serving.dtype", given, "cannot be timed, since nothing here computes in it", accepted)
    return timed


def _said(plan: Plan) -> str:
    job = plan.job
    return (
        f"timing {len(job.blocks)} blocks of {plan.num_candidates:,} candidates and the teacher, "
        f"{job.batch_size} x {job.context:,} tokens in {job.dtype}"
    )


# --- telling it ---------------------------------------------------------------------------------------------


def summary(plan: Plan, table: LatencyTable) -> RenderableType:
    """Milliseconds of the teacher and of the smallest and largest candidate, and how wholes compare with sums."""
    sums = plain_table(["", "shape", "parameters", *(f"{phase} ms" for phase in table.phases)])
    rows = {"teacher": plan.teacher, "largest": plan.largest, "smallest": plan.smallest}
    for name, shape in rows.items():
        times = [_milliseconds(table.milliseconds(shape, phase)) for phase in table.phases]
        sums.add_row(name, shape.label, f"{family_named(shape.family).count(shape):,}", *times)
    checks = plain_table(["measured whole", "phase", "by blocks ms", "measured ms", "quartiles", "ratio", "left out"])
    for phase in table.phases:
        for check in table.checks(phase):
            checks.add_row(
                check.architecture.label,
                phase,
                _milliseconds(check.predicted_milliseconds),
                _milliseconds(check.measured.median),
                f"{_milliseconds(check.measured.lower_quartile)} to {_milliseconds(check.measured.upper_quartile)}",
                f"{check.ratio:.2f}",
                f"{check.layers_left_out} layers" if check.layers_left_out else "",
            )
    on = table.measured_on
    told = (
        f"{len(_blocks(table))} blocks, {table.batch_size} x {table.context:,} tokens in {on.dtype} "
        f"on {on.device}, {on.threads} CPU thread{'' if on.threads == 1 else 's'}"
    )
    return Group(Text(told), sums, checks, Text(f"shape: {SHAPE}; ratio: measured / by blocks", style="dim"))


def _blocks(table: LatencyTable) -> set[BlockShape]:
    return {each.block for of_phase in (table.prefill, table.decode) if of_phase for each in of_phase.blocks}


def _milliseconds(value: float) -> str:
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
