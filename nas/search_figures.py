"""Plotly figures of what a search has come to as a whole: what costs buy, and which sizes matter.

In the style of nas.figures, and like them pure functions of views.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from nas.architecture import Axis
from nas.figures import (
    GREY,
    KEY,
    PALETTE,
    PARAMETERS,
    CostAxis,
    Curves,
    chart,
    colours,
    loss_against,
    rank_over_tokens,
    saying,
)
from nas.importance_figures import Drawing
from nas.pareto import comparable, front
from nas.ranking import Standing
from nas.varied_axes import varied_axes
from nas.views import SearchView

Costs = Mapping[int, Mapping[str, float]]
"""By candidate id and name."""

COSTS = {
    "parameters": PARAMETERS,
    "memory_bytes": CostAxis("memory", "bytes of weights and KV cache", "%{x:.4s}B"),
    "decode_flops_per_token": CostAxis("FLOPs", "FLOPs of decoding a token", "%{x:.4s}FLOP"),
    "milliseconds": CostAxis("latency", "milliseconds of a forward pass", "%{x:.4g} ms"),
}
"""What losses are drawn against, where it is known."""

_SHORT = {
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "intermediate_size": "ffn",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv heads",
    "num_experts": "experts",
    "parameters": "parameters",
    "memory_bytes": "memory",
    "decode_flops_per_token": "FLOPs",
    "milliseconds": "ms",
    "loss": "loss",
}
_MOST_TICKS = 7
"""Sizes that are written along an axis; of more, only the ends."""


@dataclass(frozen=True)
class AxisImportance:
    """How much an axis tells of which candidates do well.

    `score` is at least 0; `by_chance` is what shuffled losses pass in one of twenty cases.
    """

    axis: Axis
    score: float
    by_chance: float


def drawings(
    view: SearchView, curves: Curves, costs: Costs, importances: Sequence[AxisImportance]
) -> tuple[Drawing, ...]:
    """All of them, the one that takes the most room first."""
    known = known_costs(costs)
    against = (
        Drawing(
            f"loss-against-{COSTS[name].name.lower()}",
            f"Loss against {COSTS[name].name}",
            KEY,
            loss_against(view, {id_: own[name] for id_, own in costs.items()}, COSTS[name]),
        )
        for name in known
    )
    return (
        Drawing(
            "parallel-axes",
            "Parallel axes",
            "a line for each candidate; the best have the colours of the leaderboard",
            parallel_axes(view, costs),
        ),
        *against,
        Drawing("axis-importance", "What mattered", mattered_in_words(importances), axis_importance_bars(importances)),
        Drawing(
            "rank-over-tokens",
            "Rank over tokens",
            "among these",
            rank_over_tokens(view, curves),
        ),
    )


def known_costs(costs: Costs) -> tuple[str, ...]:
    """Which of COSTS are known of all candidates."""
    return tuple(name for name in COSTS if costs and all(name in own for own in costs.values()))


def on_the_front(view: SearchView, costs: Costs) -> list[Standing]:
    """The candidates on the front of loss and all of `known_costs`, in the leaderboard's order."""
    known = known_costs(costs)
    return front(view.leaderboard, {id_: tuple(own[name] for name in known) for id_, own in costs.items()})


# --- parallel axes ------------------------------------------------------------------------------------------


def parallel_axes(view: SearchView, costs: Costs) -> go.Figure:
    """A line for each candidate whose loss compares, through its sizes, its costs and its loss.

    Lines of a scatter chart, not Plotly's own parallel coordinates: those compile code in the browser, which pages do
    not allow, and say nothing of a line when it is pointed at.
    """
    rows = comparable(view.leaderboard)
    figure = chart([], "", {"range": [-0.06, 1.06], "showgrid": False, "showticklabels": False})
    if len(rows) < 2:
        return saying(figure, "drawn once two candidates have been retrained on as many tokens")
    values: dict[str, list[float]] = {
        axis: [getattr(row.architecture, axis) for row in rows]
        for axis in varied_axes([row.architecture for row in rows])
    }
    values |= {name: [costs[row.candidate_id][name] for row in rows] for name in known_costs(costs)}
    values["loss"] = [row.loss or 0.0 for row in rows]
    scales = {name: _Scale(name, column) for name, column in values.items()}
    colour_of = colours(view.leaderboard)
    # The best last, and so on top.
    for place in reversed(range(len(rows))):
        row = rows[place]
        heights = [scales[name].place(column[place]) for name, column in values.items()]
        told = [f"{_SHORT[name]} {scales[name].told(column[place])}" for name, column in values.items()]
        figure.add_trace(_line(row, heights, told, colour_of.get(row.candidate_id), len(rows)))
    num = len(values)
    figure.update_xaxes(
        tickvals=list(range(num)), ticktext=[_SHORT[name] for name in values], range=[-0.15, num - 0.45], side="top"
    )
    ticks = [tick for number, scale in enumerate(scales.values()) for tick in scale.ticks(number)]
    return figure.update_layout(annotations=ticks, margin={"l": 12, "r": 12, "t": 44, "b": 16})


def _line(row: Standing, heights: Sequence[float], told: Sequence[str], colour: str | None, num: int) -> dict[str, Any]:
    faint = f"rgba(128,128,128,{0.5 if num <= 32 else 0.2})"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(range(len(heights))),
        "y": list(heights),
        "line": {"color": colour or faint, "width": 2 if colour else 1},
        "marker": {"size": 5 if colour else 3, "color": colour or faint},
        "customdata": [row.candidate_id] * len(heights),
        "hovertext": [f"{row.rank}  {row.architecture.label}<br>{each}<br>loss {row.loss:.4f}" for each in told],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


class _Scale:
    """One of the parallel axes, from its lowest value at 0 to its highest at 1."""

    def __init__(self, name: str, values: Sequence[float]) -> None:
        self._name = name
        self._distinct = sorted(set(values))
        self._low, self._high = self._distinct[0], self._distinct[-1]

    def place(self, value: float) -> float:
        return 0.5 if self._high == self._low else (value - self._low) / (self._high - self._low)

    def told(self, value: float) -> str:
        if self._name == "loss":
            return f"{value:.3f}"
        if self._name == "milliseconds":
            return f"{value:,.4g}"
        return f"{value:,.0f}" if value < 1e5 else _prefixed(value)

    def ticks(self, number: int) -> list[dict[str, Any]]:
        """Its values, right of it."""
        few = self._name in _SIZES and len(self._distinct) <= _MOST_TICKS
        shown = self._distinct if few else [self._low, self._high]
        return [
            {"x": number, "y": self.place(value), "text": self.told(value), "showarrow": False}
            | {"xanchor": "left", "yanchor": "middle", "xshift": 5}
            for value in dict.fromkeys(shown)
        ]


_SIZES = frozenset(list(_SHORT)[:6])


def _prefixed(value: float) -> str:
    """As in `8.27 G`: three digits."""
    power = min(int(math.log10(value)) // 3, 5)
    scaled = value / 1000**power
    return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {' kMGTP'[power]}"


# --- what mattered ------------------------------------------------------------------------------------------


def axis_importance_bars(importances: Sequence[AxisImportance]) -> go.Figure:
    """A bar for each axis, the most important on top, with a mark where chance ends."""
    figure = chart([], "importance (PED-ANOVA)", {"ticklabelstandoff": 6})
    if not importances:
        return saying(figure, "drawn once eight candidates have been retrained on as many tokens")
    upwards = importances[::-1]
    names = [_SHORT[each.axis] for each in upwards]
    figure.add_trace(
        {
            "type": "bar",
            "orientation": "h",
            "x": [each.score for each in upwards],
            "y": names,
            "width": 0.5,
            "marker": {"color": [PALETTE[0] if each.score > each.by_chance else GREY for each in upwards]},
            "hovertemplate": "%{y}<br>%{x:.4f}<extra></extra>",
        }
    )
    figure.add_trace(
        {
            "type": "scatter",
            "mode": "markers",
            "x": [each.by_chance for each in upwards],
            "y": names,
            "marker": {"symbol": "line-ns-open", "size": 30, "line": {"width": 2}, "color": PALETTE[2]},
            "hovertemplate": "%{y}<br>chance passes %{x:.4f} in 1 of 20 cases<extra></extra>",
        }
    )
    figure.update_xaxes(rangemode="tozero")
    return figure.update_layout(margin_l=72)


def mattered_in_words(importances: Sequence[AxisImportance]) -> str:
    """Which axes stand out, as in `layers and hidden set the better half of the candidates apart`."""
    if not importances:
        return "which sizes set the better half of the candidates apart"
    key = "mark: what chance passes in 1 of 20 cases"
    found = [_SHORT[each.axis] for each in importances if each.score > each.by_chance]
    if not found:
        return f"no size sets the better half of the candidates apart by more than chance; {key}"
    *others, last = found
    told = f"{', '.join(others)} and {last} set" if others else f"{last} sets"
    return f"{told} the better half of the candidates apart by more than chance; {key}"
