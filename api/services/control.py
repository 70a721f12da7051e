"""What a user may do to a search that is there: pause, resume, stop, cancel, retry, archive.

Every function raises NotFoundError, and ConflictError for a search in a state that does not allow it. Handlers write
what is wanted; the scheduler's next step brings it about.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from api.spending import used_up
from api.store.database import Database
from api.store.records import SearchRecord
from api.store.store import Store
from nas.errors import ConflictError, NotFoundError
from nas.jobs import DataPrepared
from nas.states import Intent, JobState, SearchState
from workers.artifacts import files


def pause(database: Database, name: str, now: datetime) -> None:
    """What runs saves its state and ends; the search waits until it is resumed."""
    _ask(database, name, Intent.PAUSE, now)


def stop(database: Database, name: str, now: datetime) -> None:
    """What runs goes on to its end, and nothing new is started; the search waits until it is resumed."""
    _ask(database, name, Intent.STOP, now)


def cancel(database: Database, name: str, now: datetime) -> None:
    """What runs ends now, and what waits is not started; what was measured stays."""
    _ask(database, name, Intent.CANCEL, now)


def resume(database: Database, name: str, now: datetime) -> None:
    """A search that was paused, stopped or cancelled goes on, from the newest checkpoints."""
    with _search(database, name) as (store, search):
        check_affordable(store, search, now)
        if search.state is SearchState.CANCELLED:
            store.searches.reopen(search.id, now)
            store.jobs.retry(search.id, now)
        elif not store.searches.ask(search.id, Intent.RUN, now):
            how = "; `retry` tries its failed jobs again" if search.state is SearchState.FAILED else ""
            raise ConflictError("search", name, f"is {search.state}{how}", "one that is paused, stopped or cancelled")


def retry(database: Database, name: str, now: datetime, *, candidate_id: int | None = None) -> None:
    """Tries the failed jobs of a search again, or those of one candidate, their failures forgiven."""
    with _search(database, name) as (store, search):
        check_not_cancelled(search)
        only = None if candidate_id is None else trials_of(store, search, candidate_id)
        again = store.jobs.retry(search.id, now, states=(JobState.FAILED,), only=only)
        if not again and (candidate_id is not None or search.state is not SearchState.FAILED):
            of = f"candidate {candidate_id} of {name}" if candidate_id is not None else name
            raise ConflictError("search", of, "has no job that failed", "one with a failed job")
        take_up(store, search, now)


def archive(database: Database, name: str, now: datetime, *, archived: bool = True) -> None:
    """Takes a search out of the lists, or puts it back; one that runs stays."""
    with _search(database, name) as (store, search):
        if archived and search.state is SearchState.RUNNING:
            raise ConflictError("search", name, "is running", "a search that has ended, or that waits")
        store.searches.archive(search.id, now, archived=archived)


def check_affordable(store: Store, search: SearchRecord, now: datetime) -> None:
    """Raises ConflictError for a search that has used up what it may: it would be stopped again at once."""
    if (reason := used_up(store, search, now)) is not None:
        problem = f"may not go on: {reason}"
        raise ConflictError("search", search.name, problem, "more spending first, by extending it")


def check_not_cancelled(search: SearchRecord) -> None:
    """Raises ConflictError for a cancelled search: of its jobs all are to go on, or none."""
    if search.state is SearchState.CANCELLED:
        raise ConflictError("search", search.name, "is cancelled", "one that is resumed first")


def take_up(store: Store, search: SearchRecord, now: datetime) -> None:
    """Takes up a search that has ended, if it has; what was cancelled as it failed goes on as well.

    Raises ConflictError for one that has finished and whose text is gone.
    """
    if search.state is SearchState.FINISHED:
        check_text_is_there(store, search)
    if store.searches.reopen(search.id, now):
        store.jobs.retry(search.id, now, states=(JobState.CANCELLED,))


def check_text_is_there(store: Store, search: SearchRecord) -> None:
    """Raises ConflictError for a search whose tokenised text was removed: nothing could be retrained on it."""
    prepared = [job.result for job in store.jobs.but_trials(search.id) if isinstance(job.result, DataPrepared)]
    for data in (result.data for result in prepared):
        folder, _, name = data.train_file.rpartition("/")
        there = files(folder) if folder else {}
        # Retention leaves the log.
        if there and not any(each == name or each.startswith(f"{name}/") for each in there):
            problem = "has ended, and its tokenised text was removed since"
            raise ConflictError("search", search.name, problem, "a clone of it, which tokenises the text anew")


def trials_of(store: Store, search: SearchRecord, candidate_id: int) -> list[int]:
    """Raises NotFoundError for a candidate that is not of this search."""
    for candidate in store.candidates.of_search(search.id):
        if candidate.id == candidate_id:
            return [trial.id for trial in candidate.trials]
    raise NotFoundError("candidate", candidate_id, f"is not in {search.name}", "a candidate_id of its leaderboard")


def _ask(database: Database, name: str, intent: Intent, now: datetime) -> None:
    with _search(database, name) as (store, search):
        if not store.searches.ask(search.id, intent, now):
            accepted = "a search that is running, paused or stopped"
            raise ConflictError("search", name, f"is {search.state} already", accepted)


@contextmanager
def _search(database: Database, name: str) -> Iterator[tuple[Store, SearchRecord]]:
    with database.transaction() as session:
        store = Store(session)
        yield store, store.searches.named(name, lock=True)
