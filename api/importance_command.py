"""`topiary importance`: scores a spec's teacher, and keeps the scores in a file."""

import argparse
import json
import statistics
import sys
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.text import Text

from api import words
from api.calibration_jobs import Scored, in_options, method, prepare, score
from api.display import FILE_WIDTH, plain_table
from api.exit_codes import SUCCESS
from api.one_job import JobFailed, checked_teacher, jobs_beside, move, new_place, writable_place
from nas.architecture import Architecture
from nas.calibration import check_protected
from nas.durable import write_text
from nas.errors import FolderError
from nas.grid import grid
from nas.importance_view import Curve, ImportanceView
from nas.spec import SearchSpec
from nas.spec_file import read_spec


def importance(parsed: argparse.Namespace) -> int:
    into = _file_to_be(parsed.into)
    figures = None if parsed.figures is None else new_place("--figures", parsed.figures, "file")
    if figures == into:
        raise FolderError("--figures", str(figures), "is the file of --into", "another file")
    spec = read_spec(parsed.spec)
    teacher = checked_teacher(spec).architecture
    # Of all depths in the space: what the budget leaves of them may change, the scores should do all the same.
    depths = grid(spec.space, teacher).layers
    check_protected(spec.calibration, teacher, depths)
    known = into if into.exists() else None
    try:
        with jobs_beside(into, parsed.ray_address) as jobs:
            scored = score(jobs, spec, teacher, prepare(jobs, spec), depths, known)
            if known is None:
                move(scored.scores_file, into)
    except JobFailed as error:
        return in_options(error).told("the calibration")
    if known is not None:
        print(f"topiary: {into} is of this calibration already; nothing was measured again", file=sys.stderr)
    if figures is not None:
        draw(figures, scored.importance, f"{spec.name}: importance")
    if parsed.json:
        view = scored.importance.model_dump(mode="json")
        print(json.dumps({"scores": str(into), "importance": view, "loss": scored.loss}))
    else:
        console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
        console.print(summary(spec, teacher, scored), Text(f"scores          {into}"), highlight=False)
        if figures is not None:
            console.print(Text(f"figures         {figures}"), highlight=False)
    return SUCCESS


def _file_to_be(given: Path) -> Path:
    """A file of scores may be there: it is taken if it is of the same calibration."""
    into = writable_place("--into", given, "file")
    if into.exists() and not into.is_file():
        raise FolderError("--into", str(into), "is not a file", "a file of scores, or one that does not exist yet")
    return into


def draw(
    file: Path,
    view: ImportanceView,
    title: str,
    kept_layers: tuple[int, ...] | None = None,
    cuts: dict[str, int] | None = None,
) -> None:
    """A page of charts; with what a student keeps, where the cut goes."""
    from nas.importance_figures import page  # Here: nobody else should wait for Plotly.

    write_text(file, page(view, kept_layers, cuts, title))


# --- telling it ---------------------------------------------------------------------------------------------


def summary(spec: SearchSpec, teacher: Architecture, scored: Scored) -> RenderableType:
    """Every layer's score and the range of its units' scores, and how they came about."""
    view = scored.importance
    units = {"heads": view.heads, "neurons": view.neurons, "experts": view.experts}
    shown = {name: rows for name, rows in units.items() if any(rows)}
    table = plain_table(["layer", "score", *shown])
    for layer, worth in enumerate(view.layers):
        table.add_row(str(layer), _number(worth), *(_range(rows[layer]) for rows in shown.values()))
    length = spec.data.sequence_length
    lines = [
        f"channels        {_range(view.channels)}, of {view.num_channels}",
        *(_stretch(length, worth) for length, worth in view.stretches.items() if length > 1),
        f"method          {method(spec.calibration)}",
        f"samples         {scored.samples:,} x {length:,} tokens",
        *([] if scored.loss is None else [f"teacher's loss  {words.loss(scored.loss)} nats per token"]),
    ]
    meaning = f"of a teacher of {teacher.label}; of its units' scores, the lowest / the median / the highest"
    return Group(table, Text(meaning, style="dim"), Text("\n".join(lines)))


def _stretch(length: int, worth: Curve) -> str:
    """The stretch that is worth least; of equal ones the last, which would go."""
    measured = [(value, -start) for start, value in enumerate(worth) if value is not None]
    value, start = min(measured)
    return f"{f'{length} layers':<15} least worth from {-start} to {-start + length - 1}: {_number(value)}"


def _range(curve: Curve) -> str:
    values = [value for value in curve if value is not None]
    if not values:
        return ""
    return " / ".join(_number(value) for value in (min(values), statistics.median(values), max(values)))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
