"""The leaderboard of a search, from all that is on record of it."""

from collections.abc import Collection, Mapping, Sequence

from api.store.curves import SearchCurves
from api.store.records import CandidateRecord, JobRecord
from nas.ranking import Contender, Standing, leaderboard, mean_curve
from nas.states import JobState, TrialState

_BEFORE = (
    TrialState.RUNNING,
    TrialState.QUEUED,
    TrialState.WAITING,
    TrialState.CANCELLED,
    TrialState.SUCCEEDED,
    TrialState.FAILED,
)
"""Of a candidate with several trials, what is true of any of them in this order; failed is one whose all did."""


def standings(candidates: Sequence[CandidateRecord], jobs: Sequence[JobRecord], curves: SearchCurves) -> list[Standing]:
    newest = {job.trial_id: job for job in jobs if job.kind == "trial"}
    retrained = {job.trial_id for job in jobs if job.kind == "trial" and job.state is JobState.SUCCEEDED}
    return leaderboard([_contender(candidate, newest, retrained, curves) for candidate in candidates])


def _contender(
    candidate: CandidateRecord,
    newest: Mapping[int | None, JobRecord],
    retrained: Collection[int | None],
    curves: SearchCurves,
) -> Contender:
    """A failed trial counts for nothing, unless there is no other; if its extension failed, for what it was before."""
    states = {trial.id: trial_state(newest.get(trial.id)) for trial in candidate.trials}
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
        reason=failed or next((job.reason for job in jobs if job.reason), None),
    )


def trial_state(newest: JobRecord | None) -> TrialState:
    """Of a trial, from its newest job."""
    return TrialState.WAITING if newest is None else TrialState(newest.state.value)
