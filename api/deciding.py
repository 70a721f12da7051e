"""The strategy's turn: what is on record of a search's trials, and what is to become of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from api.store.curves import SearchCurves
from api.store.records import CandidateRecord, JobRecord, SearchRecord
from api.store.store import Store
from nas.states import JobState
from nas.strategies import decide
from nas.strategy import Decision, TrialHistory


def decisions(
    store: Store,
    search: SearchRecord,
    candidates: Sequence[CandidateRecord],
    jobs: Mapping[int, Sequence[JobRecord]],
    curves: SearchCurves,
) -> list[Decision]:
    """What the search's strategy says now; `jobs` are those of its trials, by trial."""
    history = _history(store, search, candidates, jobs, curves)
    return decide(search.spec, search.trial_ends, history)


def _history(
    store: Store,
    search: SearchRecord,
    candidates: Sequence[CandidateRecord],
    jobs: Mapping[int, Sequence[JobRecord]],
    curves: SearchCurves,
) -> list[TrialHistory]:
    told = store.decisions.told_tokens(jobs)
    failed = {trial_id for trial_id, own in jobs.items() if any(job.state is JobState.FAILED for job in own)}
    trials = [(candidate, trial) for candidate in candidates for trial in candidate.trials]
    going_on = {trial.id: told[trial.id] for _, trial in trials if trial.stopped is None and trial.id not in failed}
    sequences: dict[int, NDArray[np.float32]] = {}
    if search.spec.strategy.kind == "racing" and going_on and (place := min(going_on.values())):
        # Losses of sequences are many, and are compared only where those furthest behind have come to.
        sequences = store.curves.sequences_at(place, list(going_on))
    return [
        TrialHistory(
            trial_id=trial.id,
            candidate_id=candidate.id,
            told_tokens=told[trial.id],
            tokens=max((_behind(job) for job in jobs[trial.id] if job.state is JobState.SUCCEEDED), default=0),
            losses={point.tokens: point.loss for point in curves.of_trial.get(trial.id, ())},
            sequences=sequences.get(trial.id),
            failed=trial.id in failed,
            stopped=trial.stopped is not None,
        )
        for candidate, trial in trials
    ]


def told_by(jobs: Sequence[JobRecord]) -> int:
    """How far the last of a trial's jobs was to go: one that ended well is there, whatever it has measured."""
    return _behind(jobs[-1]) if jobs else 0


def _behind(job: JobRecord) -> int:
    content = job.spec_content  # Not parsed: there may be thousands.
    continues = content.get("continues") or {"tokens": 0}
    return int(continues["tokens"]) + int(content["until_tokens"])
