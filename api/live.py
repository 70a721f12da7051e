"""Live news: one tailer of the events table for each web process, and what every open stream is yet to send.

Streams are server-sent events. What happened is read and encoded once, however many watch; a watcher that does not
keep up starts again from what is newest, and keeps nobody waiting.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.pages.render import PAGE_SIZE, list_fragments, search_figures, search_fragments
from api.services import viewing
from api.store.database import Database
from nas.errors import StoreError
from nas.states import JobState, SearchState
from nas.views import EventView, ProgressView, SearchView

PERIOD_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
MOST_WAITING = 1000
"""Messages that one stream may have before it; more than two pages of events, which come at once."""

_EVENTS_PAGE = 400
_LIST_TURNS = 4
"""Without news, the list of searches is looked at once in so many turns."""

_HEARTBEAT = b": nothing new\n\n"
_logger = logging.getLogger(__name__)


class Subscription:
    """What one stream is yet to send. `restart` makes what it begins with again after it has fallen behind."""

    def __init__(self, restart: Callable[[], bytes], *, after: int = 0) -> None:
        self._restart = restart
        self._after = after
        self._waiting: deque[bytes] = deque()
        self._fell_behind = False
        self._ended = False
        self._news = asyncio.Event()

    def put(self, message: bytes, event_id: int | None = None) -> None:
        """Adds a message, unless it is an event from before this subscription; does not wait."""
        if event_id is not None and event_id <= self._after:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.clear()
            self._fell_behind = True
        elif not self._fell_behind:
            self._waiting.append(message)
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def take(self) -> bytes | None:
        """All that waits, a heartbeat if nothing comes for a while, None at the end."""
        try:
            await asyncio.wait_for(self._news.wait(), HEARTBEAT_SECONDS)
        except TimeoutError:
            return _HEARTBEAT
        if self._ended:
            return None
        self._news.clear()
        if self._fell_behind:
            self._fell_behind = False
            return self._restart()
        messages = b"".join(self._waiting)
        self._waiting.clear()
        return messages


@dataclass(frozen=True)
class _Sight:
    """What a turn saw of what a channel is about; fragments and figures only where they may have changed.

    `for_new`: with all of them, since there was a page that shows nothing yet.
    """

    seen: object
    for_new: bool = False
    fragments: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class _Page:
    """Events of the table, and the id `through` which there are no others."""

    events: Sequence[EventView]
    newest: int
    through: int
    is_last: bool


@dataclass(frozen=True)
class _News:
    page: _Page
    sights: dict[str | None, _Sight]


@dataclass(eq=False)
class _Channel:
    """Who watches one search, or all of them, and what they were told: by kind and name, the JSON of a fragment."""

    streams: set[Subscription] = field(default_factory=set)
    pages: set[Subscription] = field(default_factory=set)
    seen: object = None
    progress: bytes = b""
    shown: dict[str, dict[str, str]] = field(default_factory=dict)

    def tell(self, sight: _Sight) -> None:
        """Sends what of a sight is new to those who watch."""
        self.seen = sight.seen
        if self.streams and isinstance(sight.seen, SearchView) and sight.seen.state is SearchState.RUNNING:
            progress = _progress_message(sight.seen)
            if progress != self.progress:
                self.progress = progress
                _put_all(self.streams, progress)
        if not self.pages or not (self.shown or sight.for_new):
            return  # A page that came while the turn was reading gets everything from the next one.
        for kind, found in (("fragments", sight.fragments), ("figures", sight.figures)):
            known = self.shown.setdefault(kind, {})
            encoded = {name: json.dumps(content) for name, content in found.items()}
            changed = {name: text for name, text in encoded.items() if known.get(name) != text}
            known.update(changed)
            if changed:
                _put_all(self.pages, _page_message(kind, changed))

    def everything(self) -> bytes:
        return b"".join(_page_message(kind, known) for kind, known in self.shown.items() if known)


def _put_all(subscriptions: set[Subscription], message: bytes) -> None:
    for subscription in subscriptions:
        subscription.put(message)


class Live:
    """The tailer of one web process and its streams; everything but reading happens on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._position: int | None = None
        self._channels: dict[str | None, _Channel] = {}
        self._stopping = asyncio.Event()
        self._complaint = ""
        self._num_turns = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tails for as long as the block runs; every stream has ended when it is left."""
        task = asyncio.create_task(self._tail())
        try:
            yield
        finally:
            self.stop()
            await task

    def stop(self) -> None:
        """Ends all streams, those that begin later too; to be called on the event loop."""
        self._stopping.set()
        for channel in self._channels.values():
            for subscription in (*channel.streams, *channel.pages):
                subscription.end()

    # --- streams ---

    async def events(self, search: str | None, after: int | None) -> AsyncGenerator[bytes, None]:
        """Messages for every event later than `after`, from the table and then live, without gap or duplicate.

        Without `after`, what happens from now on. The first message carries the id to come back with.
        """
        try:
            page = await run_in_threadpool(_read_page, self._database, search, after)
            unknown = after is not None and after > page.newest  # Of another database, or one put back to earlier.
            yield _resync(page.newest) if unknown else _message(id=page.newest if after is None else after)
            if after is None or unknown:
                after = page.newest
            while True:
                page = await run_in_threadpool(_read_page, self._database, search, after)
                if page.is_last and page.through >= (self._position or 0):
                    break
                yield b"".join(map(_event_message, page.events))
                after = page.through
        except StoreError as error:
            self._complain(error)
            return  # Whoever reads comes back with the id of the last event.
        # Nothing is awaited between the reading of the last page and the subscription: no event falls between them.
        if self._position is None:
            self._position = page.through
        subscription = Subscription(lambda: _resync(self._position or 0), after=page.through)
        with self._subscribed(search) as channel, _member(channel.streams, subscription):
            yield b"".join(map(_event_message, page.events))
            async for messages in self._follow(subscription):
                yield messages

    async def page(self, search: str | None) -> AsyncGenerator[bytes, None]:
        """Messages with the fragments and figures of a search's page, or of the list: all at first, then changes."""
        with self._subscribed(search) as channel:
            subscription = Subscription(channel.everything)
            if channel.shown:
                subscription.put(channel.everything())
            with _member(channel.pages, subscription):
                async for messages in self._follow(subscription):
                    yield messages

    async def _follow(self, subscription: Subscription) -> AsyncGenerator[bytes, None]:
        if self._stopping.is_set():
            return
        while (messages := await subscription.take()) is not None:
            yield messages

    @contextmanager
    def _subscribed(self, search: str | None) -> Iterator[_Channel]:
        channel = self._channels.setdefault(search, _Channel())
        try:
            yield channel
        finally:
            if not channel.pages:
                channel.shown.clear()  # Nobody keeps it up to date from here on.
            if not channel.pages and not channel.streams and self._channels.get(search) is channel:
                del self._channels[search]

    # --- tailing ---

    async def _tail(self) -> None:
        while not self._stopping.is_set():
            pause, more = PERIOD_SECONDS, False
            try:
                more = await self._turn()
                self._complaint = ""
            except Exception as error:  # noqa: BLE001 - one bad turn must not end the news for everybody
                self._complain(error)
                pause = 4 * PERIOD_SECONDS
            if not more:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)

    async def _turn(self) -> bool:
        """Reads what is new and hands it to those who watch; returns whether there was more than a page of events."""
        self._num_turns += 1
        channels = dict(self._channels)
        with_list = self._num_turns % _LIST_TURNS == 0
        began = self._position
        news = await run_in_threadpool(_look, self._database, began, channels, with_list=with_list)
        if began is None and self._position is not None:
            return True  # A stream has begun meanwhile, at a place before this page: what is between must be read.
        for event in news.page.events:
            encoded = _event_message(event)
            for name in (None, event.search):
                for subscription in self._channels[name].streams if name in self._channels else ():
                    subscription.put(encoded, event.id)
        self._position = max(self._position or 0, news.page.through)
        for name, sight in news.sights.items():
            if self._channels.get(name) is channels[name]:  # Else those who watched are gone, or others have come.
                channels[name].tell(sight)
        return not news.page.is_last

    def _complain(self, error: Exception) -> None:
        """Once for as long as it stays the same."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            expected = isinstance(error, StoreError)
            _logger.error("no live news, trying again: %s", error, exc_info=None if expected else error)


@contextmanager
def _member(subscriptions: set[Subscription], subscription: Subscription) -> Iterator[None]:
    subscriptions.add(subscription)
    try:
        yield
    finally:
        subscriptions.discard(subscription)


# --- reading, on a thread -----------------------------------------------------------------------------------


def _read_page(database: Database, search: str | None, after: int | None) -> _Page:
    with database.reading() as session:
        return _page_of(session, search, after)


def _page_of(session: Session, search: str | None, after: int | None) -> _Page:
    newest = viewing.newest_event(session)
    if after is None:
        return _Page((), newest=newest, through=newest, is_last=True)
    events = viewing.events(session, after=after, search=search, limit=_EVENTS_PAGE)
    is_last = len(events) < _EVENTS_PAGE
    through = max(newest, after) if is_last else events[-1].id
    return _Page(events, newest=newest, through=through, is_last=is_last)


def _look(database: Database, position: int | None, channels: dict[str | None, _Channel], *, with_list: bool) -> _News:
    """One turn's reading; looks only at what somebody watches and may have changed, and changes no channel."""
    sights: dict[str | None, _Sight] = {}
    with database.reading() as session:
        page = _page_of(session, None, position)
        touched = {event.search for event in page.events}
        for name, channel in channels.items():
            if name is None:
                sight = _look_at_list(session, channel) if touched or with_list or not channel.shown else None
            else:
                sight = _look_at_search(session, name, channel, has_news=name in touched)
            if sight is not None:
                sights[name] = sight
    return _News(page, sights)


def _look_at_list(session: Session, channel: _Channel) -> _Sight | None:
    has_pages, is_new = bool(channel.pages), not channel.shown
    if not has_pages:
        return None
    summaries = viewing.summaries(session, limit=PAGE_SIZE, offset=0)
    health = viewing.health(session, datetime.now(UTC))
    if not is_new and channel.seen == (summaries, health):
        return None
    return _Sight((summaries, health), for_new=is_new, fragments=list_fragments(summaries, health))


def _look_at_search(session: Session, name: str, channel: _Channel, *, has_news: bool) -> _Sight | None:
    """News of a search: events, or, while it runs, progress. One that has ended and says nothing stays unread."""
    seen, has_pages = channel.seen, bool(channel.pages)
    is_new = has_pages and not channel.shown
    has_ended = isinstance(seen, SearchView) and seen.state is not SearchState.RUNNING
    if has_ended and not has_news and not is_new:
        return None
    view = viewing.view(session, name)
    if not has_pages or (view.is_same_but_for_time(seen) and not has_news and not is_new):
        return _Sight(view)
    curves = viewing.curves(session, name)
    # Charts change with what is measured, not with every token: as a rule they are drawn for events only.
    figures = search_figures(view, curves) if has_news or is_new else {}
    return _Sight(view, for_new=is_new, fragments=search_fragments(view, curves), figures=figures)


# --- messages -----------------------------------------------------------------------------------------------


def _message(*, id: int | None = None, event: str | None = None, data: str | None = None) -> bytes:
    """One server-sent event; `data` is JSON, which holds no line break. With an id alone, readers note the id."""
    lines = (("id", id), ("event", event), ("data", data))
    return "".join(f"{name}: {value}\n" for name, value in lines if value is not None).encode() + b"\n"


def _event_message(event: EventView) -> bytes:
    return _message(id=event.id, event=event.kind, data=event.model_dump_json())


def _resync(newest: int) -> bytes:
    """Tells a reader that it missed events, and goes on from the newest."""
    return _message(id=newest, event="resync", data=json.dumps({"newest": newest}))


def _page_message(kind: str, encoded: Mapping[str, str]) -> bytes:
    return _message(event=kind, data="{" + ",".join(f"{json.dumps(key)}:{text}" for key, text in encoded.items()) + "}")


def _progress_message(view: SearchView) -> bytes:
    progress = ProgressView(
        search=view.name,
        tokens_done=view.tokens_done,
        tokens_total=view.tokens_total,
        jobs=tuple(job for job in view.jobs if job.state is JobState.RUNNING),
    )
    return _message(event="progress", data=progress.model_dump_json())
