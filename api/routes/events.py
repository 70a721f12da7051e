"""What happens, as server-sent events, and whether the service works."""

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from api.routes.errors import declared
from api.routes.live import EventStream
from api.routes.parameters import After, FilteredSearch, LastEventId, LiveNews, Now, OpenDatabase
from api.services import viewing
from nas.views import HealthView

router = APIRouter(prefix="/v1", tags=["service"])


@router.get(
    "/events",
    summary="Follow what happens",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Messages, for as long as the reader stays."},
        **declared(404),
    },
)
async def follow_events(
    live: LiveNews, search: FilteredSearch, after: After = None, last_event_id: LastEventId = None
) -> EventStream:
    """Server-sent events: all that happened later than the event `after`, then what happens, each once.

    Every message has an `id`, an event's `kind` as `event`, and the event as `data`. The first has nothing but an id,
    to come back with. `resync` tells a reader that is too slow that it missed events: it goes on with the newest, and
    may come back with the last id it knows. With `search`, while it runs, there is `progress` too, without an id.
    """
    return EventStream(live.events(search, after if last_event_id is None else last_event_id))


@router.get("/health", summary="Ask whether the service works", responses=declared())
def read_health(database: OpenDatabase, now: Now) -> HealthView:
    """The service's version, and whether a scheduler is at work; 503 if the database cannot be read."""
    with database.reading() as session:
        return viewing.health(session, now)
