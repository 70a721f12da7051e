"""What open pages listen to: their fragments and figures as server-sent events."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.routes.parameters import KnownSearch, LiveNews

router = APIRouter(include_in_schema=False)


class EventStream(StreamingResponse):
    """Server-sent events; however the reader leaves, the messages are closed, and with them the subscription."""

    media_type = "text/event-stream"

    def __init__(self, messages: AsyncGenerator[bytes, None]) -> None:
        super().__init__(messages, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._messages):
            await super().__call__(scope, receive, send)


@router.get("/searches/{name}/live")
async def follow_search_page(name: KnownSearch, live: LiveNews) -> EventStream:
    """All fragments and figures of a search's page, then those that change."""
    return EventStream(live.page(name))


@router.get("/live")
async def follow_list_page(live: LiveNews) -> EventStream:
    """All fragments of the first page of searches, then those that change."""
    return EventStream(live.page(None))
