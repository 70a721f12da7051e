"""Pages as pure functions of views, whole or in fragments.

A fragment is one element, named by its id; an open page replaces the element by its newer version. Whole pages are
made of the same fragments, so the first load and every update agree. No fragment holds the time of its making:
scripts turn exact times into relative ones.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import plotly
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from api import words
from api.outlook import outlook
from api.pages.actions import of_promotion, of_search
from api.pages.glyph import glyph, text_alternative
from api.pages.rows import Row, rows
from nas.architecture import AXES
from nas.figures import KEY, Curves, candidate_curve, loss_against_parameters, loss_curves, rank_over_tokens
from nas.importance_figures import Drawing, drawings, method
from nas.importance_view import ImportanceView
from nas.ranking import CurvePoint, Standing, at_common_tokens, level
from nas.search_figures import AxisImportance, Costs, known_costs, on_the_front
from nas.search_figures import drawings as search_drawings
from nas.states import JobState, SearchState
from nas.views import AttemptView, CandidateDetails, ErrorView, HealthView, SearchSummary, SearchView

PAGE_SIZE = 50
"""Searches on one page of the list; only the first, newest page is live."""

_COST_HEADINGS = {
    "parameters": ("parameters", ""),
    "memory_bytes": ("memory", "weights and KV cache"),
    "decode_flops_per_token": ("decoding", "per token"),
    "milliseconds": ("latency", "ms, measured"),
}


def search_fragments(view: SearchView, curves: Curves | None = None) -> dict[str, str]:
    """The parts of a search's page that change, by element id; `curves` are those of its trials, for the table."""
    return dict(_search_fragments(view, rows(view, curves)))


def list_fragments(summaries: Sequence[SearchSummary], health: HealthView, *, archived: bool = False) -> dict[str, str]:
    """The parts of the list's page that change, by element id."""
    return {
        "health": _render("health.html", health=health),
        "searches": _render("searches_rows.html", summaries=summaries, archived=archived),
    }


def search_figures(view: SearchView, curves: Curves) -> dict[str, dict[str, Any]]:
    """The charts of a search's page as Plotly's JSON, by element id."""
    common = view.model_copy(update={"leaderboard": tuple(at_common_tokens(view.leaderboard, curves))})
    return {
        "figure-loss-curves": loss_curves(view, curves).to_plotly_json(),
        "figure-rank-over-tokens": rank_over_tokens(common, curves).to_plotly_json(),
        "figure-loss-against-parameters": loss_against_parameters(view).to_plotly_json(),
    }


def search_page(view: SearchView, curves: Curves) -> str:
    """The leaderboard of a search and all around it."""
    found = rows(view, curves)
    return _render(
        "search.html",
        view=view,
        rows=found,
        fragments=_search_fragments(view, found),
        figures=search_figures(view, curves),
        title=tab_title(view),
    )


def list_page(summaries: Sequence[SearchSummary], health: HealthView, offset: int, *, archived: bool = False) -> str:
    """The searches from `offset` on, newest first; one more than PAGE_SIZE says that there are older ones.

    They are those that are `archived`, or all others.
    """
    shown = summaries[:PAGE_SIZE]
    return _render(
        "searches.html",
        fragments=list_fragments(shown, health, archived=archived),
        archived=archived,
        offset=offset,
        more=len(summaries) > PAGE_SIZE,
        page_size=PAGE_SIZE,
    )


def importance_page(view: SearchView, scores: ImportanceView | None) -> str:
    """What the teacher's layers, heads, neurons, channels and experts are worth, before any cut."""
    drawn = () if scores is None else drawings(scores, None, None)
    return _render(
        "importance.html",
        view=view,
        scores=scores,
        unscored=_unscored(view),
        drawings=drawn,
        figures=_of_drawings(drawn),
    )


def figures_page(view: SearchView, curves: Curves, costs: Costs, importances: Sequence[AxisImportance]) -> str:
    """What a search has come to as a whole: the Pareto front, and which sizes matter; `costs` are by candidate id."""
    drawn = search_drawings(view, curves, costs, importances)
    return _render(
        "figures.html",
        view=view,
        front=on_the_front(view, costs),
        costs=costs,
        known=known_costs(costs),
        compared=level(view.leaderboard),
        cost_headings=_COST_HEADINGS,
        drawings=drawn,
        figures=_of_drawings(drawn),
    )


def candidate_page(details: CandidateDetails, view: SearchView, scores: ImportanceView | None) -> str:
    """All that is on record of one candidate of the search `view`, with its cut drawn into the teacher's scores."""
    shape, num_layers = details.standing.architecture, view.teacher.num_hidden_layers
    kept = tuple(range(num_layers)) if shape.num_hidden_layers == num_layers else details.kept_layers
    drawn = () if scores is None else drawings(scores, kept, dict(zip(AXES, shape.axes, strict=True)))
    return _render(
        "candidate.html",
        details=details,
        view=view,
        jobs=[job for job in view.jobs if job.candidate_id == details.standing.candidate_id],
        runs=_runs(details),
        weights=_newest_weights(details.attempts),
        scores=scores,
        unscored=_unscored(view),
        layers_known=kept is not None,
        drawings=drawn,
        figures={"figure-candidate": candidate_curve(details, view).to_plotly_json(), **_of_drawings(drawn)},
    )


def error_page(error: ErrorView, status: int) -> str:
    """What went wrong, in a sentence, and where to go from there."""
    return _render("error.html", status=status, heading=HTTPStatus(status).phrase, error=error)


def tab_title(view: SearchView) -> str:
    """A dot while the search runs, the best loss once there is one, and the name."""
    best = _best(view)
    dot, loss = "\u25cf" if view.state is SearchState.RUNNING else "", words.loss(best.loss if best else None)
    parts = [dot, loss, view.name]
    return " ".join(part for part in parts if part)


def _search_fragments(view: SearchView, found: Sequence[Row]) -> dict[str, Markup]:
    best = _best(view)
    return {
        "heading": _render(
            "heading.html", view=view, state_word=words.state(view.state, view.intent), title=tab_title(view)
        ),
        "actions": _render("actions.html", view=view, actions=of_search(view)),
        "notice": _render("notice.html", view=view, outlook=outlook(view)),
        "best": _render("best.html", view=view, best=best, ahead=_ahead(view, best)),
        "sweep": _render("sweep.html", view=view),
        "order": _render("order.html", view=view),
        "spend": _render("spend.html", view=view, doing=_doing(view)),
        **{f"row-{row.standing.candidate_id}": _render("row.html", row=row, name=view.name) for row in found},
        "teacher": _render("teacher.html", view=view),
        "promotions": _render("promotions.html", view=view, waits=_waits(view)),
    }


def _best(view: SearchView) -> Standing | None:
    """The first of the leaderboard, once it is retrained."""
    return next((row for row in view.leaderboard if row.rank == 1 and row.tokens), None)


def _ahead(view: SearchView, best: Standing | None) -> str:
    """How far the best is from the second and from the teacher, where each can be told."""
    if best is None or best.loss is None:
        return ""
    told = []
    second = next((row for row in view.leaderboard if row.rank == 2), None)
    if second is not None and second.loss is not None:
        ahead = f"ahead of the second by {words.gap(second.loss - best.loss)}"
        behind = (
            "the others were stopped before"
            if view.state is SearchState.FINISHED
            else "the others have fewer tokens so far"
        )
        told.append(ahead if second.tokens == best.tokens else behind)
    if view.teacher_loss is not None:
        above = best.loss - view.teacher_loss
        told.append(f"{words.gap(abs(above))} {'above' if above >= 0 else 'below'} the teacher")
    return ", ".join(told)


def _doing(view: SearchView) -> list[str]:
    """What runs, or waits for a reason, besides trials and promotions that wait, which have rows of their own."""
    told = []
    for job in view.jobs:
        if job.state is JobState.RUNNING and job.kind != "trial":
            far = [words.percent(job.progress.done, job.progress.total)] if job.progress else []
            pace = [words.telemetry([job.progress])] if job.progress else []
            told.append(", ".join(each for each in (words.PHASES[job.kind], *far, *pace) if each))
        elif job.candidate_id is None and (why := words.waiting(job)):
            told.append(f"{words.PHASES[job.kind]} waits: {why}")
    return told


def _waits(view: SearchView) -> dict[int, str | None]:
    """Why the queued job of each promotion waits."""
    jobs = {job.candidate_id: job for job in view.jobs if job.kind in ("promotion", "export")}
    candidates = {promotion.id: promotion.candidate_id for promotion in view.promotions}
    return {id_: words.waiting(jobs[candidate]) if candidate in jobs else None for id_, candidate in candidates.items()}


def _runs(details: CandidateDetails) -> list[tuple[str, Sequence[CurvePoint]]]:
    """Curves of a candidate, by what they are of: its trial or, of several, their mean and each."""
    runs: list[tuple[str, Sequence[CurvePoint]]] = [("trial", details.curve)]
    if len(details.trials) > 1:
        runs = [("mean of trials", details.curve)]
        runs += [(f"trial, seed {trial.seed}", trial.curve) for trial in details.trials]
    return [*runs, ("promotion", details.promotion.curve)] if details.promotion else runs


def _of_drawings(drawn: Sequence[Drawing]) -> dict[str, dict[str, Any]]:
    return {f"figure-{each.name}": each.figure.to_plotly_json() for each in drawn}


def _unscored(view: SearchView) -> str:
    """Why there are no scores to be drawn, where there are none."""
    if view.teacher_loss is not None:
        return "Not on record: the teacher's scores were not kept to be drawn, or their file is gone."
    if view.state is SearchState.RUNNING:
        return "Drawn once the teacher has been scored, before the first trial."
    return "None: the search ended before the teacher was scored."


def _newest_weights(attempts: Sequence[AttemptView]) -> AttemptView | None:
    trained = [each for each in attempts if each.kind in ("trial", "promotion") and each.state == "succeeded"]
    return max(trained, key=lambda attempt: (attempt.job_id, attempt.number), default=None)


def _cost(value: float, name: str) -> str:
    """In a table, with its unit where the heading has none."""
    units = {"memory_bytes": "B", "decode_flops_per_token": "FLOP"}
    if name in units:
        return words.size(value, units[name])
    return words.parameters(int(value)) if name == "parameters" else f"{value:,.4g}"


def _unbroken(word: Callable[..., str]) -> Callable[..., str]:
    """With a number and its unit kept on one line."""
    return lambda *values: word(*values).replace(" ", "\u00a0")


def _code(sentence: str) -> Markup:
    """A sentence with what stands between backticks as code."""
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(sentence))))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("api.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: Mapping[str, Any] = {
        "correction": words.correction,
        "rate": "{:g}".format,
        "state_word": lambda search: words.state(search.state, search.intent),
        "promotion_word": words.promotion,
        "about": _unbroken(words.about),
        "actions": of_promotion,
        "alternative": text_alternative,
        "code": _code,
        "cost": _unbroken(_cost),
        "counts": words.counts,
        "exact": words.exact,
        "glyph": glyph,
        "amount": words.amount,
        "method": method,
        "movements": words.movements,
        "tie": words.tie,
        "probability": _unbroken(words.probability),
        "loss": words.loss,
        "parameters": _unbroken(words.parameters),
        "percent": _unbroken(words.percent),
        "segment": lambda text: quote(text, safe=""),
        "size": _unbroken(words.size),
        "telemetry": lambda progress: words.telemetry([progress]),
        "taught_by": words.taught_by,
        "tokens": _unbroken(words.tokens),
    }
    environment.filters.update(filters)
    environment.globals.update(plotly_version=plotly.__version__, trial_words=words.TRIALS, key_of_costs=KEY)
    return environment


_ENVIRONMENT = _environment()


def _render(template: str, **values: object) -> Markup:
    return Markup(_ENVIRONMENT.get_template(template).render(values).strip())
