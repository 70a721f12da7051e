"""The HTML pages, and the files that they load."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

import plotly
from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from sqlalchemy.orm import Session
from starlette.staticfiles import StaticFiles

from api.pages import render
from api.routes.parameters import Archived, CandidateId, Now, Offset, OpenDatabase, PromotionId, SearchName
from api.services import control, promotion_control, viewing
from api.services.axis_importance import axis_importance
from api.services.costs import figure_costs
from api.store.database import Database
from nas.errors import NotFoundError
from nas.importance_view import ImportanceView
from nas.ranking import at_common_tokens

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
SearchVerb = Literal["pause", "stop", "cancel", "resume", "retry", "archive", "unarchive"]
PromotionVerb = Literal["pause", "cancel", "resume", "retry"]

_OF_SEARCH: dict[SearchVerb, Callable[[Database, str, datetime], None]] = {
    "pause": control.pause,
    "stop": control.stop,
    "cancel": control.cancel,
    "resume": control.resume,
    "retry": control.retry,
    "archive": control.archive,
    "unarchive": partial(control.archive, archived=False),
}
_OF_PROMOTION: dict[PromotionVerb, Callable[[Database, str, int, datetime], None]] = {
    "pause": promotion_control.pause,
    "cancel": promotion_control.cancel,
    "resume": promotion_control.resume,
    "retry": promotion_control.retry,
}

_A_YEAR = "public, max-age=31536000, immutable"


def static_files() -> StaticFiles:
    """The stylesheet and the script, to be mounted at /static after the router, which holds Plotly's file there."""
    return StaticFiles(directory=Path(render.__file__).parent / "static")


@router.get("/")
def show_searches(database: OpenDatabase, now: Now, offset: Offset = 0, archived: Archived = False) -> str:
    """The searches, newest first."""
    with database.reading() as session:
        summaries = viewing.summaries(session, limit=render.PAGE_SIZE + 1, offset=offset, archived=archived)
        health = viewing.health(session, now)
    return render.list_page(summaries, health, offset, archived=archived)


@router.get("/searches/{name}")
def show_search(database: OpenDatabase, name: SearchName) -> str:
    """The leaderboard of a search."""
    with database.reading() as session:
        view, curves = viewing.view(session, name), viewing.curves(session, name)
    return render.search_page(view, curves)


@router.get("/searches/{name}/importance")
def show_importance(database: OpenDatabase, name: SearchName) -> str:
    """The scores that all candidates of a search are cut by."""
    with database.reading() as session:
        view, scores = viewing.view(session, name), _scores(session, name)
    return render.importance_page(view, scores)


@router.get("/searches/{name}/figures")
def show_figures(database: OpenDatabase, name: SearchName) -> str:
    """What a search has come to as a whole: the Pareto front, and which sizes matter."""
    with database.reading() as session:
        view, curves = viewing.view(session, name), viewing.curves(session, name)
        costs = figure_costs(session, name)
    common = view.model_copy(update={"leaderboard": tuple(at_common_tokens(view.leaderboard, curves))})
    return render.figures_page(common, curves, costs, axis_importance(common.leaderboard))


@router.get("/searches/{name}/candidates/{candidate_id}")
def show_candidate(database: OpenDatabase, name: SearchName, candidate_id: CandidateId) -> str:
    """All that is on record of one candidate."""
    with database.reading() as session:
        details, view = viewing.candidate(session, name, candidate_id), viewing.view(session, name)
        scores = _scores(session, name)
    return render.candidate_page(details, view, scores)


@router.post("/searches/{name}/{verb}", response_class=RedirectResponse, status_code=303)
def change_search(database: OpenDatabase, name: SearchName, verb: SearchVerb, now: Now) -> str:
    """Does what a button of the search's page says, and goes back to it."""
    _OF_SEARCH[verb](database, name, now)
    return f"/searches/{name}"


@router.post("/searches/{name}/promotions/{promotion_id}/{verb}", response_class=RedirectResponse, status_code=303)
def change_promotion(
    database: OpenDatabase, name: SearchName, promotion_id: PromotionId, verb: PromotionVerb, now: Now
) -> str:
    """The same of one of its promotions."""
    _OF_PROMOTION[verb](database, name, promotion_id, now)
    return f"/searches/{name}"


@router.get("/static/plotly.min.js", response_class=FileResponse)
def plotly_script() -> FileResponse:
    """Plotly's own file out of its wheel; pages ask for it by version, so it may be kept."""
    return FileResponse(_PLOTLY, media_type="text/javascript", headers={"Cache-Control": _A_YEAR})


def _scores(session: Session, name: str) -> ImportanceView | None:
    """None where there are none yet, and for searches that kept none."""
    with suppress(NotFoundError):
        return viewing.importance(session, name)
    return None
