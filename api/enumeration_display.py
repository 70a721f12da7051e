"""What `topiary enumerate` prints: how many shapes fit, what removed the others, and what each candidate costs."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api import words
from api.display import SHAPE, plain_table
from nas.spec import SearchSpec
from nas.views import CandidateView, EnumerationView


def enumeration(found: EnumerationView, spec: SearchSpec) -> RenderableType:
    """The counts, the candidates of the page with their costs, the teacher last, and what the costs are stated for."""
    table = plain_table(_headers(found))
    for row in found.candidates:
        table.add_row(*_cells(row, found))
    _add_teacher(table, found)
    shown = len(found.candidates)
    more = "" if shown == found.num_candidates else f"; {shown:,} of them shown (--limit, --offset)"
    return Group(
        Text(f"{_how_many(found)}{more}"),
        *(Text(f"  {each.shapes:>15,} removed: {each.rule}", style="dim") for each in found.removed),
        table,
        Text(_stated(found, spec), style="dim"),
    )


def _how_many(found: EnumerationView) -> str:
    fitting = f"{found.num_fitting:,} of {found.num_shapes:,} shapes fit"
    if found.num_candidates < found.num_fitting:
        return f"{found.num_candidates:,} candidates, drawn from the {fitting.replace('fit', 'that fit')}"
    return fitting


def _headers(found: EnumerationView) -> list[str]:
    active = ["active"] if found.teacher.num_experts else []
    measured = ["ms"] if found.teacher_milliseconds is not None else []
    return [
        "shape", "parameters", "non-emb.", *active, "share", "weights", "KV cache", "prefill", "decode", *measured,
        "trial h", "devices",
    ]  # fmt: skip


def _cells(row: CandidateView, found: EnumerationView) -> list[str]:
    cost = row.cost
    active = [words.parameters(cost.active_parameters)] if found.teacher.num_experts else []
    measured = [_milliseconds(row.milliseconds)] if found.teacher_milliseconds is not None else []
    return [
        row.architecture.label,
        f"{cost.parameters:,}",
        words.parameters(cost.non_embedding_parameters),
        *active,
        f"{100 * row.share_of_teacher:.1f} %",
        words.size(cost.weight_bytes, "B"),
        words.size(cost.kv_cache_bytes, "B"),
        words.size(cost.prefill_flops_per_token, "F"),
        words.size(cost.decode_flops_per_token, "F"),
        *measured,
        f"{row.trial.device_hours:,.3g}",
        "none" if row.trial.devices is None else str(row.trial.devices),
    ]


def _add_teacher(table: Table, found: EnumerationView) -> None:
    trial = found.candidates[0].trial if found.candidates else None
    if trial is None:
        return
    teacher = CandidateView(
        architecture=found.teacher,
        cost=found.teacher_cost,
        trial=trial,
        share_of_teacher=1.0,
        milliseconds=found.teacher_milliseconds,
    )
    table.add_row(*_cells(teacher, found)[:-2], "", "", style="dim")


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}"


def _stated(found: EnumerationView, spec: SearchSpec) -> str:
    cost, hardware = found.teacher_cost, spec.hardware
    tokens = words.tokens(spec.trial.actual_tokens(spec.data.sequence_length))
    checked = "" if found.weights_checked else "\nfrom the teacher's config alone: its weights were not looked at"
    return (
        f"shape: {SHAPE}; last row: the teacher. Exact: counts; weights and cache in {cost.dtype}, cache of "
        f"{cost.batch_size} x {cost.context:,} tokens; FLOPs of a forward pass per token.\n"
        f"Estimates: trial h, device-hours for {tokens} tokens with the teacher's pass at "
        f"{words.size(hardware.flops_per_second, 'FLOP/s')}; devices, the fewest of "
        f"{words.size(hardware.memory_bytes, 'B')} that hold it{checked}"
    )
