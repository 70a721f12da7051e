"""What `topiary enumerate` prints: how many shapes fit, what removed the others, and what each candidate costs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rich.console import Group, RenderableType
from rich.text import Text

from api import words
from api.display import SHAPE, plain_table
from nas.architecture import Architecture
from nas.cost import Cost
from nas.spec import SearchSpec
from nas.training_cost import TrainingCost
from nas.views import EnumerationView


@dataclass(frozen=True)
class _Row:
    """A candidate, or the teacher, which nothing is retrained to get."""

    architecture: Architecture
    cost: Cost
    share: float
    trial: TrainingCost | None
    milliseconds: float | None
    budgeted: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Column:
    """What is said of each row, and what its numbers are; the least important columns give way to a narrow terminal."""

    header: str
    cell: Callable[[_Row], str]
    meaning: str = ""
    importance: int = 9


def enumeration(found: EnumerationView, spec: SearchSpec, width: int) -> RenderableType:
    """The counts, the candidates of the page with their costs, the teacher last, and what the costs are stated for."""
    rows = [
        _Row(each.architecture, each.cost, each.share_of_teacher, each.trial, each.milliseconds, each.budgeted)
        for each in found.candidates
    ]
    rows.append(_Row(found.teacher, found.teacher_cost, 1.0, None, found.teacher_milliseconds))
    columns, left_out = _fitting(_columns(found, spec), rows, width)
    table = plain_table([column.header for column in columns])
    for row in rows[:-1]:
        table.add_row(*(column.cell(row) for column in columns))
    table.add_row(*(column.cell(rows[-1]) for column in columns), style="dim")
    shown = len(found.candidates)
    more = "" if shown == found.num_candidates else f"; {shown:,} of them shown (--limit, --offset)"
    return Group(
        Text(f"{_how_many(found)}{more}"),
        *([Text("left out, for want of:", style="dim")] if found.removed else []),
        *(Text(f"{each.shapes:>15,}  {each.rule}", style="dim") for each in found.removed),
        table,
        Text("\n".join(_stated(found, spec, columns, left_out)), style="dim"),
    )


def _how_many(found: EnumerationView) -> str:
    fitting = f"{found.num_fitting:,} of {found.num_shapes:,} shapes"
    if found.num_candidates < found.num_fitting:
        return f"{found.num_candidates:,} candidates, drawn from the {fitting} that fit"
    return f"{fitting} fit"


def _columns(found: EnumerationView, spec: SearchSpec) -> list[_Column]:
    """All of them, in order; counts that matter to this spec only, where they do."""
    cost, hardware, budget = found.teacher_cost, spec.hardware, spec.budget
    served = f"of {cost.batch_size} x {cost.context:,} tokens in {cost.dtype}"
    columns = [
        _Column(
            "shape", lambda row: row.architecture.label, SHAPE + (", experts" if found.teacher.num_experts else "")
        ),
        _Column("parameters", lambda row: f"{row.cost.parameters:,}"),
    ]
    if budget.counting == "non_embedding" or budget.non_embedding_parameters is not None:
        columns.append(_Column("non-emb.", lambda row: words.parameters(row.cost.non_embedding_parameters)))
    if found.teacher.num_experts:
        columns.append(_Column("active", lambda row: words.parameters(row.cost.active_parameters), importance=8))
    for position, limit in enumerate(found.limits):
        if limit.field in _BUDGETED:
            header, unit = _BUDGETED[limit.field]
            columns.append(_Column(header, partial(_of_budget, position, unit), limit.rule, 8))
    columns += [
        _Column("share", lambda row: f"{100 * row.share:.0f} %", "of the teacher's parameters", 3),
        _Column("weights", lambda row: words.size(row.cost.weight_bytes, "B"), f"bytes in {cost.dtype}", 6),
        _Column("cache", lambda row: words.size(row.cost.kv_cache_bytes, "B"), f"bytes {served}", 5),
        _Column("prefill", lambda row: words.size(row.cost.prefill_flops_per_token, "F"), "FLOPs per token", 4),
        _Column("decode", lambda row: words.size(row.cost.decode_flops_per_token, "F"), "FLOPs of the last token", 2),
    ]
    if found.teacher_milliseconds is not None or any(each.milliseconds is not None for each in found.candidates):
        columns.append(_Column("ms", _milliseconds, "of a forward pass, by the table of the budget"))
    tokens = words.tokens(spec.trial.actual_tokens(spec.data.sequence_length))
    throughput, memory = words.size(hardware.flops_per_second, "FLOP/s"), words.size(hardware.memory_bytes, "B")
    columns.append(
        _Column("trial h", _hours, f"estimate: device-hours, {tokens} tokens, teacher included, {throughput}", 7)
    )
    if hardware.price_per_hour is not None:
        columns.append(_Column("price", _price, f"estimate: at {hardware.price_per_hour:g} an hour", 7))
    too_small = any(each.trial.estimate.devices is None for each in found.candidates)
    none = "; none: not even a micro-batch fits" if too_small else ""
    columns.append(_Column("devices", _devices, f"estimate: the fewest of {memory} that hold the trial{none}", 1))
    return columns


def _fitting(columns: list[_Column], rows: list[_Row], width: int) -> tuple[list[_Column], list[str]]:
    """As many columns as the terminal holds, and the headers of those that it does not."""
    widths = {
        column.header: 2 + max(len(column.header), *(len(column.cell(row)) for row in rows)) for column in columns
    }
    kept = list(columns)
    while sum(widths[column.header] for column in kept) + 2 > width and len(kept) > 2:
        kept.remove(min(kept[1:], key=lambda column: column.importance))
    return kept, [column.header for column in columns if column not in kept]


_BUDGETED = {"budget.memory": ("memory", "B"), "budget.flops": ("FLOPs", "F")}
"""Limits on what no other column shows, since they have a context of their own: header and unit."""


def _of_budget(position: int, unit: str, row: _Row) -> str:
    return words.size(row.budgeted[position], unit) if row.budgeted else ""


def _milliseconds(row: _Row) -> str:
    return "" if row.milliseconds is None else f"{row.milliseconds:,.3g}"


def _hours(row: _Row) -> str:
    if row.trial is None:
        return ""
    hours = row.trial.estimate.device_hours
    return f"{hours:,.1f}" if hours >= 0.1 else "< 0.1"


def _price(row: _Row) -> str:
    price = None if row.trial is None else row.trial.estimate.price
    return "" if price is None else f"{price:,.2f}"


def _devices(row: _Row) -> str:
    return "" if row.trial is None else str(row.trial.estimate.devices or "none")


def _stated(found: EnumerationView, spec: SearchSpec, columns: list[_Column], left_out: list[str]) -> list[str]:
    """What the columns mean, and what is not shown."""
    lines = [f"{column.header + ':':<10}{column.meaning}" for column in columns if column.meaning]
    lines.append("Last row: the teacher. Counts, bytes and FLOPs are exact. --json has training FLOPs and memory too.")
    if left_out:
        lines.append(f"Not shown in this width: {', '.join(left_out)}.")
    if not found.weights_checked:
        lines.append("From the teacher's config alone: there are no weights to look at.")
    if found.teacher.num_experts and any(_uneven(each.architecture) for each in found.candidates):
        lines.append(
            "transformers runs experts by kernels that want sizes in multiples of 8: ask for them by space.multiple_of."
        )
    return lines


def _uneven(architecture: Architecture) -> bool:
    """Whether transformers' grouped products, which want rows of a multiple of 16 bytes, refuse it in bfloat16."""
    return bool(architecture.hidden_size % 8 or architecture.intermediate_size % 8)
