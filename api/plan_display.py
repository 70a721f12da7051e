"""What `topiary plan` prints: one line for each strategy, what comes beside the trials, and what it rests on."""

from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api import words
from api.display import plain_table
from nas.plan import Outlay, PlanView, StrategyPlan
from nas.spec import SearchSpec

_BESIDE = {
    "correction": "correction",
    "teacher_answers": "teacher's answers",
    "sweep": "sweep",
    "promotion": "promotion",
}


def plan(found: PlanView, spec: SearchSpec) -> RenderableType:
    """The strategies side by side, the spec's own marked and summed up, and how it was reckoned."""
    headers = ["strategy", "candidates", "tokens", "share", "device-hours", "price", "wall time"]
    if spec.hardware.price_per_hour is None:
        headers.remove("price")
    table = plain_table(headers)
    table.columns[0].justify = table.columns[1].justify = "left"
    for each in found.strategies:
        _add_strategy(table, each, found)
    for beside in found.beside:
        times = f"{beside.num_runs} x" if beside.num_runs > 1 else ""
        _add(table, _BESIDE[beside.kind], times, beside.outlay, None)
    chosen = found.chosen
    _add(table, "in all", f"with {chosen.kind}", chosen.in_all, None, style="bold")
    number = f"{found.num_candidates:,} candidate{'s' if found.num_candidates != 1 else ''}"
    return Group(
        Text(f"{found.name}: {number}, {words.tokens(found.trial_tokens)} tokens a trial"),
        table,
        Text("\n".join(_stated(found, spec)), style="dim"),
    )


def _add_strategy(table: Table, each: StrategyPlan, found: PlanView) -> None:
    exhaustive = next(other for other in found.strategies if other.kind == "exhaustive").expected.tokens
    name, style = (f"> {each.kind}", "bold") if each.is_chosen else (f"  {each.kind}", "")
    _add(table, name, _course(each), each.expected, each.share, style=style)
    if each.fewest.tokens != each.most.tokens:
        _add(table, "    at least", "", each.fewest, each.fewest.tokens / exhaustive, style="dim")
        _add(table, "    at most", "", each.most, each.most.tokens / exhaustive, style="dim")


def _course(each: StrategyPlan) -> str:
    """`15, 8, 4, 2, 1` from rung to rung, `15, about 3`."""
    numbers = [number for number, _ in groupby(stretch.candidates for stretch in each.stretches)]
    return ", ".join(f"{number:.0f}" if number == int(number) else f"about {number:.0f}" for number in numbers)


def _add(table: Table, name: str, number: str, outlay: Outlay, share: float | None, *, style: str = "") -> None:
    shown = [words.tokens(outlay.tokens), "" if share is None else f"{100 * share:.0f} %", _hours(outlay.device_hours)]
    if outlay.money is not None:
        shown.append(f"{outlay.money:,.2f}" if outlay.money < 100 else f"{outlay.money:,.0f}")
    table.add_row(name, number, *shown, words.about(3600 * outlay.wall_hours), style=style)


def _hours(hours: float) -> str:
    return words.amount(hours) if hours >= 0.01 else "< 0.01"


def _stated(found: PlanView, spec: SearchSpec) -> list[str]:
    """What the numbers mean and rest on."""
    memory, alone = words.size(spec.hardware.memory_bytes, "B"), words.size(found.memory_bytes_alone, "B")
    per_device = f"{words.size(found.flops_per_second, 'FLOP/s')} a device"
    runs = f"{found.num_runs} run{'s' if found.num_runs != 1 else ''}"
    source = "the spec's hardware" if found.throughput_from == "spec" else f"measured over {runs} of this service"
    lines = [
        "> is the spec's own. candidates: how many go on, from rung to rung. share: of the tokens of exhaustive.",
        f"Estimates, at {per_device} ({source}): a trial takes {_hours(found.trial_device_hours)} device-hours.",
        _on_devices(found),
    ]
    if found.devices_of_a_job > 1:
        lines.append(
            f"A job is held by {found.devices_of_a_job} devices of {memory} with its weights spread over them. Topiary "
            f"trains one on a single device so far, which must have {alone}."
        )
    if found.num_too_large:
        lines.append(f"{found.num_too_large:,} of the candidates are held by no node of devices of {memory}.")
    if spec.strategy.reject_behind is not None:
        lines.append("Whoever is rejected right after pruning is counted as if it went on.")
    lines.append("Not counted: preparing the text, calibration, measuring, exporting, and whatever has to be repeated.")
    return lines


def _on_devices(found: PlanView) -> str:
    if found.devices >= found.devices_needed:
        return f"Wall time is on the {found.devices_needed:,} devices that run all trials at once (--devices)."
    needed = f"{found.devices_needed:,} would run all trials at once"
    return f"Wall time is on {found.devices:,} device{'s' if found.devices > 1 else ''}, in rounds; {needed}."
