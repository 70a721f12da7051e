"""Plotly figures of the scores that a cut goes by, for pages and notebooks: pure functions of an ImportanceView.

What goes is hollow and crossed, or shaded behind its cut. Layers are numbered from 0, as in the names of the teacher's
tensors.
"""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from nas.figures import GREY, chart, saying
from nas.importance_curves import (
    FEW_DOTS,
    SHADE,
    STAYS,
    UNITS,
    Scale,
    cut_in_words,
    depth_colour,
    dot,
    labelled,
    measured,
    resized,
    sorted_curves,
    step,
    with_note,
)
from nas.importance_view import ImportanceView

_WORTH = {
    "block_influence": "Block Influence, 1 \u2212 cosine",
    "perplexity": "loss without it, nats per token",
    "logit_mse": "relative squared change of logits",
    "accuracy": "share of wrong answers without it",
    "magnitude": "L2 norm of its weights",
    "random": "a random number",
    "uniform": "a random number, which decides nothing",
}
_OF_DEPTH = {
    "block_influence": "Layers by Block Influence, how far they turn the residual stream.",
    "perplexity": "Layers by the teacher's loss without them.",
    "logit_mse": "Layers by how far the teacher's logits are off without them.",
    "accuracy": "Layers by the share of questions that the teacher answers wrongly without them.",
    "magnitude": "Layers by the norm of their weights.",
    "random": "Layers at random.",
    "uniform": "Layers stay evenly spread, whatever they score.",
}
_OF_WIDTH = {
    "activation": "by the size of their activations on samples of the training text",
    "wanda": "by their activations times the norm of the weights that read them",
    "magnitude": "by the norm of their weights",
    "random": "at random",
}


@dataclass(frozen=True)
class Drawing:
    """A figure, its caption, and in `words` what stays and goes; `name` is `layers` or that of an axis."""

    name: str
    caption: str
    words: str
    figure: go.Figure


def drawings(
    view: ImportanceView, kept_layers: Sequence[int] | None, cuts: Mapping[str, int] | None
) -> tuple[Drawing, ...]:
    """All figures of these scores: layers, then the sorted curves along each axis that the teacher has.

    `cuts` say how many units stay, by axis; where key-value groups go, `num_key_value_heads` must be among them.
    """
    cuts = cuts or {}
    groups = cuts.get("num_key_value_heads")
    return (
        Drawing("layers", "Layers", _layers_in_words(view, kept_layers), layers(view, kept_layers)),
        *(
            Drawing(
                axis,
                UNITS[axis].capitalize(),
                cut_in_words(view, axis, cuts),
                sorted_curves(view, axis, cuts.get(axis), groups),
            )
            for axis in _scored(view)
        ),
    )


def method(view: ImportanceView) -> str:
    """What the scores are of, in words."""
    *units, last = [UNITS[axis] for axis in _scored(view)]
    of_units = f"{', '.join(units).capitalize()} and {last} {_OF_WIDTH.get(view.width, view.width)}."
    return f"{_OF_DEPTH.get(view.depth, view.depth)} {of_units}"


def _scored(view: ImportanceView) -> list[str]:
    return [axis for axis in UNITS if axis != "num_experts" or any(view.experts)]


# --- layers -------------------------------------------------------------------------------------------------


def layers(view: ImportanceView, kept_layers: Sequence[int] | None) -> go.Figure:
    """What each layer is worth, or, where stretches were tried, each stretch of as many as go, by its first layer.

    What is not among `kept_layers` is marked; if that is None nothing is, and stretches of all lengths are drawn.
    """
    gone = _gone(view, kept_layers)
    stretches = {length: measured(curve) for length, curve in sorted(view.stretches.items()) if measured(curve)}
    if max(stretches, default=1) > 1 or (stretches and not measured(view.layers)):
        return _stretches(view, stretches, gone)
    if not measured(view.layers):
        return saying(resized(chart([], "", {})), "no layer was measured")
    return _order(view, gone) if view.depth == "logit_mse" and not stretches else _each_layer(view, gone)


def _each_layer(view: ImportanceView, gone: Sequence[int]) -> go.Figure:
    points = measured(view.layers)
    worth = _WORTH.get(view.depth, view.depth)
    trace = _marked(view, points, gone, f"layer %{{x}}<br>{worth}: %{{y:.4g}}")
    return _with_key(_of_layers(view, [trace], Scale([value for _, value in points], worth).axis), gone)


def _order(view: ImportanceView, gone: Sequence[int]) -> go.Figure:
    """Layers as they went one after another; those that never did are above them."""
    went = [(layer, when + 1) for layer, when in measured(view.layers)]
    last = int(max(when for _, when in went))
    stayed = [(layer, last + 1.0) for layer in range(len(view.layers)) if layer not in dict(went)]
    traces = [
        _marked(view, went, gone, "layer %{x}<br>removed as number %{y}", line=False),
        _marked(view, stayed, gone, "layer %{x}<br>never removed", line=False),
    ]
    ticks = [*range(step(last), last + 1, step(last)), last + 1]
    axis = {
        "title": {"text": "removed as the n-th"},
        "range": [0.4, last + 1.6],
        "tickvals": ticks,
        "ticktext": [*map(str, ticks[:-1]), "never"],
    }
    return _with_key(_of_layers(view, traces, axis), gone)


def _stretches(
    view: ImportanceView, stretches: Mapping[int, list[tuple[int, float]]], gone: Sequence[int]
) -> go.Figure:
    """Of the length that goes, or of all that were tried, a line for each."""
    shown = {len(gone): stretches[len(gone)]} if len(gone) in stretches else stretches
    title = _WORTH.get(view.depth, view.depth).replace("without it", "without them")
    scale = Scale([value for points in shown.values() for _, value in points], title)
    traces, labels = [], []
    for number, (length, points) in enumerate(shown.items()):
        name = f"{length} layers" if length > 1 else "1 layer"
        colour = STAYS if len(shown) == 1 else depth_colour(number, len(shown))
        goes = gone[:1] if len(gone) == length and len(_runs(gone)) == 1 else []
        traces.append(_marked(view, points, goes, f"{name} from %{{x}} on<br>%{{y:.4g}}", colour))
        labels.append((scale.place(points[-1][1]), f"{dot(colour)} {name}"))
    figure = labelled(_of_layers(view, traces, scale.axis, "first layer of the stretch"), labels, scale)
    for first, last in _runs(gone):
        figure.add_vrect(x0=first - 0.5, x1=last + 0.5, **SHADE)
    return with_note(figure, "shaded: what goes") if gone else figure


def _marked(
    view: ImportanceView,
    points: Sequence[tuple[int, float]],
    gone: Sequence[int],
    hover: str,
    colour: str = STAYS,
    *,
    line: bool = True,
) -> dict[str, Any]:
    """Full points on a line, and hollow, crossed ones for what goes."""
    goes = [layer in gone for layer, _ in points]
    size = 8 if len(view.layers) <= FEW_DOTS else 5
    return {
        "type": "scatter",
        "mode": "lines+markers" if line else "markers",
        "x": [layer for layer, _ in points],
        "y": [value for _, value in points],
        "hovertext": ["<br>goes" if each else "" for each in goes],
        "hovertemplate": f"{hover}%{{hovertext}}<extra></extra>",
        "line": {"color": "rgba(128,128,128,0.5)" if colour == STAYS else colour, "width": 1},
        "marker": {
            "opacity": 1,
            "size": [size + 3 if each else size for each in goes],
            "symbol": ["circle-x-open" if each else "circle" for each in goes],
            "color": [GREY if each else colour for each in goes],
            "line": {"width": [1.5 if each else 0 for each in goes]},
        },
    }


def _of_layers(
    view: ImportanceView, traces: list[dict[str, Any]], axis: dict[str, Any], title: str = "layer of the teacher"
) -> go.Figure:
    num = len(view.layers)
    figure = resized(chart(traces, title, axis))
    return figure.update_xaxes(range=[-0.6, num - 0.4], tick0=0, dtick=step(num))


def _with_key(figure: go.Figure, gone: Sequence[int]) -> go.Figure:
    key = f"{dot(STAYS)} stays\u2003{_CROSSED} goes"
    return with_note(figure, key) if gone else figure


def _gone(view: ImportanceView, kept_layers: Sequence[int] | None) -> list[int]:
    return [] if kept_layers is None else [i for i in range(len(view.layers)) if i not in set(kept_layers)]


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of those that lie next to one another."""
    breaks = [at for at, (a, b) in enumerate(pairwise(numbers), start=1) if b != a + 1]
    starts, ends = [0, *breaks], [*breaks, len(numbers)]
    return [(numbers[start], numbers[end - 1]) for start, end in zip(starts, ends, strict=True) if numbers]


def _layers_in_words(view: ImportanceView, kept_layers: Sequence[int] | None) -> str:
    """As in `Of 32 layers, 3, 9 and 20 to 27 go.`"""
    gone, num = _gone(view, kept_layers), f"{len(view.layers)} layers"
    if not gone:
        return f"All {num} stay." if kept_layers is not None else ""
    told = []
    for first, last in _runs(gone):
        told += [f"{first} to {last}"] if last - first > 1 else [str(first), str(last)][: last - first + 1]
    listed = f"{', '.join(told[:-1])} and {told[-1]}" if len(told) > 1 else told[0]
    return f"Of {num}, {listed} {'go' if len(gone) > 1 else 'goes'}."


# --- a page by itself ---------------------------------------------------------------------------------------


def page(view: ImportanceView, kept_layers: tuple[int, ...] | None, cuts: dict[str, int] | None, title: str) -> str:
    """One HTML document with all figures, Plotly's script within it, that asks no server for anything."""
    drawn = drawings(view, kept_layers, cuts)
    figures = json.dumps({each.name: each.figure.to_plotly_json() for each in drawn})
    sections = "\n".join(
        f"<figure><figcaption>{each.caption} <small>{html.escape(each.words)}</small></figcaption>"
        f'<div id="{each.name}" role="img" aria-label="{html.escape(f"{each.caption}. {each.words}")}">'
        "<noscript>This chart needs JavaScript.</noscript></div></figure>"
        for each in drawn
    )
    parts = {
        "TITLE": html.escape(title),
        "METHOD": html.escape(method(view)),
        "SECTIONS": sections,
        "FIGURES": figures.replace("<", "\\u003c"),  # So that no text in them ends the script.
        "PLOTLY": get_plotlyjs(),
    }
    text = _PAGE
    for name, value in parts.items():
        text = text.replace(f"<!--{name}-->", value)
    return text


_CROSSED = "\u2297"
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title><!--TITLE--></title>
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e1b; --soft: #5a5f57; --line: #dcdfd8; --mark: #767b73; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #141613; --ink: #e4e7e1; --soft: #a3a99f; --line: #333731; --mark: #868c82; }
}
body { margin: 0 auto; padding: 0 1.5rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 0.875rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { margin: 1.1rem 0 0.1rem; font-size: 1.375rem; font-weight: 600; }
p { margin: 0; max-width: 48rem; color: var(--soft); }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(34rem, 100%), 1fr)); gap: 0 2rem; }
figure { margin: 1.5rem 0 0; min-width: 0; break-inside: avoid; }
figure:first-child:nth-last-child(odd) { grid-column: 1 / -1; }
figcaption { font-size: 1rem; font-weight: 600; }
small { margin-left: 0.4rem; font-size: 0.75rem; font-weight: 400; color: var(--soft); }
figure div { height: 280px; }
@media (scripting: none) { figure div { height: auto; } }
</style>
</head>
<body>
<h1><!--TITLE--></h1>
<p><!--METHOD--></p>
<main>
<!--SECTIONS-->
</main>
<script><!--PLOTLY--></script>
<script type="application/json" id="figures"><!--FIGURES--></script>
<script>
const figures = JSON.parse(document.getElementById("figures").textContent);
function draw() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  for (const [name, figure] of Object.entries(figures)) {
    const layout = structuredClone(figure.layout);
    layout.font.color = color("--ink");
    layout.hoverlabel = { bgcolor: color("--paper"), bordercolor: color("--mark"), font: layout.font };
    for (const axis of [layout.xaxis, layout.yaxis]) axis.gridcolor = color("--line");
    Plotly.react(name, figure.data, layout, { responsive: true, displayModeBar: false });
  }
}
for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", draw);
draw();
</script>
</body>
</html>
"""
