"""`python -m benchmarks.faults` in short: one fault of each kind that test_service.py has not, in one search."""

from pathlib import Path
from random import Random
from typing import Any

from api.store.database import Database
from benchmarks.faults.audit import audit, read
from benchmarks.faults.repeated import repeated_tokens
from benchmarks.faults.rounds import Script, play
from benchmarks.faults.stage import staged
from benchmarks.faults.work import Work, impatient
from nas.spec import SearchSpec

KINDS = ("scheduler", "raylet", "postgresql", "disk")
DISK_BYTES = 2**28


def test_whatever_dies_everything_is_there_once_and_the_same(
    whole: SearchSpec, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    # .../run/jobs/NUMBER/attempt-1/model
    run = Path(undisturbed["promotions"][0]["folder"]).parents[3]
    database = Database(f"sqlite:///{run / 'topiary.db'}")
    expected = read(database, whole.name)
    database.close()
    assert expected is not None
    told: list[str] = []
    with staged(tmp_path, num_nodes=2, disk_bytes=DISK_BYTES) as stage:
        kinds = [kind for kind in KINDS if kind != "disk" or stage.no_disk is None]
        work = Work(stage, impatient(whole), at_once=1)
        script = Script(kinds, Random(0), longest_pause=1.0)
        played = play(stage, work, script, told.append)
        assert played.hang is None, "\n".join(told)
        found = audit(stage, work.names, expected)
    assert played.made.total() == len(kinds)
    assert found.wrong == {"lost": [], "duplicated": [], "differing": [], "blamed": []}
    assert any(attempt.number > 1 for attempt in found.attempts), "it was disturbed"
    assert repeated_tokens(found.attempts, whole) < expected.view.tokens_total / 10
