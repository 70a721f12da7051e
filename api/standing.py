"""The leaderboard of a search, from all that is on record of it."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from api.store.curves import SearchCurves
from api.store.records import CandidateRecord, JobRecord, SearchRecord, TrialRecord
from api.store.store import Store
from nas.certainty import MOST_LEADERS, Measured
from nas.ranking import Contender, Standing, leaderboard, level, mean_curve, told_how_sure
from nas.states import JobState, TrialState

_BEFORE = (
    TrialState.RUNNING,
    TrialState.QUEUED,
    TrialState.WAITING,
    TrialState.CANCELLED,
    TrialState.STOPPED,
    TrialState.SUCCEEDED,
    TrialState.FAILED,
)
"""Of a candidate with several trials, what is true of any of them in this order; failed is one whose all did."""


def standings(candidates: Sequence[CandidateRecord], jobs: Sequence[JobRecord], curves: SearchCurves) -> list[Standing]:
    """The leaderboard, without how sure it is."""
    newest = {job.trial_id: job for job in jobs if job.kind == "trial"}
    retrained = {job.trial_id for job in jobs if job.kind == "trial" and job.state is JobState.SUCCEEDED}
    return leaderboard([_contender(candidate, newest, retrained, curves) for candidate in candidates])


def sure_standings(
    store: Store,
    search: SearchRecord,
    candidates: Sequence[CandidateRecord],
    jobs: Sequence[JobRecord],
    curves: SearchCurves,
) -> list[Standing]:
    """The leaderboard with how sure it is: for that, losses of sequences are read."""
    rows = standings(candidates, jobs, curves)
    leaders = level(rows)[:MOST_LEADERS]
    if not leaders:
        return rows
    tokens, trials = leaders[0].tokens, {each.id: [trial.id for trial in each.trials] for each in candidates}
    asked = [trial_id for row in leaders for trial_id in trials[row.candidate_id]]
    sequences = store.curves.sequences_at(tokens, asked)
    measured = {row.candidate_id: _measured(trials[row.candidate_id], curves, tokens, sequences) for row in leaders}
    return told_how_sure(rows, measured, search.spec.strategy.run_to_run)


def _measured(
    trial_ids: Sequence[int], curves: SearchCurves, tokens: int, sequences: Mapping[int, NDArray[np.float32]]
) -> Measured:
    """A candidate's losses after so many tokens, of the trials that were measured there."""
    newest = [(each, curves.of_trial[each][-1]) for each in trial_ids if curves.of_trial.get(each)]
    there = [(each, point.loss) for each, point in newest if point.tokens == tokens]
    found = [sequences[each] for each, _ in there if each in sequences]
    return Measured(tuple(loss for _, loss in there), tuple(found) if len(found) == len(there) else ())


def _contender(
    candidate: CandidateRecord,
    newest: Mapping[int | None, JobRecord],
    retrained: Collection[int | None],
    curves: SearchCurves,
) -> Contender:
    """A failed trial counts for nothing, unless there is no other; if its extension failed, for what it was before."""
    states = {trial.id: trial_state(trial, newest.get(trial.id)) for trial in candidate.trials}
    for trial_id, its in states.items():
        if its is TrialState.FAILED and trial_id in retrained:
            states[trial_id] = TrialState.SUCCEEDED
    state = next(state for state in _BEFORE if state in states.values())
    counting = [trial for trial in candidate.trials if states[trial.id] is not TrialState.FAILED] or candidate.trials
    jobs = [newest[trial.id] for trial in candidate.trials if trial.id in newest]
    failed = next((job.reason for job in jobs if job.state is JobState.FAILED), None)
    return Contender(
        candidate_id=candidate.id,
        architecture=candidate.architecture,
        parameters=candidate.parameters,
        non_embedding_parameters=candidate.non_embedding_parameters,
        curve=mean_curve([curves.of_trial.get(trial.id, ()) for trial in counting]),
        state=state,
        reason=failed
        or next((job.reason for job in jobs if job.reason), None)
        or next((trial.stopped for trial in candidate.trials if trial.stopped), None),
    )


def trial_state(trial: TrialRecord, newest: JobRecord | None) -> TrialState:
    """Of a trial, from its newest job, and from whether the strategy has given it up."""
    if newest is None:
        return TrialState.WAITING
    if newest.state is not JobState.SUCCEEDED:
        return TrialState(newest.state.value)
    if trial.stopped is not None:
        return TrialState.STOPPED
    # At a rung it waits for the others; its job is of the whole schedule, and goes a part of the way.
    content = newest.spec_content
    return TrialState.WAITING if content["until_tokens"] < content["training"]["tokens"] else TrialState.SUCCEEDED
