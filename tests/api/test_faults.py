"""`python -m benchmarks.faults` in short: one fault of each kind that no other test has, in one search."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from api.store.database import Database
from benchmarks.faults.audit import Record, audit, differences_of, duplicates_of, lost_of, read
from benchmarks.faults.repeated import repeated_tokens
from benchmarks.faults.rounds import Script, play
from benchmarks.faults.stage import staged
from benchmarks.faults.work import Work, impatient
from nas.spec import SearchSpec
from nas.states import AttemptState
from nas.views import EventKind

KINDS = ("raylet", "scheduler", "postgresql", "disk")
DISK_BYTES = 2**28


@pytest.fixture
def expected(whole: SearchSpec, undisturbed: dict[str, Any]) -> Record:
    # .../run/jobs/NUMBER/attempt-1/model
    run = Path(undisturbed["promotions"][0]["folder"]).parents[3]
    database = Database(f"sqlite:///{run / 'topiary.db'}")
    record = read(database, whole.name)
    database.close()
    assert record is not None
    return record


def test_whatever_dies_everything_is_there_once_and_the_same(
    whole: SearchSpec, expected: Record, tmp_path: Path
) -> None:
    told: list[str] = []
    with staged(tmp_path, num_nodes=2, disk_bytes=DISK_BYTES) as stage:
        kinds = [kind for kind in KINDS if kind != "disk" or stage.no_disk is None]
        work = Work(stage, impatient(whole), at_once=1)
        played = play(stage, work, Script(kinds, Random(0), longest_pause=1.0), told.append)
        assert played.hang is None, "\n".join(told)
        found = audit(stage, work.names, expected)
    assert played.made.total() == len(kinds)
    assert found.wrong == {"lost": [], "duplicated": [], "differing": [], "blamed": []}
    assert any(attempt.number > 1 for attempt in found.attempts), "it was disturbed"
    assert repeated_tokens(found.attempts, whole) < expected.view.tokens_total / 10


def test_an_audit_tells_what_is_missing_double_or_different(expected: Record) -> None:
    assert [check("s", expected, expected) for check in (lost_of, duplicates_of, differences_of)] == [[], [], []]

    point = next(iter(expected.points))
    fewer = replace(expected, points=expected.points - Counter([point]), jobs=dict(list(expected.jobs.items())[:-1]))
    assert lost_of("s", fewer, expected) == ["s: no job of kind export", f"s: no measurement of {point}"]

    won = next(each for each in expected.attempts if each.state is AttemptState.SUCCEEDED)
    measured = next(each for each in expected.events if each.kind is EventKind.MEASURED)
    more = replace(expected, attempts=[*expected.attempts, won], events=[*expected.events, measured])
    once, again = duplicates_of("s", more, expected)
    assert once == f"s: job {won.job_id} succeeded more than once"
    assert again.startswith("s: told more than once: ")

    other = replace(expected, result={**expected.result, "leaderboard": []})
    assert len(differences_of("s", other, expected)) == 1


def test_tokens_are_repeated_from_the_newest_whole_checkpoint_on(
    whole: SearchSpec, expected: Record, tmp_path: Path
) -> None:
    """Cut off at its sixth step, while the checkpoint of the fifth was being written: both are trained again."""
    for name in ("checkpoints/step-000000003", "checkpoints/step-000000004", "checkpoints/step-000000005.partial"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "measurements").mkdir()
    (tmp_path / "measurements/000000.json").touch()
    (tmp_path / "progress.json").write_text('{"done": 256, "total": 7680, "unit": "tokens"}')
    second = next(each for each in expected.attempts if each.kind == "trial")
    first = second.model_copy(update={"state": AttemptState.LOST, "folder": str(tmp_path)})
    tokens_per_step = whole.trial.batch_size * whole.data.sequence_length
    assert repeated_tokens([first, second.model_copy(update={"number": 2})], whole) == 2 * tokens_per_step
    assert repeated_tokens([second], whole) == 0
