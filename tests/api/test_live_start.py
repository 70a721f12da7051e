"""The moment at which a web process begins to tell news, with a stream that begins at the same moment."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from api import live
from api.services.control import cancel
from api.services.submission import submit
from api.store.database import Database
from tests.conftest import tiny_spec

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_an_event_between_a_streams_start_and_the_tailers_is_not_passed_over(
    database: Database, teacher_folder: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(database, tiny_spec(teacher_folder, text_file), NOW)
    news = live.Live(database)
    look = live._look

    def look_late(*arguments: Any, **options: Any) -> Any:
        """A stream has read event 1 and begun there; event 2 comes; then the tailer looks for the first time."""
        if news._position is None:
            news._position = 1
            cancel(database, "tiny", NOW)
        return look(*arguments, **options)

    monkeypatch.setattr(live, "_look", look_late)
    assert asyncio.run(news._turn()), "there is more to read at once"
    assert news._position == 1, "event 2 is still to be told"
