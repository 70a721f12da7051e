"""Plotly figures of a search, for pages and notebooks: pure functions of its views.

Points carry their candidate's id in `customdata`, and hovering tells the exact row. Backgrounds are transparent and
the greys hold on white and on near-black, so that one figure serves both themes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from nas.pareto import front
from nas.ranking import CurvePoint, Standing
from nas.views import CandidateDetails, SearchView

Curves = Mapping[int, Sequence[CurvePoint]]
"""Curves of trials, by candidate id."""

PALETTE = ("#009E73", "#0072B2", "#D55E00", "#CC79A7")
"""Those of Okabe and Ito's colours that stand out 3 : 1 from white and from near-black alike."""

HEIGHT = 340
_FEW = 32
"""So many candidates have room for dots on their lines."""

GREY = "#808080"
_TOP, _BOTTOM = 12, 48
"""Margins, in pixels."""
_LABEL, _CHARACTER = 17, 7
"""The height of a direct label and the width of its characters, in pixels."""


def colours(leaderboard: Sequence[Standing]) -> dict[int, str]:
    """The colours of the best candidates, by candidate id; all others are grey.

    A candidate keeps its colour while the best change places among themselves, and mostly beyond.
    """
    best = sorted(row.candidate_id for row in leaderboard if row.rank is not None and row.rank <= len(PALETTE))
    free, chosen = list(PALETTE), {}
    for candidate_id in best:
        own = PALETTE[candidate_id % len(PALETTE)]
        chosen[candidate_id] = own if own in free else free[0]
        free.remove(chosen[candidate_id])
    return chosen


def loss_curves(view: SearchView, curves: Curves) -> go.Figure:
    """Validation loss of every trial over the tokens it was retrained on, from right after pruning."""
    found = {row.candidate_id: _finite(curves.get(row.candidate_id, ())) for row in view.leaderboard}
    known = {candidate_id: points for candidate_id, points in found.items() if points}
    traces = []
    for row, style in _styled(view):
        if points := known.get(row.candidate_id):
            line = _line(row, style, [point.tokens for point in points], [point.loss for point in points])
            traces.append(line | {"hovertemplate": _hover("%{x:,} tokens<br>loss %{y:.4f}")})
    losses = [point.loss for points in known.values() for point in points]
    scale = _LossScale([*losses, *_teacher_losses(view)])
    ends = {candidate_id: points[-1].loss for candidate_id, points in known.items()}
    figure = chart(traces, "tokens of retraining", scale.axis)
    if not ends:
        return saying(figure, "drawn from the first measurement on, right after pruning")
    _mark_teacher(figure, view)
    labels = [(scale.place(ends[row.candidate_id]), _label(row, view)) for row in _best(view, ends)]
    labels += [(scale.place(loss), f"teacher {loss:.3f}") for loss in _teacher_losses(view)]
    return with_labels(figure, labels, gap=scale.per_pixel * _LABEL)


def rank_over_tokens(view: SearchView, curves: Curves) -> go.Figure:
    """How the order of those candidates that are furthest came about.

    Ranks are within these candidates alone, and at token counts that all of them were measured at: so no line moves
    because another one is missing, and at the right end the ranks are the leaderboard's.
    """
    furthest = max((row.tokens for row in view.leaderboard if row.rank is not None), default=0)
    ranked = {row.candidate_id for row in view.leaderboard if row.rank is not None and row.tokens == furthest}
    losses = {id_: {point.tokens: point.loss for point in _finite(curves.get(id_, ()))} for id_ in sorted(ranked)}
    losses = {id_: at for id_, at in losses.items() if furthest in at}
    shared = sorted(set.intersection(*map(set, losses.values()))) if len(losses) > 1 else []
    ranks: dict[int, list[int]] = {id_: [] for id_ in losses}
    for tokens in shared:
        for rank, id_ in enumerate(sorted(losses, key=lambda id_: (losses[id_][tokens], id_)), start=1):
            ranks[id_].append(rank)
    traces, num = [], len(losses)
    for row, style in _styled(view):
        if shared and row.candidate_id in ranks:
            told = [f"{losses[row.candidate_id][tokens]:.4f}" for tokens in shared]
            line = _line(row, style, shared, ranks[row.candidate_id]) | {"hovertext": told}
            line["mode"] = "lines+markers" if num <= _FEW or style["width"] > 1 else "lines"
            traces.append(line | {"hovertemplate": _hover("%{x:,} tokens<br>rank %{y}, loss %{hovertext}")})
    title = {"text": f"rank among {num}, by loss"}
    axis = {"title": title, "range": [num + 0.5, 0.5], "dtick": 1 if num <= 16 else None}
    figure = chart(traces, "tokens of retraining", axis)
    if not shared:
        return saying(figure, "drawn once two candidates have been measured at the same tokens")
    labels = [(-float(ranks[row.candidate_id][-1]), _label(row, view)) for row in _best(view, ranks)]
    gap = num * _LABEL / (HEIGHT - _TOP - _BOTTOM)
    return with_labels(figure, labels, gap=gap, downwards=True)


def loss_against_parameters(view: SearchView) -> go.Figure:
    """What size buys: `loss_against` parameters."""
    return loss_against(view, {row.candidate_id: row.parameters for row in view.leaderboard}, PARAMETERS)


@dataclass(frozen=True)
class CostAxis:
    """A cost as it is drawn: its name in a caption, its title, and in Plotly's words how a point tells it."""

    name: str
    title: str
    hover: str


KEY = "dotted: Pareto front; numbers: rank; hollow: fewer tokens"
"""Of `loss_against`, for its caption."""

PARAMETERS = CostAxis("parameters", "parameters", "%{x:,} parameters")


def loss_against(view: SearchView, costs: Mapping[int, float], axis: CostAxis) -> go.Figure:
    """The loss of each candidate over what it costs, by candidate id; KEY says what is drawn how.

    Losses compare only at equal tokens: candidates that are not as far as the furthest are drawn hollow, and those
    not retrained at all are left out.
    """
    # The best last, and so on top.
    rows = [row for row, _ in _styled(view) if row.rank is not None and row.tokens]
    rows = [row for row in rows if row.loss is not None and math.isfinite(row.loss)]
    furthest = max((row.tokens for row in rows), default=0)
    colour_of = colours(view.leaderboard)
    dots: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [costs[row.candidate_id] for row in rows],
        "y": [row.loss for row in rows],
        "customdata": [row.candidate_id for row in rows],
        "text": [str(row.rank) if row.candidate_id in colour_of else "" for row in rows],
        "textposition": "middle right",
        "hovertext": [f"{row.architecture.label}<br>{row.tokens:,} tokens" for row in rows],
        "hovertemplate": f"%{{hovertext}}<br>{axis.hover}<br>loss %{{y:.4f}}<extra></extra>",
        "marker": {
            "opacity": 1,
            "line": {"width": 0},
            "size": [9 if row.candidate_id in colour_of or len(rows) <= _FEW else 5 for row in rows],
            "color": [colour_of.get(row.candidate_id, GREY) for row in rows],
            "symbol": ["circle" if row.tokens == furthest else "circle-open" for row in rows],
        },
    }
    scale = _LossScale([*(row.loss or 0.0 for row in rows), *_teacher_losses(view)])
    figure = chart([_front_line(view, costs), dots], axis.title, scale.axis)
    _mark_teacher(figure, view)
    if not rows:
        return saying(figure, "drawn once a candidate has been retrained")
    labels = [(scale.place(loss), f"teacher {loss:.3f}") for loss in _teacher_losses(view)]
    return with_labels(figure, labels, gap=0.0)


def _front_line(view: SearchView, costs: Mapping[int, float]) -> dict[str, Any]:
    """What loss can be had for a cost: a step down at every candidate on the front."""
    rows = front(view.leaderboard, {id_: (cost,) for id_, cost in costs.items()})
    rows.sort(key=lambda row: costs[row.candidate_id])
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [costs[row.candidate_id] for row in rows],
        "y": [row.loss for row in rows],
        "line": {"color": GREY, "width": 1, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }


def candidate_curve(details: CandidateDetails, view: SearchView) -> go.Figure:
    """One candidate from the cut to the end of its promotion, which goes on from the trial's last weights."""
    colour = colours(view.leaderboard).get(details.standing.candidate_id, GREY)
    trial = _finite(details.curve)
    runs = [("trial", trial, 0, "solid")]
    if details.promotion is not None and trial:
        runs.append(("promotion", _finite(details.promotion.curve), trial[-1].tokens, "dot"))
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": [before + point.tokens for point in points],
            "y": [point.loss for point in points],
            "line": {"color": colour, "width": 2, "dash": dash},
            "customdata": [details.standing.candidate_id] * len(points),
            "hovertext": [f"{point.tokens:,} tokens of {run}<br>KL {point.kl_to_teacher:.4f}" for point in points],
            "hovertemplate": "%{hovertext}<br>loss %{y:.4f}<extra></extra>",
        }
        for run, points, before, dash in runs
    ]
    scale = _LossScale([*(point.loss for _, points, _, _ in runs for point in points), *_teacher_losses(view)])
    figure = chart(traces, "tokens of retraining, of the trial and then of the promotion", scale.axis)
    if not trial:
        return saying(figure, "drawn from the first measurement on, right after pruning")
    _mark_teacher(figure, view)
    labels = [(scale.place(points[-1].loss), run) for run, points, _, _ in runs[-1:] if points]
    labels += [(scale.place(loss), f"teacher {loss:.3f}") for loss in _teacher_losses(view)]
    return with_labels(figure, labels, gap=scale.per_pixel * _LABEL)


# --- what they are made of ----------------------------------------------------------------------------------


class _LossScale:
    """An axis that holds all of `losses`, logarithmic where the largest is a multiple of the smallest.

    Its limits are fixed here, since direct labels must know how many units of it a pixel is.
    """

    def __init__(self, losses: Sequence[float]) -> None:
        low, high = min(losses, default=0.0), max(losses, default=1.0)
        self._logarithmic = 0 < 3 * low < high
        low, high = self.place(low), self.place(high)
        margin = 0.05 * (high - low) or 0.05
        self.per_pixel = (high - low + 2 * margin) / (HEIGHT - _TOP - _BOTTOM)
        self.axis = {
            "title": {"text": "validation loss (nats per token)"},
            "type": "log" if self._logarithmic else "linear",
            "range": [low - margin, high + margin],
            # Between powers of ten, else only 2 and 5 are written.
            "dtick": "D1" if self._logarithmic else None,
        }

    def place(self, loss: float) -> float:
        """Where it stands on the axis, in the axis' own units."""
        return math.log10(loss) if self._logarithmic else loss


def chart(traces: list[dict[str, Any]], x: str, y_axis: dict[str, Any]) -> go.Figure:
    """A figure of these traces with a titled x axis, in the style that all share."""
    axis = {"gridcolor": "rgba(128,128,128,0.2)", "zeroline": False, "exponentformat": "B", "automargin": False}
    return go.Figure(
        data=traces,
        layout={
            # An empty template: Plotly's own would be most of the JSON.
            "template": {"layout": {}},
            "height": HEIGHT,
            "margin": {"l": 56, "r": 24, "t": _TOP, "b": _BOTTOM},
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": GREY},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "showlegend": False,
            "hovermode": "closest",
            "dragmode": "zoom",
            "xaxis": axis | {"title": {"text": x}},
            "yaxis": axis | y_axis,
        },
    )


def _styled(view: SearchView) -> list[tuple[Standing, dict[str, Any]]]:
    """Rows and their line styles in the order to draw them: grey first, the best on top."""
    colour_of = colours(view.leaderboard)
    # The more lines, the fainter each, so that the best stay readable among them.
    faint = f"rgba(128,128,128,{0.5 if len(view.leaderboard) <= _FEW else 0.2})"
    styled = [
        (row, {"color": colour_of[row.candidate_id], "width": 2})
        if row.candidate_id in colour_of
        else (row, {"color": faint, "width": 1})
        for row in reversed(view.leaderboard)
    ]
    return sorted(styled, key=lambda pair: pair[0].candidate_id in colour_of)


def _line(row: Standing, style: dict[str, Any], x: Sequence[int], y: Sequence[float]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": row.architecture.label,
        "meta": f"{row.parameters:,}",
        "x": list(x),
        "y": list(y),
        "line": style,
        "customdata": [row.candidate_id] * len(x),
    }


def _hover(point: str) -> str:
    return f"%{{fullData.name}}<br>%{{meta}} parameters<br>{point}<extra></extra>"


def _best(view: SearchView, among: Mapping[int, object]) -> list[Standing]:
    """The coloured candidates of `among`, best first."""
    colour_of = colours(view.leaderboard)
    return [row for row in view.leaderboard if row.candidate_id in colour_of and row.candidate_id in among]


def _label(row: Standing, view: SearchView) -> str:
    """The shape after a dot of its colour: as text, the colours themselves would be too pale."""
    colour = colours(view.leaderboard)[row.candidate_id]
    return f'<span style="color:{colour}">\u25cf</span> {row.rank}  {row.architecture.label}'


def _mark_teacher(figure: go.Figure, view: SearchView) -> None:
    for loss in _teacher_losses(view):
        figure.add_hline(y=loss, line={"color": GREY, "width": 1, "dash": "dash"}, name="teacher")


def with_labels(
    figure: go.Figure, labels: Sequence[tuple[float, str]], *, gap: float, downwards: bool = False
) -> go.Figure:
    """The figure with `labels`, pairs of place and text, right of it; the best keeps its place, others make room."""
    free = -math.inf
    annotations = []
    for place, text in sorted(labels, reverse=downwards):
        height = max(-place if downwards else place, free)
        free = height + gap
        annotations.append(
            {
                "x": 1.01,
                "xref": "paper",
                "xanchor": "left",
                "y": height,
                "yref": "y",
                "yanchor": "middle",
                "text": text,
                "showarrow": False,
            }
        )
    longest = max((len(re.sub("<.*?>", "", text)) for _, text in labels), default=0)
    return figure.update_layout(annotations=annotations, margin_r=24 + _CHARACTER * longest)


def saying(figure: go.Figure, text: str) -> go.Figure:
    """A sentence in the place of a figure that has nothing to show yet."""
    centre = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False, "text": text}
    return figure.update_layout(annotations=[centre], shapes=[], xaxis_visible=False, yaxis_visible=False)


def _teacher_losses(view: SearchView) -> list[float]:
    return [] if view.teacher_loss is None or not math.isfinite(view.teacher_loss) else [view.teacher_loss]


def _finite(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    return [point for point in curve if math.isfinite(point.loss)]
