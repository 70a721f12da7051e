"""Scheduler.step(): one turn of everything, as a function of the store, the pool and the clock."""

import logging
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy.exc import InterfaceError, InternalError, OperationalError

from api.intents import bring_about, settle
from api.lifecycle import advance
from api.recording import SILENCE_SECONDS, give_back, record
from api.spending import used_up
from api.store.database import Database
from api.store.records import AttemptRecord, JobRecord, LiveAttempt
from api.store.store import Store
from nas.addresses import attempt_folder
from nas.durable import is_full
from nas.pool import Assignment, Failure, Resources, Update, WorkerPool, resources_of
from nas.states import AttemptState, Intent, SearchState

logger = logging.getLogger(__name__)

LEASE = "scheduler"
LEASE_SECONDS = 10
"""How long the others wait for a scheduler that is silent; each step extends it."""

FIRST_SIGN_SECONDS = 600
"""How long a new attempt may take to show life: its node may have to be started first."""

_HEARD_SECONDS = 30
"""How often a sign of life is written down where there is nothing else to write."""

_RECONCILED_SECONDS = 60
"""How often workers are looked for that run what the store knows nothing of."""

_COUNTED_SECONDS = 2
"""How often it is counted what a search has used."""

_AVOIDED_FOR = 2
"""Attempts after which a node is given another chance: it may be the only one with room."""

_STARTED_AT_ONCE = 100
"""Attempts that one step starts: the lease must outlast it."""

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
    interrupt: list[tuple[int, int]] = field(default_factory=list)
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
        self, database: Database, pool: WorkerPool, root: Path | str, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._pool = pool
        self._root = root
        """Of all artifacts: a folder, or the URL of one in a store."""
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
        self._interrupted: set[tuple[int, int]] = set()
        """The live attempts that were told to end."""
        self._counted: dict[int, datetime] = {}
        """When it was last counted what each search has used."""
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
        self._interrupted = set()
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
                record(store, update, now)
        for live in store.attempts.live():
            self._look_after(store, live, turn, now)
        self._count_spending(store, now)
        turn.interrupt, cancelled = bring_about(store, now)
        turn.cancel += cancelled
        self._advance(store, turn, now)
        settle(store, now)
        turn.submit = self._claim(store, now)
        extended = store.leases.take(LEASE, self._name, now=self._clock(), seconds=LEASE_SECONDS)
        turn.until = turn.until if extended is None else extended.until
        return turn

    def _is_worth_recording(self, update: Update, turn: _Turn, now: datetime) -> bool:
        """Whether there is anything in it but where it runs, or the last sign of life is some time ago."""
        key = (update.job_id, update.attempt)
        is_sign_only = update == Update(job_id=update.job_id, attempt=update.attempt, node=update.node)
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
            store.attempts.hear(*key, now + timedelta(seconds=FIRST_SIGN_SECONDS))
        elif live.lease_until < now and not self._listened(now):
            store.attempts.hear(*key, now + timedelta(seconds=SILENCE_SECONDS))
        elif live.lease_until < now:
            silent = Failure(reason=f"its worker gave no sign of life until {live.lease_until:%H:%M:%S} UTC", lost=True)
            give_back(store, store.jobs.get(live.job_id), silent, now)
            turn.cancel.append(key)
            turn.live.remove(key)

    def _listened(self, now: datetime) -> bool:
        """Whether silence is that of the workers: after a machine has slept, it may be the scheduler's own."""
        return self._stepped_at is not None and now < self._stepped_at + timedelta(seconds=SILENCE_SECONDS / 4)

    def _count_spending(self, store: Store, now: datetime) -> None:
        """Stops the searches that have used up what they may, every few seconds."""
        for search in store.searches.running():
            counted_at = self._counted.get(search.id)
            may_spend = search.intent in (Intent.RUN, Intent.STOP) and not search.ends_at_once
            if may_spend and (counted_at is None or now >= counted_at + timedelta(seconds=_COUNTED_SECONDS)):
                self._counted[search.id] = now
                if (reason := used_up(store, search, now)) is not None:
                    store.searches.ask(search.id, Intent.STOP, now, reason=reason)

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
                turn.cancel += _advance_apart(store, search.id, now)
            turn.advanced[search.name] = newest.get(search.name, -1)

    def _claim(self, store: Store, now: datetime) -> list[Assignment]:
        """Starts attempts at queued jobs, oldest first, for as long as the pool has room."""
        claimed: list[Assignment] = []
        refused: set[tuple[Resources, frozenset[str]]] = set()
        if not self._pool.has_room(Resources(cpus=1, gpus=0), []):
            return claimed
        searches = [search for search in store.searches.running() if search.intent is Intent.RUN]
        for job in sorted((job for search in searches for job in store.jobs.queued(search.id, now)), key=_age):
            if len(claimed) == _STARTED_AT_ONCE:
                break
            wanted, avoided = resources_of(job.spec), _broken_on(store, job)
            if (wanted, avoided) in refused:
                continue  # Within one step, room only shrinks.
            if not self._pool.has_room(wanted, [assignment.resources for assignment in claimed], avoided):
                refused.add((wanted, avoided))
                obstacle = self._pool.obstacle(wanted)
                if obstacle is not None and obstacle != job.reason:
                    store.jobs.say_why(job.id, obstacle)
                continue
            folder = attempt_folder(self._root, job.id, job.attempt + 1)
            started = store.jobs.start_attempt(job, str(folder), now, now + timedelta(seconds=FIRST_SIGN_SECONDS))
            if started is not None:
                claimed.append(self._assignment(store, started))
        return claimed

    def _assignment(self, store: Store, job: JobRecord) -> Assignment:
        *earlier, current = store.attempts.of_run(job)
        return Assignment(
            job_id=job.id,
            attempt=job.attempt,
            spec=job.spec,
            resources=resources_of(job.spec),
            folder=self._folder(current),
            earlier_folders=tuple(self._folder(attempt) for attempt in earlier),
            avoid_nodes=tuple(sorted(_broken_on(store, job))),
        )

    def _folder(self, attempt: AttemptRecord) -> str:
        """As it was recorded, or, of attempts older than the column for it, as it has always followed."""
        return attempt.folder or attempt_folder(self._root, attempt.job_id, attempt.number)

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
        self._interrupted &= set(turn.live)
        for key in set(turn.interrupt) - self._interrupted:
            self._pool.interrupt(*key)
            self._interrupted.add(key)
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
            reason = f"its worker could not be started: {error}"
            failure = Failure(reason=reason, lost=is_full(error))  # A full disk is not of the job's making.
            self._unrecorded.append(Update(job_id=assignment.job_id, attempt=assignment.attempt, failure=failure))


def _advance_apart(store: Store, search_id: int, now: datetime) -> list[tuple[int, int]]:
    """Advances a search within a savepoint: whatever goes wrong ends that search, and holds up no other.

    Its row is locked first: what a user asks of it meanwhile comes after, and finds what was decided. Returns what of
    it ran, if it was ended.
    """
    search = store.searches.get(search_id, lock=True)
    if search.state is not SearchState.RUNNING:
        return []
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
        return store.jobs.cancel_all(search.id, now)
    return []


def _age(job: JobRecord) -> int:
    return job.id


def _broken_on(store: Store, job: JobRecord) -> frozenset[str]:
    """The nodes on which the last attempts at a job have failed or were lost; earlier ones are forgiven."""
    if job.attempt == 0:
        return frozenset()
    ended_badly = (AttemptState.FAILED, AttemptState.LOST)
    attempts = store.attempts.of_run(job)[-_AVOIDED_FOR:]
    return frozenset(each.node for each in attempts if each.node is not None and each.state in ended_badly)
