"""Searches: what a spec would start, starting it, and looking at it."""

import csv
import io

from fastapi import APIRouter, Response

from api.routes.errors import declared
from api.routes.parameters import (
    Archived,
    CandidateId,
    CandidateLimit,
    Devices,
    GivenSpec,
    Limit,
    Now,
    Offset,
    OpenDatabase,
    SearchName,
    Where,
)
from api.services import outcome, planning, submission, viewing
from nas.architecture import AXES
from nas.importance_view import ImportanceView
from nas.plan import PlanView
from nas.ranking import Standing
from nas.spec import SearchSpec
from nas.views import (
    AttemptView,
    BestView,
    CandidateDetails,
    EnumerationView,
    ModelView,
    PromotionView,
    SearchSummary,
    SearchView,
)

router = APIRouter(prefix="/v1", tags=["searches"])


@router.post("/enumerations", summary="List what a spec would try", responses=declared())
def enumerate_spec(spec: GivenSpec, limit: CandidateLimit = 256, offset: Offset = 0) -> EnumerationView:
    """The candidates that a search of this spec would retrain, with their costs; starts nothing.

    `limit` and `offset` page through `candidates`; the counts are of all.
    """
    return submission.enumerate_spec(spec, limit=limit, offset=offset)


@router.post("/plans", summary="Say what a search would take", responses=declared())
def plan_spec(spec: GivenSpec, database: OpenDatabase, devices: Devices = None) -> PlanView:
    """What a search of this spec would take of tokens, devices, hours and money with each strategy; starts nothing.

    Hours are reckoned by what runs of like size have achieved here, or by the spec's `hardware` while there are none.
    """
    return planning.plan_search(spec, database=database, devices=devices)


@router.post(
    "/searches",
    summary="Submit a search",
    status_code=201,
    responses={200: {"model": SearchView, "description": "It was there already."}, **declared(409)},
)
def submit_search(spec: GivenSpec, database: OpenDatabase, now: Now, response: Response) -> SearchView:
    """Starts a search, or finds the one of this name and spec; one that failed or was cancelled is taken up again.

    A changed spec needs another name, unless the search ended before its first trial was queued.
    """
    submitted = submission.submit(database, spec, now)
    response.status_code = 201 if submitted.created else 200
    response.headers["Location"] = f"/v1/searches/{submitted.name}"
    with database.reading() as session:
        return viewing.view(session, submitted.name)


@router.get("/searches", summary="List searches", responses=declared())
def list_searches(
    database: OpenDatabase, limit: Limit = 50, offset: Offset = 0, archived: Archived = False
) -> list[SearchSummary]:
    """All searches that are not archived, or only those that are, the newest first."""
    with database.reading() as session:
        return viewing.summaries(session, limit=limit, offset=offset, archived=archived)


@router.get("/searches/{name}", summary="Look at a search", responses=declared(404))
def read_search(name: SearchName, database: OpenDatabase) -> SearchView:
    """The search as it stands: its leaderboard, its promotions, and the jobs that are not done."""
    with database.reading() as session:
        return viewing.view(session, name)


@router.get("/searches/{name}/spec", summary="Read a search's spec", responses=declared(404))
def read_spec(name: SearchName, database: OpenDatabase) -> SearchSpec:
    """The spec it was submitted with, and every value that was left out."""
    with database.reading() as session:
        return viewing.spec(session, name)


@router.get("/searches/{name}/leaderboard", summary="Read the leaderboard", responses=declared(404))
def read_leaderboard(name: SearchName, database: OpenDatabase) -> list[Standing]:
    """The candidates in the order of their rank; those without one come last."""
    with database.reading() as session:
        return list(viewing.view(session, name).leaderboard)


@router.get(
    "/searches/{name}/leaderboard.csv",
    summary="Read the leaderboard as a table",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}}, "description": "One line for each candidate."}, **declared(404)},
)
def read_leaderboard_as_csv(name: SearchName, database: OpenDatabase) -> Response:
    """The leaderboard as comma-separated values, with a line of headings."""
    with database.reading() as session:
        rows = viewing.view(session, name).leaderboard
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(_csv(rows), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/searches/{name}/best", summary="Read the best so far", responses=declared(404, 409))
def read_best(name: SearchName, database: OpenDatabase, where: Where) -> BestView:
    """The best architecture so far, with a config.json for it, and its best weights if there are any.

    With `where`, the best of those within all of these constraints; 422 if none is, with the closest. 409 while no
    candidate was measured.
    """
    with database.reading() as session:
        return outcome.best(session, name, where)


@router.get("/searches/{name}/importance", summary="Read the scores", responses=declared(404))
def read_importance(name: SearchName, database: OpenDatabase) -> ImportanceView:
    """How important the teacher's layers, heads, neurons, channels and experts are, as curves to be drawn.

    404 while the calibration has not ended, and for a search that was calibrated before scores were kept like this.
    """
    with database.reading() as session:
        return viewing.importance(session, name)


@router.get("/searches/{name}/candidates/{candidate_id}", summary="Look at a candidate", responses=declared(404))
def read_candidate(name: SearchName, candidate_id: CandidateId, database: OpenDatabase) -> CandidateDetails:
    """All that is on record of one candidate: its standing, its curve, and every attempt at its jobs."""
    with database.reading() as session:
        return viewing.candidate(session, name, candidate_id)


@router.get("/searches/{name}/attempts", summary="List a search's attempts", responses=declared(404))
def list_attempts(name: SearchName, database: OpenDatabase) -> list[AttemptView]:
    """Every try at every job of it, by job: when it ran, where it wrote, and why it ended without a result."""
    with database.reading() as session:
        return viewing.attempts(session, name)


@router.get("/searches/{name}/promotions", summary="List a search's promotions", responses=declared(404))
def list_promotions(name: SearchName, database: OpenDatabase) -> list[PromotionView]:
    """The full distillations of its winners."""
    with database.reading() as session:
        return outcome.promotions(session, name)


@router.get("/searches/{name}/models", summary="List a search's models", responses=declared(404))
def list_models_of_search(name: SearchName, database: OpenDatabase) -> list[ModelView]:
    """What its promotions ended in, with the files of each."""
    with database.reading() as session:
        return outcome.models(session, name)


def _csv(rows: tuple[Standing, ...]) -> str:
    """One column for each field of a standing, with its sizes along the axes in place of the architecture."""
    plain = [field for field in Standing.model_fields if field != "architecture"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*plain[:3], *AXES, *plain[3:]])
    for row in rows:
        values = [getattr(row, field) for field in plain]
        sizes = [getattr(row.architecture, axis) for axis in AXES]
        writer.writerow([*values[:3], *sizes, *values[3:]])
    return text.getvalue()
