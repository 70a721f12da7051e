"""What of the artifacts of searches is needed, and what may go: one table, and how it is applied."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from api.store.database import Database
from api.store.records import AttemptRecord, JobRecord, SearchRecord
from api.store.store import Store
from nas.addresses import Artifact, attempt_folder, mapped
from nas.errors import FolderError
from nas.jobs import Trial
from nas.states import AttemptState, JobState, SearchState
from workers import artifacts
from workers.artifacts_manifest import MANIFEST
from workers.attempt import KEPT, PART


class Kind(StrEnum):
    """What there is in an attempt's folder."""

    RECORD = "what was done"
    """Assignment, log, measurements, outcome, manifest."""
    RESULT = "a result"
    """Scores, weights, models: what a result on record names."""
    TOKENS = "token files"
    """The text as every job of the search reads it."""
    ANSWERS = "the teacher's answers"
    """What it said once for all trials; by far the largest."""
    STATE = "the state of a run"
    """Of training not at its end: the newest checkpoints, and what of the teacher stays; of several runs all."""
    LEFTOVER = "left over"
    """All else: older checkpoints, those of runs that are at their end, what attempts without a result have left."""


_ALL = frozenset(SearchState)
_ON = frozenset({SearchState.RUNNING, SearchState.PAUSED})
_MAY_GO_ON = _ALL - {SearchState.FINISHED}

NEEDED: dict[Kind, frozenset[SearchState]] = {
    Kind.RECORD: _ALL,
    Kind.RESULT: _ALL,
    Kind.TOKENS: _MAY_GO_ON,
    Kind.ANSWERS: _MAY_GO_ON,
    Kind.STATE: _MAY_GO_ON,
    Kind.LEFTOVER: _ON,
}
"""In which states of a search what is needed. Before a search has ended for some days, all of it is."""

_RECORDS = {"assignment.json", "heartbeat", "log.txt", "measurements", "progress.json", "result.json", "failure.json"}


@dataclass(frozen=True)
class Removal:
    """One file, or folder, that may go; `search` is whose it is, None of what no job on record has written."""

    address: str
    bytes: int
    why: str
    search: str | None
    is_folder: bool


def planned(
    database: Database, root: str, now: datetime, *, older_than: timedelta, only: str | None = None
) -> list[Removal]:
    """All that may go: of searches that ended so long ago, or of the one named, and of jobs that are not on record.

    Raises NotFoundError for a name, OSError for a store that cannot be listed, FolderError for artifacts that are not
    this database's.
    """
    # Listed before the database is asked: of a folder that is there by now, the job is on record by then.
    folders = artifacts.names(f"{root}/jobs") if only is None else []
    with database.reading() as session:
        store = Store(session)
        searches = store.searches.newest_first() if only is None else [store.searches.named(only)]
        on_record = {each.id: (store.jobs.of_search(each.id), store.attempts.of_search(each.id)) for each in searches}
        numbers = store.jobs.numbers()
    removals = []
    for search in searches:
        jobs, attempts = on_record[search.id]
        if search.state not in _ON and _ended_at(search, attempts) <= now - older_than:
            removals += _of_search(search, jobs, attempts, root)
    unknown = [name for name in folders if re.fullmatch(r"\d{6,}", name) and int(name) not in numbers]
    if unknown and not any(name for name in folders if name not in unknown):
        problem = "holds jobs, none of which is on record in this database"
        raise FolderError("--artifacts", root, problem, "the artifacts of this database's searches")
    return removals + [_unknown(f"{root}/jobs/{name}") for name in unknown]


def remove(database: Database, removals: Iterable[Removal]) -> list[Removal]:
    """Removes what was planned, but of searches that are taken up again by now; returns what it removed.

    What a search that has not finished needs to go on with is never planned, so one that is taken up right now loses
    nothing. Of one that has finished the text goes: it cannot be extended from then on.
    """
    removed = []
    by_search: dict[str | None, list[Removal]] = defaultdict(list)
    for removal in removals:
        by_search[removal.search].append(removal)
    for name, own in by_search.items():
        with database.reading() as session:
            search = None if name is None else Store(session).searches.find(name)
        if search is not None and search.state in _ON:
            continue
        for removal in own:
            if removal.is_folder:
                artifacts.delete_folders([removal.address])
            else:
                artifacts.delete_file(removal.address)
            removed.append(removal)
    return removed


def _ended_at(search: SearchRecord, attempts: Sequence[AttemptRecord]) -> datetime:
    """One that was stopped has no time of its own: its last attempt's."""
    return search.finished_at or max((each.ended_at for each in attempts if each.ended_at), default=search.created_at)


def _unknown(folder: str) -> Removal:
    size = sum(artifacts.files(folder).values())
    return Removal(folder, size, "of a job that is not on record", search=None, is_folder=True)


# --- one search ---------------------------------------------------------------------------------------------


def _of_search(
    search: SearchRecord, jobs: Sequence[JobRecord], attempts: Sequence[AttemptRecord], root: str
) -> list[Removal]:
    named = {address: job.kind for job in jobs for address in _named(job)}
    runs: dict[object, list[AttemptRecord]] = defaultdict(list)
    job_of = {job.id: job for job in jobs}
    for attempt in attempts:
        runs[job_of[attempt.job_id].run].append(attempt)
    ended = {job.run for job in jobs if _is_end(job)}
    removals = []
    for run, own in runs.items():
        if any(attempt.state is AttemptState.RUNNING for attempt in own):
            continue
        folders = {attempt: attempt.folder or attempt_folder(root, attempt.job_id, attempt.number) for attempt in own}
        listed = {attempt: artifacts.files(folder) for attempt, folder in folders.items()}
        furthest = max(own, key=lambda attempt: (_newest_checkpoint(listed[attempt]), attempt.job_id, attempt.number))
        for attempt, files in listed.items():
            resumable = None if run in ended else attempt is furthest
            for part, size in _parts(files).items():
                address = f"{folders[attempt]}/{part}"
                kind = _kind(part, named.get(address), resumable)
                if search.state not in NEEDED[kind]:
                    why = _why(kind, part, attempt, search)
                    removals.append(Removal(address, size, why, search.name, is_folder=part not in files))
    return removals


def _kind(part: str, named_by: str | None, resumable: bool | None) -> Kind:
    """`named_by` is the kind of the job whose result names it; `resumable`, of a run not at its end, if furthest."""
    if part in _RECORDS or part == MANIFEST:
        return Kind.RECORD
    if named_by is not None:
        return {"prepare_data": Kind.TOKENS, "cache_teacher": Kind.ANSWERS}.get(named_by, Kind.RESULT)
    if ".partial" not in part and (
        (resumable is not None and (part == KEPT or part.startswith(PART)))
        or (part.startswith("checkpoints/") and resumable)
    ):
        return Kind.STATE
    return Kind.LEFTOVER


def _why(kind: Kind, part: str, attempt: AttemptRecord, search: SearchRecord) -> str:
    if kind is not Kind.LEFTOVER:
        return f"{kind} of a search that is {search.state}"
    what = "a checkpoint" if part.startswith("checkpoints/") else "left over"
    return f"{what} of attempt {attempt.number} ({attempt.state}) at job {attempt.job_id}"


def _parts(files: dict[str, int]) -> dict[str, int]:
    """The bytes of what goes or stays as a whole: files, folders, and of checkpoints each, by their path."""
    parts: dict[str, int] = defaultdict(int)
    for path, size in files.items():
        first, *rest = path.split("/")
        parts["/".join([first, *rest[: first == "checkpoints"]])] += size
    return parts


def _newest_checkpoint(files: dict[str, int]) -> str:
    """The path of the newest that is whole; empty without one."""
    return max((path for path in files if re.fullmatch(r"checkpoints/step-\d+/state\.json", path)), default="")


def _named(job: JobRecord) -> set[str]:
    """The addresses of all that a job's result names, with what belongs to it."""
    addresses = set()

    def add(address: str, mark: Artifact) -> str:
        stem = address.rpartition(".")[0]
        addresses.update([address, *(f"{stem}{suffix}" for suffix in mark.beside)])
        return address

    if job.result is not None:
        mapped(job.result, add)
    return addresses


def _is_end(job: JobRecord) -> bool:
    """Whether no other job goes on from its checkpoints. An extension does not: it begins with the weights."""
    if job.state is not JobState.SUCCEEDED:
        return False
    spec = job.spec
    return not isinstance(spec, Trial) or spec.until_tokens >= spec.training.actual_tokens(spec.data.sequence_length)
