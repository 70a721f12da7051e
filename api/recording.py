"""Recording what attempts report, and what becomes of their jobs: tried again, when, and how often."""

from datetime import datetime, timedelta

from sqlalchemy.exc import DataError, IntegrityError

from api.store.records import JobRecord
from api.store.store import Store
from nas.errors import TopiaryError
from nas.pool import Failure, Update
from nas.spec import SearchSpec
from nas.states import JobState

SILENCE_SECONDS = 120
"""How long an attempt that has shown life may be silent before it is given up as lost."""

_LONGEST_BACKOFF_SECONDS = 3600


def record(store: Store, update: Update, now: datetime) -> None:
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
    new_points = sum(store.curves.record(job, measurement, now) for measurement in update.measurements)
    if job.losses and (new_points or store.attempts.is_further(job_id, attempt, update.progress)):
        store.jobs.got_on(job_id)
    lease_until = now + timedelta(seconds=SILENCE_SECONDS)
    store.attempts.hear(job_id, attempt, lease_until, progress=update.progress, node=update.node)
    if update.result is not None:
        store.jobs.succeed(job_id, attempt, update.result, now)
    elif update.failure is not None:
        give_back(store, store.jobs.get(job_id), update.failure, now)


def give_back(store: Store, job: JobRecord, failure: Failure, now: datetime) -> None:
    """Ends a running job's attempt: the job is tried again after a while, or given up as the spec says."""
    spec = store.searches.get(job.search_id).spec
    to = JobState.FAILED if _is_given_up(spec, job, failure) else JobState.QUEUED
    wait = 0.0 if to is JobState.FAILED else _backoff_seconds(spec, job, failure)
    not_before = now + timedelta(seconds=wait) if wait else None
    store.jobs.give_back(job.id, job.attempt, failure, now, to=to, not_before=not_before)


def _is_given_up(spec: SearchSpec, job: JobRecord, failure: Failure) -> bool:
    if failure.interrupted:
        return False
    if failure.lost:
        return job.losses + 1 >= spec.max_losses
    return failure.user_error or job.failures + 1 >= spec.max_failures


def _backoff_seconds(spec: SearchSpec, job: JobRecord, failure: Failure) -> float:
    """Doubled with every failure in a row. A worker lost for the first time is no reason to wait, a second time is."""
    if failure.interrupted:
        return 0.0
    earlier = job.losses - 1 if failure.lost else job.failures
    # Two to the power of 30 is far beyond the longest, whatever the first.
    return 0.0 if earlier < 0 else min(spec.backoff_seconds * 2.0 ** min(earlier, 30), _LONGEST_BACKOFF_SECONDS)
