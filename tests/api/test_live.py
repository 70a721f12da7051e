"""Live news against the real service: nothing is missed or told twice, and nobody waits for somebody slow."""

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import text as statement

from api import live
from api.services.submission import submit
from api.store.store import Store
from nas.jobs import JobProgress, Trial
from nas.pool import Assignment, Update
from nas.views import EventKind, EventView
from tests.api.instant_pool import succeed
from tests.api.serving import Service, browsing, serving
from tests.conftest import tiny_spec

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SEARCHES = ("left", "right")


@dataclass(frozen=True)
class Message:
    id: int | None
    kind: str | None
    data: str | None

    @property
    def event(self) -> EventView:
        assert self.data is not None
        return EventView.model_validate_json(self.data)


def half_way(assignment: Assignment) -> Update:
    """Trials are half done for ever; all else succeeds."""
    if not isinstance(assignment.spec, Trial):
        return succeed(assignment)
    progress = JobProgress(done=640, total=1280, unit="tokens")
    return Update(job_id=assignment.job_id, attempt=assignment.attempt, progress=progress)


@contextmanager
def two_searches(
    folder: Path, teacher: Path, text: Path, *, url: str = "", outcome: Callable[[Assignment], Update] = succeed
) -> Iterator[Service]:
    with serving(folder, outcome, url) as service:
        for name in SEARCHES:
            submit(service.database, tiny_spec(teacher, text, name=name), NOW)
        yield service


@pytest.fixture
def service(tmp_path: Path, database_url: str, teacher_folder: Path, text_file: Path) -> Iterator[Service]:
    """With two searches, over each kind of database in turn."""
    with two_searches(tmp_path, teacher_folder, text_file, url=database_url) as running:
        yield running


@pytest.fixture
def small(tmp_path: Path, teacher_folder: Path, text_file: Path) -> Iterator[Service]:
    """With two searches, over SQLite."""
    with two_searches(tmp_path, teacher_folder, text_file, outcome=half_way) as running:
        yield running


def happen(service: Service, count: int, search: str = "left", padding: str = "") -> None:
    """`count` events in one transaction."""
    with service.database.transaction() as session:
        store = Store(session)
        found = store.searches.named(search)
        for number in range(count):
            store.events.append(EventKind.DECIDED, found.id, NOW, number=number, padding=padding)


def on_record(service: Service, search: str | None = None) -> list[EventView]:
    with service.database.reading() as session:
        return Store(session).events.after(0, search=search, limit=1_000_000)


@contextmanager
def following(service: Service, address: str, headers: dict[str, str] | None = None) -> Iterator[Iterator[Message]]:
    with browsing(service) as http, http.stream("GET", address, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield messages(response.iter_bytes())


def messages(chunks: Iterator[bytes]) -> Iterator[Message]:
    rest = b""
    for chunk in chunks:
        *found, rest = (rest + chunk).split(b"\n\n")
        for text in found:
            fields = dict(line.split(": ", 1) for line in text.decode().split("\n"))
            yield Message(int(fields["id"]) if "id" in fields else None, fields.get("event"), fields.get("data"))


def events(found: Iterator[Message], until: int) -> list[EventView]:
    """Events up to the one of id `until`; `resync` must not occur."""
    seen: list[EventView] = []
    deadline = time.monotonic() + 30
    while not seen or seen[-1].id < until:
        assert time.monotonic() < deadline
        message = next(found)
        assert message.kind != "resync"
        if message.kind is not None and message.id is not None:
            assert message.id == message.event.id
            assert message.kind == message.event.kind
            seen.append(message.event)
    return seen


def test_what_is_on_record_is_replayed_and_then_followed(service: Service) -> None:
    happen(service, 900)
    with following(service, "/v1/events?after=0") as found:
        assert next(found) == Message(0, None, None)
        assert events(found, until=902) == on_record(service)
        happen(service, 3, search="right")
        assert events(found, until=905) == on_record(service)[902:]


def test_one_search_is_followed_alone(service: Service) -> None:
    happen(service, 500, search="right")
    happen(service, 2)
    with following(service, "/v1/events?search=left&after=0") as found:
        next(found)
        assert [event.id for event in events(found, until=504)] == [1, 503, 504]
        happen(service, 1, search="right")
        happen(service, 1)
        assert [event.id for event in events(found, until=506)] == [506]


def test_without_a_beginning_only_what_happens_from_now_on_is_told(service: Service) -> None:
    with following(service, "/v1/events") as found:
        assert next(found) == Message(2, None, None), "the id to come back with"
        happen(service, 1)
        assert [event.id for event in events(found, until=3)] == [3]


def test_the_last_event_that_a_reader_knows_goes_before_after(service: Service) -> None:
    happen(service, 5)
    with following(service, "/v1/events?after=0", headers={"Last-Event-ID": "4"}) as found:
        next(found)
        assert [event.id for event in events(found, until=7)] == [5, 6, 7]


def test_an_id_from_the_future_is_answered_with_a_resync(service: Service) -> None:
    with following(service, "/v1/events?after=99") as found:
        message = next(found)
        assert (message.id, message.kind, message.data) == (2, "resync", '{"newest": 2}')
        happen(service, 1)
        assert [event.id for event in events(found, until=3)] == [3]


def test_nothing_is_missed_or_told_twice_while_several_write(service: Service) -> None:
    writers, turns = 3, 60
    last = 2 + writers * turns * 2
    failures: list[str] = []

    def write(search: str) -> None:
        for _ in range(turns):
            happen(service, 2, search=search)

    def read(after: int) -> None:
        with following(service, f"/v1/events?after={after}") as found:
            next(found)
            ids = [event.id for event in events(found, until=last)]
        if ids != list(range(after + 1, last + 1)):
            failures.append(f"after {after}: {len(ids)} events of {last - after}")

    threads = [Thread(target=write, args=(SEARCHES[number % 2],)) for number in range(writers)]
    for thread in threads:
        thread.start()
    readers: list[Thread] = []
    while any(thread.is_alive() for thread in threads) and len(readers) < 20:
        after = len(on_record(service)) // 2
        readers.append(Thread(target=read, args=(after,)))
        readers[-1].start()
        time.sleep(0.1)
    for thread in (*threads, *readers):
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []
    assert len(readers) > 2
    with service.database.reading() as session:
        assert Store(session).events.newest() == last


def test_a_reader_that_does_not_keep_up_is_told_and_goes_on_from_the_newest(small: Service) -> None:
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", small.port))
        slow.sendall(f"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1:{small.port}\r\n\r\n".encode())
        slow.recv(100)
        wait_until(lambda: bool(small.app.state.live._channels))
        for _ in range(10):
            happen(small, 400, padding="x" * 5000)
            with browsing(small) as http:
                began = time.monotonic()
                assert http.get("/v1/health").status_code == 200
                assert time.monotonic() - began < 2, "others are answered meanwhile"
        newest = len(on_record(small))
        wait_until(lambda: small.app.state.live._position == newest)
        received = read_until(slow, lambda received: b"event: resync\n" in received)
        happen(small, 1)
        received += read_until(slow, lambda received: b'"padding":""}}\n\n' in received)
    assert f'id: {newest}\nevent: resync\ndata: {{"newest": {newest}}}\n\n'.encode() in received
    assert f"\nid: {newest + 1}\n".encode() in received.partition(b"event: resync\n")[2]
    assert received.count(b"event: decided\n") < 4001, "some were left out"


def test_a_silent_stream_has_a_heartbeat(small: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.1)
    with browsing(small) as http, http.stream("GET", "/v1/events") as response:
        chunks = response.iter_bytes()
        assert next(chunks) == b"id: 2\n\n"
        assert next(chunks) == b": nothing new\n\n"


def test_progress_is_told_while_a_search_is_watched(small: Service) -> None:
    with following(small, "/v1/events?search=left") as found:
        for _ in range(4):
            small.scheduler.step()
        message = next(message for message in found if message.kind == "progress" and '"done":640' in str(message.data))
        assert message.id is None, "it is not kept, so nobody can come back to it"
        progress = json.loads(message.data or "")
        assert (progress["search"], progress["tokens_done"], progress["tokens_total"]) == ("left", 4 * 640, 5 * 1280)
        assert [job["kind"] for job in progress["jobs"]] == ["trial"] * 4


def test_an_open_page_gets_everything_once_and_then_what_changed(small: Service) -> None:
    with following(small, "/searches/left/live") as found:
        first, second = next(found), next(found)
        assert (first.kind, second.kind) == ("fragments", "figures")
        fragments = json.loads(first.data or "")
        assert "heading" in fragments
        assert sum(name.startswith("row-") for name in fragments) == 4
        assert all(figure["data"] is not None for figure in json.loads(second.data or "").values())
        with following(small, "/searches/left/live") as others:
            again = next(others)
            assert json.loads(again.data or "") == fragments, "whoever comes later gets the same"
        for _ in range(4):
            small.scheduler.step()
        changed = json.loads(next(message for message in found if message.kind == "fragments").data or "")
        assert "spend" in changed
        assert "teacher" not in changed or changed["teacher"] != fragments["teacher"]


def test_the_list_of_searches_is_live_too(small: Service, teacher_folder: Path, text_file: Path) -> None:
    with following(small, "/live") as found:
        assert "left" in json.loads(next(found).data or "")["searches"]
        submit(small.database, tiny_spec(teacher_folder, text_file, name="third"), NOW)
        assert "third" in json.loads(next(found).data or "")["searches"]


def test_a_page_is_told_of_changes_at_most_twice_a_second(
    small: Service, teacher_folder: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.1)
    seconds = 2.0

    def submit_many() -> None:
        deadline, number = time.monotonic() + seconds, 0
        while time.monotonic() < deadline:
            submit(small.database, tiny_spec(teacher_folder, text_file, name=f"search-{number}"), NOW)
            number += 1

    with following(small, "/live") as found:
        next(found)
        worker = Thread(target=submit_many)
        worker.start()
        told = 0
        while worker.is_alive():
            told += next(found).kind == "fragments"
        worker.join()
    assert 2 <= told <= 2 * seconds + 2


def test_a_page_of_an_unknown_search_has_no_stream(small: Service) -> None:
    with browsing(small) as http:
        assert http.get("/searches/unknown/live").status_code == 404


def test_whoever_leaves_is_forgotten(small: Service) -> None:
    for address in ("/v1/events", "/v1/events?search=left", "/live", "/searches/left/live"):
        with following(small, address) as found:
            next(found)
            wait_until(lambda: bool(small.app.state.live._channels))
        wait_until(lambda: not small.app.state.live._channels)


def test_open_streams_do_not_hold_up_the_end(tmp_path: Path, teacher_folder: Path, text_file: Path) -> None:
    with two_searches(tmp_path, teacher_folder, text_file) as service, browsing(service) as http:
        with (
            http.stream("GET", "/v1/events?after=0") as one,
            http.stream("GET", "/searches/left/live") as two,
            http.stream("GET", "/live") as three,
        ):
            found = [response.iter_bytes() for response in (one, two, three)]
            for chunks in found:
                next(chunks)
            began = time.monotonic()
            service.stop()
            assert time.monotonic() - began < 3
            for chunks in found:
                for _ in chunks:
                    pass  # To the end, in good order: a cut connection would raise.
        service.start()


def test_a_reader_that_is_stuck_holds_up_the_end_for_seconds_only(small: Service) -> None:
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", small.port))
        happen(small, 1500, padding="x" * 8000)
        stuck.sendall(f"GET /v1/events?after=0 HTTP/1.1\r\nHost: 127.0.0.1:{small.port}\r\n\r\n".encode())
        stuck.recv(100)
        time.sleep(0.5)
        began = time.monotonic()
        small.stop()
        assert time.monotonic() - began < 12
    small.start()


def test_a_database_that_is_away_is_told_once_and_then_followed_again(
    small: Service, caplog: pytest.LogCaptureFixture
) -> None:
    def rename(old: str, new: str) -> None:
        with small.database.transaction() as session:
            session.execute(statement(f"ALTER TABLE {old} RENAME TO {new}"))

    with following(small, "/v1/events") as found, caplog.at_level(logging.ERROR, logger="api.live"):
        next(found)
        rename("events", "away")
        wait_until(lambda: bool(caplog.records))
        time.sleep(2.5)  # For two more tries.
        (told,) = [record.getMessage() for record in caplog.records if record.name == "api.live"]
        assert told.startswith("no live news, trying again: the database sqlite:///")
        assert told.endswith("topiary.db cannot be used: no such table: events")
        rename("away", "events")
        happen(small, 1)
        assert [event.id for event in events(found, until=3)] == [3]


def read_until(connection: socket.socket, condition: Callable[[bytes], bool], seconds: float = 20) -> bytes:
    deadline, received = time.monotonic() + seconds, b""
    connection.settimeout(seconds)
    while not condition(received):
        assert time.monotonic() < deadline
        received += connection.recv(1 << 20)
    return received


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
