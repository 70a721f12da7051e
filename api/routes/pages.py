"""The HTML pages, and the files that they load."""

from contextlib import suppress
from pathlib import Path

import plotly
from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from sqlalchemy.orm import Session
from starlette.staticfiles import StaticFiles

from api.pages import render
from api.routes.parameters import CandidateId, Now, Offset, OpenDatabase, SearchName
from api.services import control, viewing
from nas.errors import NotFoundError
from nas.importance_view import ImportanceView

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_A_YEAR = "public, max-age=31536000, immutable"


def static_files() -> StaticFiles:
    """The stylesheet and the script, to be mounted at /static after the router, which holds Plotly's file there."""
    return StaticFiles(directory=Path(render.__file__).parent / "static")


@router.get("/")
def show_searches(database: OpenDatabase, now: Now, offset: Offset = 0) -> str:
    """The searches, newest first."""
    with database.reading() as session:
        summaries = viewing.summaries(session, limit=render.PAGE_SIZE + 1, offset=offset)
        health = viewing.health(session, now)
    return render.list_page(summaries, health, offset)


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


@router.get("/searches/{name}/candidates/{candidate_id}")
def show_candidate(database: OpenDatabase, name: SearchName, candidate_id: CandidateId) -> str:
    """All that is on record of one candidate."""
    with database.reading() as session:
        details, view = viewing.candidate(session, name, candidate_id), viewing.view(session, name)
        scores = _scores(session, name)
    return render.candidate_page(details, view, scores)


@router.post("/searches/{name}/cancel", response_class=RedirectResponse, status_code=303)
def cancel_search(database: OpenDatabase, name: SearchName, now: Now) -> str:
    """Asks for the search to be ended, and goes back to its page."""
    control.cancel(database, name, now)
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
