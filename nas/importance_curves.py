"""How fast the scores of heads, neurons, channels and experts fall off, and where they are cut.

And what these figures share with those of layers: scale, colours by depth, notes above the plot.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go

from nas.figures import GREY, PALETTE, chart, saying, with_labels
from nas.importance_view import Curve, ImportanceView, places

HEIGHT = 280
"""Of every figure of scores, in pixels."""

UNITS = {
    "hidden_size": "channels",
    "intermediate_size": "neurons",
    "num_attention_heads": "heads",
    "num_experts": "experts",
}
"""What is scored along each axis, in the order of the figures."""

STAYS = PALETTE[0]
SHADE = {"fillcolor": GREY, "opacity": 0.14, "line_width": 0, "layer": "below"}
"""Of what goes, as a rectangle behind the points."""

FEW_DOTS, FEW_LINES = 40, 16
"""So many points of a line, and so many lines, have room for dots."""

_TOP, _BOTTOM, _LABEL = 30, 46, 17
"""Margins, and the height of a direct label, in pixels."""

_FIRST, _LAST = (0, 114, 178), (213, 94, 0)
"""Colours of the first layer and of the last; both, and all between, stand out from white and from near-black."""

_LABELLED = 4
_MOST_DECADES = 4
_COLUMN = 0.7
"""Of the distance between two ranks, how much the layers of one take."""

_AMONG = {"layer": "of a layer", "group": "of a key-value group", "network": "of the network"}
_RATIOS = {"layer": "score / the layer's largest", "group": "score / the group's largest", "network": "score / largest"}

Point = tuple[int, float, str]
"""Rank from 1, score, and which unit it is."""


@dataclass(frozen=True)
class _Competing:
    """Sorted scores of units that compete with one another, `num` of them in each curve, by layer.

    They are those of one `among`: a layer, a key-value group, or the network.
    """

    num: int
    among: Literal["layer", "group", "network"]
    of_layer: tuple[tuple[tuple[Point, ...], ...], ...]


@dataclass(frozen=True)
class _Cut:
    """How many units of each curve stay; of heads, where groups go too, in which `groups`."""

    each: int
    groups: str = ""


def sorted_curves(
    view: ImportanceView, axis: str, cut: int | None, num_key_value_heads: int | None = None
) -> go.Figure:
    """Scores in proportion to the largest that they compete with, from high to low, and where they are cut.

    `cut` units along the axis stay; of heads as many in each of `num_key_value_heads` groups, or of all groups if that
    is None. Raises ValueError for an axis that is not in UNITS.
    """
    competing = _competing(view, axis)
    num_layers, few = len(competing.of_layer), competing.num <= FEW_DOTS
    # Where all of them are zero, they are drawn as such.
    of_layer = [
        [[(rank, score / (curve[0][1] or 1.0), unit) for rank, score, unit in curve] for curve in curves]
        for curves in competing.of_layer
    ]
    ratios = [ratio for curves in of_layer for curve in curves for _, ratio, _ in curve]
    scale = Scale(ratios, _RATIOS[competing.among], from_zero=True)
    colours = [depth_colour(layer, num_layers) for layer in range(num_layers)] if num_layers > 1 else [STAYS]
    in_groups = any(len(curves) > 1 for curves in of_layer)
    traces = [
        (_column(curves, layer, num_layers) if in_groups else _line(curves[0], few and num_layers <= FEW_LINES))
        | _coloured(colours[layer], len(ratios))
        for layer, curves in enumerate(of_layer)
        if curves
    ]
    figure = resized(chart(traces, f"{UNITS[axis]} {_AMONG[competing.among]}, by score", scale.axis))
    if not traces:
        return saying(figure, "nothing was measured along this axis")
    margin = 0.5 if few else 0.01 * competing.num
    figure.update_xaxes(range=[1 - margin, competing.num + margin], tickformat=",d")
    figure.update_xaxes(tick0=0, dtick=step(competing.num) if few else None)
    if num_layers > 1 and in_groups:
        figure = _with_columns_named(figure, colours)
    elif num_layers > 1:
        ends = {layer: scale.place(curves[0][-1][1]) for layer, curves in enumerate(of_layer) if curves}
        figure = labelled(figure, [(ends[layer], _name(layer, colours)) for layer in _some(list(ends))], scale)
    return _with_cut(figure, competing.num, _cut(view, axis, cut, num_key_value_heads), margin)


def cut_in_words(view: ImportanceView, axis: str, cuts: Mapping[str, int]) -> str:
    """How many units stay, in a sentence; empty where `cuts`, by axis, do not say."""
    cut = _cut(view, axis, cuts.get(axis), cuts.get("num_key_value_heads"))
    if cut is None:
        return ""
    competing = _competing(view, axis)
    stay = f"All {competing.num:,}" if cut.each >= competing.num else f"{cut.each:,} of {competing.num:,}"
    where = {"layer": " in each layer", "group": f" in {cut.groups or 'each group'}", "network": ""}
    return f"{stay} {UNITS[axis]} stay{where[competing.among]}."


# --- what competes ------------------------------------------------------------------------------------------


def _competing(view: ImportanceView, axis: str) -> _Competing:
    match axis:
        case "hidden_size":
            channels = _thinned(view.channels, view.num_channels, "number")
            return _Competing(view.num_channels, "network", (channels,))
        case "intermediate_size":
            of_layer = [_thinned(row, view.num_neurons, f"layer {i}, number") for i, row in enumerate(view.neurons)]
            return _Competing(view.num_neurons, "layer", tuple(of_layer))
        case "num_attention_heads":
            num, size = max(map(len, view.heads), default=0), _heads_that_compete(view)
            rows = [_ranked(row, size, f"layer {i}, head") for i, row in enumerate(view.heads)]
            return _Competing(size, "layer" if size == num else "group", tuple(rows))
        case "num_experts":
            num = max(map(len, view.experts), default=0)
            rows = [_ranked(row, num, f"layer {i}, expert") for i, row in enumerate(view.experts)]
            return _Competing(num, "layer", tuple(rows))
    raise ValueError(f"{axis} has no scores; those that have are {', '.join(UNITS)}")


def _heads_that_compete(view: ImportanceView) -> int:
    """Heads of a group; where each is a group of its own, all of a layer, as groups do."""
    num = max(map(len, view.heads), default=0)
    size = num // max(view.num_key_value_heads, 1)
    return size if size > 1 else num


def _thinned(curve: Curve, num: int, name: str) -> tuple[tuple[Point, ...], ...]:
    found = tuple(
        (at + 1, score, f"{name} {at + 1:,}")
        for at, score in zip(places(num), curve, strict=True)
        if score is not None and math.isfinite(score)
    )
    return (found,) if found else ()


def _ranked(row: Curve, size: int, name: str) -> tuple[tuple[Point, ...], ...]:
    """Runs of `size` units next to one another, each from high to low."""
    found = []
    for start in range(0, len(row), size):
        run = sorted(measured(row[start : start + size]), key=lambda point: (-point[1], point[0]))
        found.append(tuple((rank, score, f"{name} {start + at}") for rank, (at, score) in enumerate(run, start=1)))
    return tuple(run for run in found if run)


def _cut(view: ImportanceView, axis: str, cut: int | None, num_key_value_heads: int | None) -> _Cut | None:
    """None where it is not said what stays of each curve."""
    if cut is None:
        return None
    if axis != "num_attention_heads" or _heads_that_compete(view) == max(map(len, view.heads), default=0):
        return _Cut(cut)
    there = view.num_key_value_heads
    groups = num_key_value_heads or there
    each, rest = divmod(cut, groups)
    return None if rest else _Cut(each, f"{groups} of {there} groups" if groups < there else "")


# --- how it is drawn ----------------------------------------------------------------------------------------


class Scale:
    """An axis that holds `values`, logarithmic where a linear one would crowd them, and then of four decades at most.

    Its limits are fixed here, since direct labels must know how many units of it a pixel is. A linear one begins at
    zero if `from_zero`, and is taken then until a tenth of the values are below a tenth of the largest.
    """

    def __init__(self, values: Sequence[float], title: str, *, from_zero: bool = False) -> None:
        ordered = sorted(values) or [0.0, 1.0]
        low, high = ordered[0], ordered[-1]
        crowded = 10 * ordered[len(ordered) // 10] < high if from_zero else 0 < 3 * low < high
        self._logarithmic = crowded and low >= 0
        self._least = max(min((value for value in ordered if value > 0), default=1.0), high / 10**_MOST_DECADES)
        low = min(low, 0.0) if from_zero and not self._logarithmic else low
        bottom, top = self.place(low), self.place(high)
        margin = 0.06 * (top - bottom) or 0.05
        bottom -= 0.0 if from_zero and not self._logarithmic else margin
        self.per_pixel = (top + margin - bottom) / (HEIGHT - _TOP - _BOTTOM)
        self.axis: dict[str, Any] = {"title": {"text": title}, "range": [bottom, top + margin]}
        if self._logarithmic:
            self.axis |= {"type": "log", **_ticks(bottom, top + margin)}

    def place(self, value: float) -> float:
        """Where it stands on the axis, in the axis' own units; what a logarithmic one does not reach, at its end."""
        return math.log10(max(value, self._least)) if self._logarithmic else value


def _ticks(bottom: float, top: float) -> dict[str, Any]:
    """Of a logarithmic axis between these powers of ten: 1, 2 and 5 of each, or 1 alone where there are many."""
    powers = range(math.floor(bottom), math.ceil(top) + 1)
    values = [float(f"{digit}e{power}") for power in powers for digit in ((1, 2, 5) if top - bottom < 2 else (1,))]
    texts = [f"{value:g}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-") for value in values]
    return {"tickvals": values, "ticktext": texts}


def resized(figure: go.Figure) -> go.Figure:
    """With the height of figures of scores, and room for a note above the plot."""
    return figure.update_layout(height=HEIGHT, margin_t=_TOP, margin_b=_BOTTOM)


def labelled(figure: go.Figure, labels: Sequence[tuple[float, str]], scale: Scale) -> go.Figure:
    """With pairs of place and text right of the plot, no two of them on top of one another."""
    return with_labels(figure, labels, gap=scale.per_pixel * _LABEL)


def with_note(figure: go.Figure, text: str, x: float = 1.0, **anchor: object) -> go.Figure:
    """With a text above the plot, by default at its right end."""
    place = {"x": x, "xref": "paper", "xanchor": "right", "y": 1, "yref": "paper", "yanchor": "bottom"}
    return figure.add_annotation({**place, **anchor, "text": text, "showarrow": False})


def depth_colour(layer: int, num_layers: int) -> str:
    """From the first layer's colour to the last one's."""
    share = layer / max(num_layers - 1, 1)
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(_FIRST, _LAST, strict=True))
    return f"rgb({red},{green},{blue})"


def dot(colour: str) -> str:
    return f'<span style="color:{colour}">\u25cf</span>'


def step(num: int) -> int:
    """Between the ticks of an axis of so many whole numbers, such that they have room."""
    return next(size for size in (1, 2, 5, 10, 20, 50, 100, num) if 16 * size >= num)


def measured(curve: Curve) -> list[tuple[int, float]]:
    """Positions and values of what was measured."""
    return [(at, value) for at, value in enumerate(curve) if value is not None and math.isfinite(value)]


def _line(curve: Sequence[Point], dots: bool) -> dict[str, Any]:
    """The one curve of a layer."""
    ranks, ratios, units = zip(*curve, strict=True)
    return {
        "mode": "lines+markers" if dots else "lines",
        "x": list(ranks),
        "y": list(ratios),
        "hovertext": list(units),
    }


def _column(curves: Sequence[Sequence[Point]], layer: int, num_layers: int) -> dict[str, Any]:
    """The curves of a layer's groups as dots; lines would be many and cross, so each rank has the layers in a row."""
    aside = _COLUMN * (layer / max(num_layers - 1, 1) - 0.5) if num_layers > 1 else 0.0
    points = [point for curve in curves for point in curve]
    return {
        "mode": "markers",
        "x": [rank + aside for rank, _, _ in points],
        "y": [ratio for _, ratio, _ in points],
        "hovertext": [f"{unit}, number {rank} of its group" for rank, _, unit in points],
    }


def _coloured(colour: str, num_points: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "hovertemplate": "%{hovertext}<br>%{y:.3g} of the largest<extra></extra>",
        "line": {"color": colour, "width": 2 if colour == STAYS else 1.2},
        "marker": {"opacity": 1, "size": 6 if num_points <= 16 * FEW_DOTS else 4, "color": colour},
    }


def _name(layer: int, colours: Sequence[str]) -> str:
    return f"{dot(colours[layer])} layer {layer}"


def _some(layers: Sequence[int]) -> list[int]:
    """At most _LABELLED of them, evenly spaced, first and last among them."""
    places = {round(k * (len(layers) - 1) / (_LABELLED - 1)) for k in range(_LABELLED)}
    return [layers[place] for place in sorted(places)]


def _with_columns_named(figure: go.Figure, colours: Sequence[str]) -> go.Figure:
    columns = f"{_name(0, colours)} to {_name(len(colours) - 1, colours)} in each column"
    title = f"{figure.layout.xaxis.title.text}<br>{columns}"
    return figure.update_layout(xaxis_title_text=title, margin_b=_BOTTOM + _LABEL)


def _with_cut(figure: go.Figure, num: int, cut: _Cut | None, margin: float) -> go.Figure:
    if cut is None:
        return figure
    where = f" in {cut.groups}" if cut.groups else ""
    if cut.each >= num:
        return with_note(figure, f"all {num:,} stay{where}")
    place = cut.each + 0.5
    figure.add_vrect(x0=place, x1=num + margin, **SHADE)
    figure.add_vline(x=place, line={"color": GREY, "width": 1.5}, name="cut")
    side = "right" if 2 * cut.each > num else "left"
    return with_note(figure, f"\u2190 {cut.each:,} of {num:,} stay{where}", x=place, xref="x", xanchor=side)
