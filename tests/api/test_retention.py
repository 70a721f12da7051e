"""What retention removes, and above all what it does not: searches over real files, and a real database."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from api.cli import main
from api.retention import NEEDED, Kind, Removal, planned, remove
from api.scheduler import Scheduler, utc_now
from api.services.control import cancel, pause, resume, retry, stop
from api.services.deletion import delete
from api.services.submission import submit
from api.store.database import Database
from api.store.store import Store
from nas.errors import FolderError, NotFoundError
from nas.jobs import Export, PrepareData, Promotion, Trial
from nas.pool import Assignment, Update
from nas.states import SearchState
from tests.api.conftest import new_sqlite
from tests.api.instant_pool import InstantPool, Outcome, fail, succeed
from tests.conftest import tiny_spec
from workers import artifacts

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
WEEK = timedelta(days=7)
CHECKPOINT = {"state.json": 40, "tensors.safetensors": 16_000}
RECORDS = {"assignment.json", "log.txt", "measurements/000000.json", "artifacts.json"}


def states_of(attempt: int) -> tuple[int, int]:
    """The steps whose states an attempt leaves; the second gets further than all others."""
    newest = 99 if attempt == 2 else attempt
    return newest - 1, newest


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(new_sqlite(tmp_path))
    yield database
    database.close()


class Runs:
    """Searches whose jobs end at once, and leave files as real ones do, below a root."""

    def __init__(self, database: Database, root: str, teacher: Path, text: Path) -> None:
        self.database, self.root, self._teacher, self._text = database, root, teacher, text

    def submit(self, name: str, **changes: object) -> None:
        """A search of two candidates, whose jobs wait for nothing."""
        space = {"num_hidden_layers": [3, 2], "hidden_size": [48, 36]}
        spec = tiny_spec(self._teacher, self._text, name=name, space=space, backoff_seconds=0, **changes)
        submit(self.database, spec, NOW)

    def run(self, outcome: Outcome = succeed, *, steps: int = 40, at: datetime = NOW) -> None:
        """Steps until nothing runs any more, or so many times."""

        def with_files(assignment: Assignment) -> Update:
            update = outcome(assignment)
            self._leave_files(assignment, update)
            return self._in_folder(assignment, update)

        scheduler = Scheduler(self.database, InstantPool(with_files), self.root, clock=lambda: at)
        for _ in range(steps):
            if not scheduler.step():
                break
        scheduler.stop()

    def _in_folder(self, assignment: Assignment, update: Update) -> Update:
        if not isinstance(assignment.spec, PrepareData) or update.result is None:
            return update
        content = update.model_dump()
        folder = assignment.folder
        content["result"]["data"] |= {
            "train_file": f"{folder}/train",  # The other as searches of before there were several sources left it.
            "validation_file": f"{folder}/validation.bin",
        }
        return Update.model_validate(content)

    def _leave_files(self, assignment: Assignment, update: Update) -> None:
        files = dict.fromkeys(RECORDS, 10)
        files |= {"result.json" if update.result else "failure.json": 20, "log.txt.77.partial": 5}
        match assignment.spec:
            case PrepareData():
                names = ["train/sources.json", "train/text/00000.bin", "validation.bin", "validation.json"]
                files |= dict.fromkeys(names, 1000)
            case Trial() | Promotion():
                for step in states_of(assignment.attempt):
                    files |= {f"checkpoints/step-{step:09d}/{name}": size for name, size in CHECKPOINT.items()}
                files |= {"kept.safetensors": 30, "w": 4000}
            case Export():
                files |= {"model/config.json": 7, "model/model.safetensors": 2000}
        for name, size in files.items():
            artifacts.write(f"{assignment.folder}/{name}", b"x" * size)

    def left(self) -> dict[str, int]:
        """Every file below the root, by attempt and name."""
        return {
            name.removeprefix("jobs/"): size for name, size in artifacts.files(self.root).items() if "jobs/" in name
        }

    def planned(self, *, at: datetime = NOW + WEEK, only: str | None = None) -> list[Removal]:
        return planned(self.database, self.root, at, older_than=WEEK, only=only)

    def state(self, name: str) -> SearchState:
        with self.database.reading() as session:
            return Store(session).searches.named(name).state


@pytest.fixture
def runs(database: Database, tmp_path: Path, teacher_folder: Path, text_file: Path) -> Runs:
    return Runs(database, str(tmp_path), teacher_folder, text_file)


RUNS = ("000003/attempt-1", "000003/attempt-2", "000004/attempt-1", "000005/attempt-1")
"""Of the first search: its two trials, of which the first is tried twice, and its promotion."""


def names(removals: list[Removal], root: str) -> dict[str, int]:
    return {removal.address.removeprefix(f"{root}/jobs/"): removal.bytes for removal in removals}


def breaking(*attempts: tuple[int, int]) -> Outcome:
    """These attempts, by job and number, fail; all others end well."""
    return lambda each: fail(each) if (each.job_id, each.attempt) in attempts else succeed(each)


def test_of_a_finished_search_results_and_records_stay(runs: Runs) -> None:
    runs.submit("done")
    runs.run(breaking((3, 1)))
    runs.run(at=NOW + timedelta(minutes=1))
    assert runs.state("done") is SearchState.FINISHED
    before = runs.left()
    removals = runs.planned()
    checkpoint = sum(CHECKPOINT.values())
    sizes = {"train": 2000, "validation.bin": 1000, "validation.json": 1000}
    tokens = {f"000001/attempt-1/{name}": size for name, size in sizes.items()}
    of_runs = {
        **{f"{run}/checkpoints/step-{step:09d}": checkpoint for run in RUNS for step in states_of(int(run[-1]))},
        **{f"{run}/kept.safetensors": 30 for run in RUNS},
        "000003/attempt-1/w": 4000,
    }
    partials = {f"{attempt}/log.txt.77.partial": 5 for attempt in {"/".join(name.split("/")[:2]) for name in before}}
    assert names(removals, runs.root) == {**tokens, **of_runs, **partials}
    assert {each.search for each in removals} == {"done"}

    assert remove(runs.database, removals) == removals
    gone = [name for name in before if any(f"{name}/".startswith(f"{each}/") for each in names(removals, runs.root))]
    assert runs.left() == {name: size for name, size in before.items() if name not in gone}
    for kept in (
        "000003/attempt-2/w",
        "000004/attempt-1/w",
        "000005/attempt-1/w",
        "000006/attempt-1/model/config.json",
    ):
        assert kept in runs.left()
    assert all(f"000003/attempt-1/{name}" in runs.left() for name in RECORDS)
    assert runs.planned() == []


@pytest.mark.parametrize("end", [stop, cancel, None], ids=["stopped", "cancelled", "failed"])
def test_a_search_that_may_go_on_keeps_what_it_goes_on_from(runs: Runs, end: Callable[..., None] | None) -> None:
    runs.submit("ended", max_failures=4 if end is None else 100)
    runs.run(lambda each: fail(each) if isinstance(each.spec, Trial) else succeed(each), steps=7)
    if end is not None:
        end(runs.database, "ended", NOW)
    runs.run(fail, steps=3)
    assert runs.state("ended") not in (SearchState.RUNNING, SearchState.FINISHED)

    removals = runs.planned()
    trials = {"/".join(name.split("/")[:2]) for name in runs.left()} - {"000001/attempt-1", "000002/attempt-1"}
    assert len(trials) >= 8
    for attempt in trials:
        told = {name for name in names(removals, runs.root) if name.startswith(f"{attempt}/")}
        states = {f"{attempt}/checkpoints/step-{step:09d}" for step in states_of(int(attempt[-1]))}
        leftover = {f"{attempt}/w", f"{attempt}/log.txt.77.partial"}
        assert told == (leftover if attempt.endswith("-2") else leftover | states)
    rest = {name for name in names(removals, runs.root) if not name.startswith(tuple(f"{each}/" for each in trials))}
    assert rest == {f"00000{job}/attempt-1/log.txt.77.partial" for job in (1, 2)}

    remove(runs.database, removals)
    if end is None:
        retry(runs.database, "ended", NOW)
    else:
        resume(runs.database, "ended", NOW)
    seen: list[Assignment] = []

    def outcome(assignment: Assignment) -> Update:
        seen.append(assignment)
        return succeed(assignment)

    runs.run(outcome, at=NOW + timedelta(hours=1))
    assert runs.state("ended") is SearchState.FINISHED
    earlier, data = next((each.earlier_folders, each.spec.data) for each in seen if isinstance(each.spec, Trial))
    newest = [f"{folder}/checkpoints/step-{99:09d}/state.json" for folder in earlier]
    assert sum(Path(file).exists() for file in newest) == 1
    assert Path(data.train_file).exists()


def test_before_its_time_and_before_its_end_nothing_of_a_search_goes(runs: Runs) -> None:
    for name in ("done", "paused", "running"):
        runs.submit(name)
    runs.run(steps=4)
    pause(runs.database, "paused", NOW)
    cancel(runs.database, "done", NOW)
    runs.run(lambda each: Update(job_id=each.job_id, attempt=each.attempt), steps=3)
    assert runs.state("running") is SearchState.RUNNING
    assert runs.state("paused") is SearchState.PAUSED
    assert runs.planned(at=NOW + WEEK - timedelta(minutes=1)) == []
    assert {removal.search for removal in runs.planned(at=NOW + 100 * WEEK)} == {"done"}
    assert runs.planned(at=NOW + 100 * WEEK, only="running") == []
    with pytest.raises(NotFoundError, match="none"):
        runs.planned(only="none")


def test_a_search_that_is_taken_up_again_in_between_is_left_alone(runs: Runs) -> None:
    runs.submit("ended")
    runs.run(steps=4)
    cancel(runs.database, "ended", NOW)
    runs.run(steps=1)
    removals = runs.planned()
    assert removals
    resume(runs.database, "ended", NOW)
    assert remove(runs.database, removals) == []
    assert all(Path(removal.address).exists() for removal in removals)


def test_what_no_job_on_record_has_written_goes_as_a_whole(runs: Runs) -> None:
    """Such as the rest of a deletion that was interrupted."""
    runs.submit("deleted")
    runs.run()
    kept = {name for name in runs.left() if not name.startswith("000001/")}
    runs.submit("other")
    runs.run(at=NOW + timedelta(minutes=1))
    delete(runs.database, "deleted", NOW)
    assert not any(name in runs.left() for name in kept)
    artifacts.write(f"{runs.root}/jobs/000003/attempt-1/weights.safetensors", b"x" * 77)
    artifacts.write(f"{runs.root}/jobs/notes/mine.txt", b"not a job's")
    orphan = Removal(f"{runs.root}/jobs/000003", 77, "of a job that is not on record", None, is_folder=True)
    assert [each for each in runs.planned(at=NOW) if each.search is None] == [orphan]
    assert runs.planned(at=NOW, only="other") == []
    remove(runs.database, [orphan])
    assert "notes/mine.txt" in runs.left()
    assert not any(name.startswith("000003/") for name in runs.left())


def test_the_artifacts_of_another_database_are_not_touched(runs: Runs, tmp_path: Path) -> None:
    runs.submit("ours")
    runs.run()
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    other.migrate()
    with pytest.raises(FolderError, match=r"^--artifacts: .* holds jobs, none of which is on record in this database"):
        planned(other, runs.root, NOW + WEEK, older_than=WEEK)
    other.close()


def test_the_command_says_what_it_would_remove_and_then_removes_just_that(
    database: Database, root: str, teacher_folder: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a store: all of it is in one list."""
    runs = Runs(database, root, teacher_folder, text_file)
    runs.submit("done")
    runs.run(breaking((3, 1)), at=utc_now())
    before = runs.left()

    def command(*options: str) -> str:
        assert main(["retention", "--database", database.url, "--artifacts", root, *options]) == 0
        return capsys.readouterr().out

    assert command("--dry-run") == "     0 B  would be removed, in 0 files and folders\n"
    dry = json.loads(command("--dry-run", "--older-than", "0", "--json"))
    assert runs.left() == before
    told = command("--dry-run", "--older-than", "0", "done").splitlines()
    assert len(told) == len(dry["removals"]) + 1
    assert f" 4.00 kB  {root}/jobs/000003/attempt-1/w  (left over of attempt 1 (failed) at job 3)" in told
    real = json.loads(command("--older-than", "0", "--json"))
    assert real == {**dry, "dry_run": False}
    removed = sum(before.values()) - sum(runs.left().values())
    assert real["bytes"] == removed > 60_000
    assert command("--older-than", "0") == "     0 B  removed, in 0 files and folders\n"


def test_the_documented_table_is_the_one_that_is_applied() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    rows = [line[2:-2].split(" | ") for line in page.split("| what an attempt has left |")[1].splitlines()[2:8]]
    columns = [
        {SearchState.RUNNING, SearchState.PAUSED},
        {SearchState.STOPPED, SearchState.FAILED, SearchState.CANCELLED},
        {SearchState.FINISHED},
    ]
    assert set().union(*columns) == set(SearchState)
    meaning = {"stay": True, "stays": True, "go": False, "goes": False}
    documented = [[meaning[cell] for cell in cells] for _, *cells in rows]
    assert documented == [[column <= NEEDED[kind] for column in columns] for kind in Kind]
    assert all(column <= needed or not column & needed for needed in NEEDED.values() for column in columns)
