"""What must be on record at the end: everything once, and the same as of a search that nothing disturbed."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.services import viewing
from api.store.database import Database
from benchmarks.faults.stage import Stage
from nas.errors import NotFoundError
from nas.states import AttemptState, SearchState
from nas.views import AttemptView, EventKind, EventView, SearchView

_MOST_EVENTS = 1_000_000


@dataclass(frozen=True)
class Record:
    """All that is on record of one search.

    `jobs` are kinds by number, `points` the measurements by run, architecture and tokens. `result` is what must be
    equal to the last bit: ranks, losses, curves, and the weights of the models.
    """

    view: SearchView
    jobs: dict[int, str]
    attempts: list[AttemptView]
    events: list[EventView]
    points: Counter[tuple[str, str, int]]
    result: dict[str, Any]


def read(database: Database, name: str) -> Record | None:
    """None where there is no search of this name."""
    with database.reading() as session:
        try:
            view = viewing.view(session, name)
        except NotFoundError:
            return None
        attempts = viewing.attempts(session, name)
        shapes = {row.candidate_id: row.architecture.label for row in view.leaderboard}
        runs = {("trial", shapes[each]): points for each, points in viewing.curves(session, name).items()}
        runs |= {("promotion", shapes[each.candidate_id]): each.curve for each in view.promotions}
        return Record(
            view=view,
            jobs={job.job_id: job.kind for job in view.jobs} | {each.job_id: each.kind for each in attempts},
            attempts=attempts,
            events=viewing.events(session, after=0, search=name, limit=_MOST_EVENTS),
            points=Counter((*run, point.tokens) for run, points in runs.items() for point in points),
            result={
                "leaderboard": [row.model_dump(exclude={"candidate_id"}) for row in view.leaderboard],
                "curves": {" ".join(run): [point.model_dump() for point in points] for run, points in runs.items()},
                "models": [(each.exported_loss, _digest(each.folder)) for each in view.promotions],
            },
        )


def _digest(folder: str | None) -> str | None:
    """Of a model's weights."""
    file = Path(folder or "") / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


@dataclass(frozen=True)
class Findings:
    """What is wrong with the searches of a service, a sentence each, by what it is called; and all their attempts."""

    wrong: dict[str, list[str]]
    attempts: list[AttemptView]


def audit(stage: Stage, names: Sequence[str], undisturbed: Record) -> Findings:
    """Of searches that have ended, or that ended no more in ample time."""
    records = {name: read(stage.database, name) for name in names}
    there = {name: record for name, record in records.items() if record is not None}
    attempts = [attempt for record in there.values() for attempt in record.attempts]
    on_record = Counter(event.id for record in there.values() for event in record.events)
    told = Counter(stage.reader.told)
    lost = [f"{name} is not there" for name in records.keys() - there.keys()]
    lost += [line for name, record in there.items() for line in lost_of(name, record, undisturbed)]
    lost += [f"event {event} was not told to its reader" for event in on_record - told]
    duplicated = [line for name, record in there.items() for line in duplicates_of(name, record, undisturbed)]
    duplicated += [f"job {job} ran in two attempts at once" for job in sorted(stage.doubles)]
    duplicated += [f"event {event} was told to its reader again, or is not on record" for event in told - on_record]
    differing = [line for name, record in there.items() for line in differences_of(name, record, undisturbed)]
    wrong = {"lost": lost, "duplicated": duplicated, "differing": differing, "blamed": _blamed(attempts)}
    return Findings(wrong, attempts)


def _blamed(attempts: list[AttemptView]) -> list[str]:
    """Nothing that happened was the fault of a job, so no attempt may count against its job."""
    failed = [attempt for attempt in attempts if attempt.state is AttemptState.FAILED]
    return [f"job {each.job_id} ({each.kind}) is blamed for attempt {each.number}: {each.reason}" for each in failed]


def lost_of(name: str, record: Record, undisturbed: Record) -> list[str]:
    """What is missing of a search, a sentence each."""
    found = []
    if record.view.state is not SearchState.FINISHED:
        found.append(f"{name} is {record.view.state}: {record.view.reason}")
    for job in record.view.jobs:
        found.append(f"{name}: job {job.job_id} ({job.kind}) is {job.state}, attempt {job.attempt}: {job.reason}")
    missing = _kinds(undisturbed) - _kinds(record)
    found += [f"{name}: no job of kind {kind}" for kind in missing.elements()]
    points = undisturbed.points - record.points
    return found + [f"{name}: no measurement of {point}" for point in points.elements()]


def duplicates_of(name: str, record: Record, undisturbed: Record) -> list[str]:
    """What is there more than once, a sentence each."""
    extra = _kinds(record) - _kinds(undisturbed)
    found = [f"{name}: a job too many of kind {kind}" for kind in extra.elements()]
    won = Counter(each.job_id for each in record.attempts if each.state is AttemptState.SUCCEEDED)
    found += [f"{name}: job {job} succeeded more than once" for job in _repeated(won)]
    found += [f"{name}: measured more than once: {point}" for point in _repeated(record.points)]
    return found + [f"{name}: told more than once: {what}" for what in _repeated(_told(record.events))]


def differences_of(name: str, record: Record, undisturbed: Record) -> list[str]:
    """In what a search's result is not the undisturbed one's, a sentence each."""
    parts = [part for part, value in record.result.items() if value != undisturbed.result[part]]
    return [f"{name}: its {part} differ from those of the search that nothing disturbed" for part in parts]


def _kinds(record: Record) -> Counter[str]:
    return Counter(record.jobs.values())


def _repeated(counted: Counter[Any]) -> list[Any]:
    return [key for key, number in counted.items() if number > 1]


def _told(happened: list[EventView]) -> Counter[tuple[object, ...]]:
    """What a reader of events is to be told once of a search that nobody cancelled."""
    told: Counter[tuple[object, ...]] = Counter()
    for event in happened:
        data = event.data
        if event.kind is EventKind.MEASURED:
            told[event.kind, event.candidate_id, data["run"], data["tokens"]] += 1
        elif event.kind is EventKind.JOB_STARTED:
            told[event.kind, event.job_id, data["attempt"]] += 1
        elif event.kind is EventKind.JOB_ENDED:
            told[event.kind, event.job_id] += 1
        elif event.kind in (EventKind.PROMOTED, EventKind.EXPORTED, EventKind.DECIDED):
            told[event.kind, event.candidate_id] += 1
        elif event.kind in (EventKind.SEARCH_CREATED, EventKind.SEARCH_ENDED):
            told[event.kind, event.search] += 1
    return told
