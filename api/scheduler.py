"""Scheduler.step(): one turn of everything, as a function of the store, the pool and the clock."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from api.lifecycle import advance
from api.store.database import Database
from api.store.records import JobRecord
from api.store.repository import Repository
from nas.errors import TopiaryError
from nas.jobs import Assignment, Failure, JobState, PrepareData, Update, WorkerPool, attempt_folder


def utc_now() -> datetime:
    return datetime.now(UTC)


class Scheduler:
    """Collects what workers did, records it, decides what comes next, and hands out work.

    It may die between any two statements: the database says what was handed out, the attempts' folders say what
    became of it, and the next scheduler's first step brings the two together.
    """

    def __init__(
        self, database: Database, pool: WorkerPool, run_folder: Path, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._pool = pool
        self._run_folder = run_folder
        self._clock = clock
        self._unrecorded: list[Update] = []
        self._handed_out: set[tuple[int, int]] = set()

    def step(self) -> bool:
        """One turn, in one transaction; returns whether any search is still running."""
        self._unrecorded += self._pool.poll()
        now = self._clock()
        with self._database.transaction() as session:
            repository = Repository(session)
            for update in self._unrecorded:
                _record_apart(session, update, now)
            self._adopt(repository)
            for search in repository.running_searches():
                advance(repository, search, now)
            assignments = self._claim(repository, now)
            running = bool(repository.running_searches())
        # Only a committed step has handed anything out, and only then are the updates safe to forget.
        self._unrecorded = []
        for assignment in assignments:
            self._submit(assignment)
        return running

    def _submit(self, assignment: Assignment) -> None:
        """Starts an attempt that the store holds as running; one that cannot be started is a failure to record."""
        try:
            self._pool.submit(assignment)
        except OSError as error:
            failure = Failure(reason=f"its worker could not be started: {error}")
            self._unrecorded.append(Update(job_id=assignment.job_id, attempt=assignment.attempt, failure=failure))

    def _adopt(self, repository: Repository) -> None:
        """Takes over attempts that run according to the store but were handed out by another scheduler."""
        for job in repository.jobs_in(JobState.RUNNING):
            if (job.id, job.attempt) not in self._handed_out:
                self._handed_out.add((job.id, job.attempt))
                self._pool.adopt(self._assignment(job))

    def _claim(self, repository: Repository, now: datetime) -> list[Assignment]:
        """Starts attempts at queued jobs, oldest first, for as long as the pool has room."""
        assignments: list[Assignment] = []
        running = {search.id for search in repository.running_searches()}
        for job in repository.jobs_in(JobState.QUEUED):
            claimed_cpus = sum(assignment.cpus for assignment in assignments)
            if job.search_id not in running or not self._pool.has_room(_cpus(job), claimed_cpus):
                continue
            started = repository.start_attempt(job.id, now)
            self._handed_out.add((started.id, started.attempt))
            assignments.append(self._assignment(started))
        return assignments

    def _assignment(self, job: JobRecord) -> Assignment:
        folders = [attempt_folder(self._run_folder, job.id, number) for number in range(1, job.attempt + 1)]
        return Assignment(
            job_id=job.id,
            attempt=job.attempt,
            spec=job.spec,
            cpus=_cpus(job),
            folder=str(folders[-1]),
            earlier_folders=tuple(map(str, folders[:-1])),
        )


def _cpus(job: JobRecord) -> int:
    return 1 if isinstance(job.spec, PrepareData) else job.spec.resources.cpus


def _record_apart(session: Session, update: Update, now: datetime) -> None:
    """Records an update within a savepoint: one that the store refuses fails its own attempt, and no other."""
    repository = Repository(session)
    try:
        with session.begin_nested():
            _record(repository, update, now)
    except (IntegrityError, DataError, TopiaryError) as error:
        failure = Failure(reason=f"what it reported cannot be recorded: {error}")
        _record(repository, Update(job_id=update.job_id, attempt=update.attempt, failure=failure), now)


def _record(repository: Repository, update: Update, now: datetime) -> None:
    """Records what is new of an attempt; nothing of one that is not its job's current, running attempt."""
    job = repository.job(update.job_id)
    if job.state is not JobState.RUNNING or job.attempt != update.attempt:
        return
    for measurement in update.measurements:
        repository.record_measurement(job, measurement)
    if update.progress is not None:
        repository.set_progress(job.id, job.attempt, update.progress)
    if update.result is not None:
        repository.succeed(job.id, update.result, now)
    elif update.failure is not None:
        _record_failure(repository, job, update.failure, now)


def _record_failure(repository: Repository, job: JobRecord, failure: Failure, now: datetime) -> None:
    allowed = repository.search(job.search_id).spec.max_failures
    given_up = not failure.lost and (failure.user_error or job.failures + 1 >= allowed)
    state = JobState.FAILED if given_up else JobState.QUEUED
    repository.give_back(job.id, failure, now, to=state)
