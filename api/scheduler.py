"""Scheduler.step(): one turn of everything, as a function of the store, the pool and the clock."""

import logging
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, InternalError, OperationalError

from api.lifecycle import advance
from api.store.database import Database
from api.store.records import AttemptRecord, JobRecord, LiveAttempt, SearchRecord
from api.store.store import Store
from nas.errors import TopiaryError
from nas.jobs import Assignment, Failure, Resources, Update, WorkerPool, attempt_folder, resources_of
from nas.states import Intent, JobState, SearchState

logger = logging.getLogger(__name__)

LEASE = "scheduler"
LEASE_SECONDS = 10
"""How long the others wait for a scheduler that is silent; each step extends it."""

FIRST_SIGN_SECONDS = 600
"""How long a new attempt may take to show life: its node may have to be started first."""

SILENCE_SECONDS = 120
"""How long an attempt that has shown life may be silent before it is given up as lost."""

_HEARD_SECONDS = 30
"""How often a sign of life is written down where there is nothing else to write."""

_RECONCILED_SECONDS = 60
"""How often workers are looked for that run what the store knows nothing of."""

_ADVANCING_SECONDS = 2
"""How long a step may add new work before it leaves the other searches to the next one: the lease must outlast it."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class _Turn:
    """What a step decided, to be done once it is committed."""

    term: int
    until: datetime
    adopt: list[Assignment] = field(default_factory=list)
    live: list[tuple[int, int]] = field(default_factory=list)
    cancel: list[tuple[int, int]] = field(default_factory=list)
    submit: list[Assignment] = field(default_factory=list)
    heard: dict[tuple[int, int], datetime] = field(default_factory=dict)
    advanced: dict[str, int] = field(default_factory=dict)


class Scheduler:
    """Collects what workers did, records it, decides what comes next, and hands out work.

    Any number may run on one store: a lease lets one act, and its row is locked while a step changes anything. A
    scheduler may die between any two statements: the database says what was handed out, the attempts' folders say
    what became of it, and the next holder's first step brings the two together.
    """

    def __init__(
        self, database: Database, pool: WorkerPool, run_folder: Path, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._pool = pool
        self._run_folder = run_folder
        self._clock = clock
        # Unlike any other's; the rest is for whoever looks for the process that holds the lease.
        self._name = f"{secrets.token_hex(4)}-{socket.gethostname()}-{os.getpid()}"
        self._term: int | None = None
        """The term of the lease in which the pool's attempts were handed out or adopted."""
        self._unrecorded: list[Update] = []
        self._handed_out: set[tuple[int, int]] = set()
        self._heard: dict[tuple[int, int], datetime] = {}
        """When each attempt's last sign of life was written down."""
        self._advanced: dict[str, int] = {}
        """The event up to which each search was advanced."""
        self._stepped_at: datetime | None = None
        self._reconciled_at: datetime | None = None

    def step(self) -> bool:
        """One turn, in one transaction; returns whether any search is still running.

        Without the lease it only looks.
        """
        if self._term is not None:
            self._unrecorded += self._pool.poll()
        now = self._clock()
        try:
            with self._database.transaction() as session:
                store = Store(session)
                turn = self._decide(store, now)
                running = bool(store.searches.num_running())
        except BaseException:
            self._reconciled_at = None  # It may be committed all the same, and only the answer lost.
            raise
        if turn is not None:
            # Only a committed step has handed anything out, and only then are the updates safe to forget.
            self._unrecorded = []
            self._do(turn, now)
        return running

    def stop(self) -> None:
        """Lets go of all work and lets another scheduler act at once."""
        self._let_go()
        with self._database.transaction() as session:
            Store(session).leases.give_up(LEASE, self._name, now=self._clock())

    def _let_go(self) -> None:
        """Another scheduler may have acted in between, so nothing that this one remembers of attempts counts."""
        if self._term is not None:
            self._pool.release()
        self._term = None
        self._unrecorded = []
        self._handed_out = set()
        self._heard = {}
        self._advanced = {}
        self._stepped_at = None
        self._reconciled_at = None

    # --- within the transaction ---

    def _decide(self, store: Store, now: datetime) -> _Turn | None:
        """All that changes in the store, and what is to be done once that is committed; None without the lease."""
        lease = store.leases.take(LEASE, self._name, now=now, seconds=LEASE_SECONDS)
        if lease is None or lease.term != self._term:
            self._let_go()
        if lease is None:
            return None
        turn = _Turn(lease.term, lease.until)
        for update in self._unrecorded:
            if self._is_worth_recording(update, turn, now):
                _record_apart(store, update, now)
        for live in store.jobs.live():
            self._look_after(store, live, turn, now)
        for search in store.searches.running():
            if search.intent is Intent.CANCEL and store.searches.end_cancelled(search.id, now):
                turn.cancel += store.jobs.cancel_all(search.id, now)
        self._advance(store, turn, now)
        turn.submit = self._claim(store, now)
        extended = store.leases.take(LEASE, self._name, now=self._clock(), seconds=LEASE_SECONDS)
        turn.until = turn.until if extended is None else extended.until
        return turn

    def _is_worth_recording(self, update: Update, turn: _Turn, now: datetime) -> bool:
        """Whether there is anything in it, or the last sign of life is some time ago."""
        key = (update.job_id, update.attempt)
        is_sign_only = update == Update(job_id=update.job_id, attempt=update.attempt)
        if is_sign_only and key in self._heard and now < self._heard[key] + timedelta(seconds=_HEARD_SECONDS):
            return False
        turn.heard[key] = now
        return True

    def _look_after(self, store: Store, live: LiveAttempt, turn: _Turn, now: datetime) -> None:
        """Adopts a live attempt that another scheduler handed out; gives up one that has been silent too long."""
        key = (live.job_id, live.number)
        turn.live.append(key)
        if key not in self._handed_out:
            turn.adopt.append(self._assignment(store, store.jobs.get(live.job_id)))
            store.jobs.hear(*key, None, now + timedelta(seconds=FIRST_SIGN_SECONDS))
        elif live.lease_until < now and not self._listened(now):
            store.jobs.hear(*key, None, now + timedelta(seconds=SILENCE_SECONDS))
        elif live.lease_until < now:
            silent = Failure(reason=f"its worker gave no sign of life until {live.lease_until:%H:%M:%S} UTC", lost=True)
            store.jobs.give_back(*key, silent, now, to=JobState.QUEUED)
            turn.cancel.append(key)
            turn.live.remove(key)

    def _listened(self, now: datetime) -> bool:
        """Whether silence is that of the workers: after a machine has slept, it may be the scheduler's own."""
        return self._stepped_at is not None and now < self._stepped_at + timedelta(seconds=SILENCE_SECONDS / 4)

    def _advance(self, store: Store, turn: _Turn, now: datetime) -> None:
        """Advances every search to which something has happened since it was last advanced."""
        searches = store.searches.running()
        newest = store.events.newest_of([search.name for search in searches])
        happened = store.events.pending_searches()
        for search in searches:
            is_due = search.name in happened or newest.get(search.name) != self._advanced.get(search.name, -1)
            if is_due and self._clock() > now + timedelta(seconds=_ADVANCING_SECONDS):
                continue  # It stays due.
            if is_due:
                _advance_apart(store, search, now)
            turn.advanced[search.name] = newest.get(search.name, -1)

    def _claim(self, store: Store, now: datetime) -> list[Assignment]:
        """Starts attempts at queued jobs, oldest first, for as long as the pool has room."""
        claimed: list[Assignment] = []
        refused: set[Resources] = set()
        if not self._pool.has_room(Resources(cpus=1, gpus=0), []):
            return claimed
        for job in store.jobs.queued([search.id for search in store.searches.running()]):
            wanted = resources_of(job.spec)
            if wanted in refused:
                continue  # Within one step, room only shrinks.
            if not self._pool.has_room(wanted, [assignment.resources for assignment in claimed]):
                refused.add(wanted)
                continue
            folder = attempt_folder(self._run_folder, job.id, job.attempt + 1)
            started = store.jobs.start_attempt(job, str(folder), now, now + timedelta(seconds=FIRST_SIGN_SECONDS))
            if started is not None:
                claimed.append(self._assignment(store, started))
        return claimed

    def _assignment(self, store: Store, job: JobRecord) -> Assignment:
        *earlier, current = store.jobs.attempts_of_run(job)
        return Assignment(
            job_id=job.id,
            attempt=job.attempt,
            spec=job.spec,
            resources=resources_of(job.spec),
            folder=self._folder(current),
            earlier_folders=tuple(self._folder(attempt) for attempt in earlier),
        )

    def _folder(self, attempt: AttemptRecord) -> str:
        """As it was recorded, or, of attempts older than the column for it, as it has always followed."""
        return attempt.folder or str(attempt_folder(self._run_folder, attempt.job_id, attempt.number))

    # --- once it is committed ---

    def _do(self, turn: _Turn, now: datetime) -> None:
        if self._clock() > turn.until:
            self._let_go()  # Another may act by now; whoever does adopts everything.
            return
        self._term, self._stepped_at, self._advanced = turn.term, now, turn.advanced
        self._handed_out &= set(turn.live)
        self._heard = {key: at for key, at in {**self._heard, **turn.heard}.items() if key in self._handed_out}
        for assignment in turn.adopt:
            self._pool.adopt(assignment)
            self._handed_out.add((assignment.job_id, assignment.attempt))
        for job_id, attempt in turn.cancel:
            self._pool.cancel(job_id, attempt)
        if self._reconciled_at is None or now > self._reconciled_at + timedelta(seconds=_RECONCILED_SECONDS):
            # Attempts that a scheduler could not end: it died, or was cut off, before it got to it.
            self._pool.keep_only(turn.live)
            self._reconciled_at = now
        for assignment in turn.submit:
            self._submit(assignment, turn.until)

    def _submit(self, assignment: Assignment, until: datetime) -> None:
        """Starts an attempt that the store holds as running; one that cannot be started is a failure to record."""
        if self._clock() > until:
            return  # The lease has run out meanwhile: whoever holds it now finds the attempt lost.
        self._handed_out.add((assignment.job_id, assignment.attempt))
        try:
            self._pool.submit(assignment)
        except OSError as error:
            failure = Failure(reason=f"its worker could not be started: {error}")
            self._unrecorded.append(Update(job_id=assignment.job_id, attempt=assignment.attempt, failure=failure))


def _advance_apart(store: Store, search: SearchRecord, now: datetime) -> None:
    """Advances a search within a savepoint: whatever goes wrong ends that search, and holds up no other."""
    pending = store.events.num_pending()
    try:
        with store.session.begin_nested():
            advance(store, search, now)
    except (OperationalError, InterfaceError, InternalError):
        raise  # Of the database, not of the search.
    except Exception as error:
        logger.exception("search %s cannot be advanced", search.name)
        store.events.forget_pending(pending)
        reason = f"the scheduler met a bug of its own: {type(error).__name__}: {error}"
        store.searches.end(search.id, SearchState.FAILED, reason, now)


def _record_apart(store: Store, update: Update, now: datetime) -> None:
    """Records an update within a savepoint: one that the store refuses fails its own attempt, and no other."""
    pending = store.events.num_pending()
    try:
        with store.session.begin_nested():
            _record(store, update, now)
    except (IntegrityError, DataError, TopiaryError) as error:
        store.events.forget_pending(pending)
        failure = Failure(reason=f"what it reported cannot be recorded: {error}")
        _record(store, Update(job_id=update.job_id, attempt=update.attempt, failure=failure), now)


def _record(store: Store, update: Update, now: datetime) -> None:
    """Records what is new of an attempt; nothing of one that is not its job's current, running attempt."""
    job_id, attempt = update.job_id, update.attempt
    if not store.jobs.is_current(job_id, attempt):
        return
    job = store.jobs.get(job_id)
    for measurement in update.measurements:
        store.curves.record(job, measurement, now)
    if update.result is not None:
        store.jobs.succeed(job_id, attempt, update.result, now)
    elif update.failure is not None:
        _record_failure(store, job, update.failure, now)
    else:
        store.jobs.hear(job_id, attempt, update.progress, now + timedelta(seconds=SILENCE_SECONDS))


def _record_failure(store: Store, job: JobRecord, failure: Failure, now: datetime) -> None:
    allowed = store.searches.get(job.search_id).spec.max_failures
    given_up = not failure.lost and (failure.user_error or job.failures + 1 >= allowed)
    state = JobState.FAILED if given_up else JobState.QUEUED
    store.jobs.give_back(job.id, job.attempt, failure, now, to=state)
