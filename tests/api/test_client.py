"""The Python client against the real service: every verb, the same errors, and streams that outlive a restart."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest

from api.services.submission import submit
from api.store.store import Store
from nas.client import Client
from nas.errors import (
    BudgetError,
    ConflictError,
    DataError,
    FolderError,
    NotFoundError,
    ServiceError,
    SettingError,
    SpecError,
    TeacherError,
)
from nas.spec_file import parse_spec
from nas.states import Intent
from nas.views import EventKind, EventView, SearchView
from tests.api.rest.answers import export
from tests.api.serving import Service, serving
from tests.conftest import tiny_spec
from tests.nas.test_importance_figures import scores
from tests.nas.test_spec_file import MINIMAL

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service"), export) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, timeout=20, patience=20) as client:
        yield client


@pytest.fixture(scope="module")
def finished(service: Service, teacher_folder: Path, text_file: Path) -> str:
    """The name of a search that has ended in a model."""
    with Client(service.url) as client:
        client.submit(tiny_spec(teacher_folder, text_file, name="finished"))
    service.finish()
    return "finished"


@pytest.fixture
def restarting(tmp_path: Path, teacher_folder: Path, text_file: Path) -> Iterator[Service]:
    """A service of its own, with one search, to be stopped and started."""
    with serving(tmp_path) as running:
        submit(running.database, tiny_spec(teacher_folder, text_file), NOW)
        yield running


def test_every_verb_answers_with_the_shared_views(client: Client, finished: str) -> None:
    view = client.search(finished)
    assert view.state == "finished"
    assert client.leaderboard(finished) == list(view.leaderboard)
    assert client.promotions(finished) == list(view.promotions)
    assert client.best(finished).standing == view.leaderboard[0]
    assert client.candidate(finished, view.leaderboard[0].candidate_id).standing == view.leaderboard[0]
    assert client.spec(finished).name == finished
    assert client.importance(finished) == scores()
    assert {attempt.state for attempt in client.attempts(finished)} == {"succeeded"}
    assert finished in [summary.name for summary in client.searches()]
    (model,) = client.models(finished)
    assert client.model(model.id) == model
    assert model in client.models()
    assert client.log(1, 1, tail=1).startswith("thr")
    assert client.health().version


def test_a_spec_may_be_a_dict(client: Client, teacher_folder: Path, text_file: Path) -> None:
    spec = tiny_spec(teacher_folder, text_file, name="given")
    content = {**spec.model_dump(), "teacher": teacher_folder}
    assert client.enumerate(content) == client.enumerate(spec)
    assert client.submit(content).id == client.submit(spec).id
    assert client.spec("given") == spec
    assert client.cancel("given").intent is Intent.CANCEL


WRONG = [
    {**MINIMAL, "seed": -1, "colour": "red", "space": {"hidden_size": []}},
    {**MINIMAL, "budget": {"parameters": float("nan")}},
    {**MINIMAL, "name": "two\nlines" * 300},
    {},
]


@pytest.mark.parametrize("content", WRONG, ids=range(len(WRONG)))
def test_a_mistake_raises_what_reading_the_file_would(client: Client, content: dict[str, object]) -> None:
    with pytest.raises(SpecError) as by_file:
        parse_spec(content, relative_to=Path("/"))
    with pytest.raises(SpecError) as by_client:
        client.submit(content)
    assert str(by_client.value) == str(by_file.value)
    assert [str(also) for also in by_client.value.also] == [str(also) for also in by_file.value.also]
    assert by_client.value.field == by_file.value.field


def test_refusals_have_the_class_that_says_why(
    client: Client, finished: str, teacher_folder: Path, text_file: Path
) -> None:
    spec = tiny_spec(teacher_folder, text_file, name="refused").model_dump()
    for error, changes in (
        (TeacherError, {"teacher": "/nowhere"}),
        (BudgetError, {"budget": {"parameters": 1}}),
        (DataError, {"data": {**spec["data"], "train": "/nowhere"}}),
        (ConflictError, {"name": finished, "seed": 1}),
        (SpecError, {"teacher": "models/here"}),
    ):
        with pytest.raises(error):
            client.submit({**spec, **changes})
    with pytest.raises(NotFoundError):
        client.search("unknown")
    with pytest.raises(SettingError):
        client.search("Upper")
    with pytest.raises(NotFoundError):
        next(client.events("unknown"))
    with pytest.raises(NotFoundError):
        next(client.watch("unknown"))
    with pytest.raises(NotFoundError):
        client.export("refused", Path("nowhere"))
    with pytest.raises(ConflictError):
        client.cancel(finished)


def test_no_service_is_answered_with_what_to_do() -> None:
    with Client("http://127.0.0.1:9", patience=0) as client:
        for call in (client.health, lambda: next(client.events()), lambda: next(client.watch("a"))):
            with pytest.raises(ServiceError) as caught:
                call()
            assert str(caught.value).startswith("no service answers at http://127.0.0.1:9 (")
            assert str(caught.value).endswith("`topiary serve` starts one, TOPIARY_URL names another")
        with pytest.raises(ServiceError):
            client.wait_until_ready(0)


def test_the_address_comes_from_the_environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPIARY_URL", service.url + "/")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Client() as client:
        assert client.url == service.url
        assert client.health().version
    for url in ("localhost:8460", "ftp://here", "http://"):
        with pytest.raises(SettingError):
            Client(url)


# --- models -------------------------------------------------------------------------------------------------


def test_a_model_is_exported_whole(client: Client, finished: str, tmp_path: Path) -> None:
    (model,) = client.models(finished)
    for given, into in ((finished, tmp_path / "by-name"), (model.id, tmp_path / "deeper" / "by-id")):
        assert client.export(given, into) == into
        for file in Path(model.folder).iterdir():
            assert (into / file.name).read_bytes() == file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["by-name", "deeper"]


def test_a_folder_that_is_there_is_left_alone(client: Client, finished: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FolderError):
        client.export(finished, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError):
        client.export(finished, tmp_path / "file" / "model")


def test_half_a_model_is_no_model(client: Client, finished: str, tmp_path: Path) -> None:
    (model,) = client.models(finished)
    weights = Path(model.folder) / "model.safetensors"
    hidden = weights.with_name("hidden")
    client.model = lambda model_id: model  # type: ignore[method-assign]  # As it was a moment ago.
    weights.rename(hidden)
    try:
        with pytest.raises(NotFoundError):
            client.export(model.id, tmp_path / "model")
        weights.write_bytes(b"short")
        with pytest.raises(ServiceError):
            client.export(model.id, tmp_path / "model")
    finally:
        hidden.replace(weights)
    assert list(tmp_path.iterdir()) == []


# --- what happens -------------------------------------------------------------------------------------------


def happen(service: Service, count: int) -> None:
    for number in range(count):
        with service.database.transaction() as session:
            store = Store(session)
            store.events.append(EventKind.DECIDED, store.searches.named("tiny").id, NOW, number=number)


def test_events_outlive_a_restart_without_gap_or_duplicate(restarting: Service) -> None:
    seen: list[EventView] = []

    def follow() -> None:
        with Client(restarting.url, patience=30) as client:
            for event in client.events("tiny", after=0):
                seen.append(event)
                if event.id == 61:
                    return

    reader = Thread(target=follow)
    reader.start()
    happen(restarting, 20)
    restarting.stop()
    happen(restarting, 20)
    time.sleep(1)
    restarting.start()
    happen(restarting, 20)
    reader.join(30)
    assert not reader.is_alive()
    assert [event.id for event in seen] == list(range(1, 62))


def test_events_begin_with_what_happens_from_now_on(restarting: Service) -> None:
    happen(restarting, 5)
    seen: list[int] = []

    def follow() -> None:
        with Client(restarting.url, patience=30) as client:
            seen.append(next(client.events()).id)

    reader = Thread(target=follow)
    reader.start()
    deadline = time.monotonic() + 20
    while not restarting.app.state.live._channels and time.monotonic() < deadline:
        time.sleep(0.05)
    restarting.stop()
    happen(restarting, 1)
    restarting.start()
    reader.join(30)
    assert seen == [7], "nothing is missed between the first connection and its loss, though no event had come"


def test_a_service_that_stays_away_is_given_up(restarting: Service) -> None:
    with Client(restarting.url, patience=1) as client:
        events = client.events(after=0)
        assert next(events).id == 1
        restarting.stop()
        with pytest.raises(ServiceError, match="no service answers"):
            next(events)
        restarting.start()


def test_a_search_is_watched_to_its_end_across_a_restart(restarting: Service) -> None:
    views: list[SearchView] = []

    def watch() -> None:
        with Client(restarting.url, patience=30) as client:
            views.extend(client.watch("tiny"))

    watcher = Thread(target=watch)
    watcher.start()
    deadline = time.monotonic() + 20
    while not views and not restarting.app.state.live._channels and time.monotonic() < deadline:
        time.sleep(0.05)
    restarting.scheduler.step()
    restarting.stop()
    restarting.scheduler.step()
    time.sleep(0.5)
    restarting.start()
    restarting.finish()
    watcher.join(30)
    assert not watcher.is_alive()
    assert views[-1].state == "finished"
    assert all(earlier != later for earlier, later in pairwise(views))
    with Client(restarting.url) as client:
        assert [view.state for view in client.watch("tiny")] == ["finished"], "one that has ended is told once"


def test_the_client_needs_neither_database_nor_web_framework_nor_torch() -> None:
    heavy = "{'torch', 'transformers', 'ray', 'sqlalchemy', 'fastapi', 'starlette', 'api'}"
    program = f"import sys, nas.client; print(*{heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == ""
