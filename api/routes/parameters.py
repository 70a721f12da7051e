"""What handlers take from a request, each under one name, with the sentence that says what is accepted."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Body, Depends, Header, Path, Query, Request

from api.live import Live
from api.services import viewing
from api.store.database import Database
from nas.spec import SearchSpec
from nas.spec_file import check_absolute

MOST_ROWS = 1000
MOST_CANDIDATES_LISTED = 10_000
MOST_LINES = 100_000
MOST_DEVICES = 2**31 - 1
_LARGEST_ID = 2**63 - 1

_NAME = SearchSpec.model_fields["name"]
_NAME_PATTERN = next(rule.pattern for rule in _NAME.metadata if hasattr(rule, "pattern"))

ACCEPTED = {
    "name": f"the name of a search, {_NAME.description}",
    "search": f"the name of a search, {_NAME.description}; left out, all searches",
    "limit": f"how many at most, a whole number from 1 to {MOST_ROWS:,} (of candidates, {MOST_CANDIDATES_LISTED:,})",
    "offset": "how many to leave out at the beginning, a whole number from 0",
    "devices": "how many devices there are, a whole number from 1; left out, as many as run all trials at once",
    "archived": "true for those that are archived, false for all others",
    "where": "a constraint on a cost, such as parameters<=1e9; given several times, all have to hold",
    "candidate_id": "the number of a candidate of this search",
    "promotion_id": "the number of a promotion of this search",
    "verb": "what the page of the search offers",
    "model_id": "the number of a model",
    "job_id": "the number of a job",
    "number": "the number of an attempt, from 1",
    "file_name": "the name of one of the model's files",
    "tail": f"how many lines of the end, a whole number from 1 to {MOST_LINES:,}",
    "after": "the id of the last event that is known, from 0; left out, only what happens from now on",
    "last-event-id": "the id of the last event that is known, from 0; goes before `after`",
}
"""By the name of the parameter: its description, and what its errors name as accepted."""


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _live(request: Request) -> Live:
    live: Live = request.app.state.live
    return live


def _now() -> datetime:
    return datetime.now(UTC)


def _spec_on_server(
    spec: Annotated[SearchSpec, Body(description="All that a search needs to know; its paths are on the server.")],
) -> SearchSpec:
    check_absolute(spec)
    return spec


OpenDatabase = Annotated[Database, Depends(_database)]
LiveNews = Annotated[Live, Depends(_live)]
Now = Annotated[datetime, Depends(_now)]
GivenSpec = Annotated[SearchSpec, Depends(_spec_on_server)]

SearchName = Annotated[str, Path(pattern=_NAME_PATTERN, description=ACCEPTED["name"])]
SearchFilter = Annotated[str | None, Query(pattern=_NAME_PATTERN, description=ACCEPTED["search"])]
Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description=ACCEPTED["limit"])]
CandidateLimit = Annotated[int, Query(ge=1, le=MOST_CANDIDATES_LISTED, description=ACCEPTED["limit"])]
Offset = Annotated[int, Query(ge=0, le=_LARGEST_ID, description=ACCEPTED["offset"])]
CandidateId = Annotated[int, Path(ge=1, le=_LARGEST_ID, description=ACCEPTED["candidate_id"])]
OnlyCandidate = Annotated[
    int | None, Query(ge=1, le=_LARGEST_ID, description=f"{ACCEPTED['candidate_id']}; left out, all of them")
]
Where = Annotated[list[str], Query(default_factory=list, description=ACCEPTED["where"])]
PromotionId = Annotated[int, Path(ge=1, le=_LARGEST_ID, description=ACCEPTED["promotion_id"])]
Devices = Annotated[int | None, Query(ge=1, le=MOST_DEVICES, description=ACCEPTED["devices"])]
Archived = Annotated[bool, Query(description=ACCEPTED["archived"])]
ModelId = Annotated[int, Path(ge=1, le=_LARGEST_ID, description=ACCEPTED["model_id"])]
JobId = Annotated[int, Path(ge=1, le=_LARGEST_ID, description=ACCEPTED["job_id"])]
AttemptNumber = Annotated[int, Path(ge=1, le=_LARGEST_ID, description=ACCEPTED["number"])]
FileName = Annotated[str, Path(description=ACCEPTED["file_name"])]
Tail = Annotated[int, Query(ge=1, le=MOST_LINES, description=ACCEPTED["tail"])]
After = Annotated[int | None, Query(ge=0, le=_LARGEST_ID, description=ACCEPTED["after"])]
LastEventId = Annotated[int | None, Header(ge=0, le=_LARGEST_ID, description=ACCEPTED["last-event-id"])]


def _known(name: SearchName, database: OpenDatabase) -> str:
    with database.reading() as session:
        viewing.spec(session, name)
    return name


def _known_if_given(database: OpenDatabase, search: SearchFilter = None) -> str | None:
    with database.reading() as session:
        if search is None:
            viewing.newest_event(session)
        else:
            viewing.spec(session, search)
    return search


# Streams ask before they begin, and so find a database that is away: afterwards there is no status to answer with.
KnownSearch = Annotated[str, Depends(_known)]
FilteredSearch = Annotated[str | None, Depends(_known_if_given)]
