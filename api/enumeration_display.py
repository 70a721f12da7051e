"""What `topiary enumerate` prints: how many shapes fit, what removed the others, and what each candidate costs."""

from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.text import Text

from api import words
from api.display import SHAPE, plain_table
from nas.spec import SearchSpec
from nas.views import CandidateView, EnumerationView


def enumeration(found: EnumerationView, spec: SearchSpec) -> RenderableType:
    """The counts, the candidates of the page with their costs, the teacher last, and what the costs are stated for."""
    columns = _columns(found, spec)
    table = plain_table(list(columns))
    for row in found.candidates:
        table.add_row(*(cell(row) for cell in columns.values()))
    table.add_row(*(cell(_teacher(found)) for cell in columns.values()), style="dim")
    shown = len(found.candidates)
    more = "" if shown == found.num_candidates else f"; {shown:,} of them shown (--limit, --offset)"
    return Group(
        Text(f"{_how_many(found)}{more}"),
        *(Text(f"  {each.shapes:>15,} removed: {each.rule}", style="dim") for each in found.removed),
        table,
        Text("\n".join(_stated(found, spec)), style="dim"),
    )


def _how_many(found: EnumerationView) -> str:
    fitting = f"{found.num_fitting:,} of {found.num_shapes:,} shapes"
    if found.num_candidates < found.num_fitting:
        return f"{found.num_candidates:,} candidates, drawn from the {fitting} that fit"
    return f"{fitting} fit"


Columns = dict[str, Callable[[CandidateView], str]]


def _columns(found: EnumerationView, spec: SearchSpec) -> Columns:
    """What is said of each candidate; counts that matter to this spec only, where they do."""
    non_embedding = spec.budget.counting == "non_embedding" or spec.budget.non_embedding_parameters is not None
    columns: Columns = {
        "shape": lambda row: row.architecture.label,
        "parameters": lambda row: f"{row.cost.parameters:,}",
    }
    if non_embedding:
        columns["non-emb."] = lambda row: words.parameters(row.cost.non_embedding_parameters)
    if found.teacher.num_experts:
        columns["active"] = lambda row: words.parameters(row.cost.active_parameters)
    columns |= {
        "share": lambda row: f"{100 * row.share_of_teacher:.0f} %",
        "weights": lambda row: _short(row.cost.weight_bytes, "B"),
        "cache": lambda row: _short(row.cost.kv_cache_bytes, "B"),
        "prefill": lambda row: _short(row.cost.prefill_flops_per_token, "F"),
        "decode": lambda row: _short(row.cost.decode_flops_per_token, "F"),
    }
    if found.teacher_milliseconds is not None:
        columns["ms"] = lambda row: "" if row.milliseconds is None else f"{row.milliseconds:,.3g}"
    columns["trial h"] = lambda row: "" if row.trial is None else _hours(row.trial.device_hours)
    if spec.hardware.price_per_hour is not None:
        columns["price"] = lambda row: "" if row.trial is None or row.trial.price is None else f"{row.trial.price:,.2f}"
    columns["devices"] = lambda row: "" if row.trial is None else str(row.trial.devices or "none")
    return columns


def _teacher(found: EnumerationView) -> CandidateView:
    """The teacher as a row: nothing is retrained to get it."""
    return CandidateView(
        architecture=found.teacher,
        cost=found.teacher_cost,
        trial=None,
        share_of_teacher=1.0,
        milliseconds=found.teacher_milliseconds,
    )


def _short(value: float, unit: str) -> str:
    """`7.87 MB`, `537 MB`: three digits tell candidates apart."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:#.3g}".rstrip(".") + f" {prefix}{unit}"
    return f"{value:,.0f} {unit}"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 0.1 else "< 0.1"


def _stated(found: EnumerationView, spec: SearchSpec) -> list[str]:
    cost, hardware = found.teacher_cost, spec.hardware
    tokens = words.tokens(spec.trial.actual_tokens(spec.data.sequence_length))
    throughput, memory = words.size(hardware.flops_per_second, "FLOP/s"), words.size(hardware.memory_bytes, "B")
    served = f"cache of {cost.batch_size} x {cost.context:,} tokens"
    lines = [
        f"shape: {SHAPE}; last row: the teacher",
        f"exact: counts; bytes in {cost.dtype}, {served}; FLOPs of a forward pass per token",
        f"estimates: hours of one device for a trial of {tokens} tokens, teacher included, at {throughput};",
        f"the fewest devices of {memory} that hold the trial",
    ]
    if not found.weights_checked:
        lines.append("from the teacher's config alone: there are no weights to look at")
    return lines
