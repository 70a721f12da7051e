"""The leaderboard of a search, from all that is on record of it."""

from collections.abc import Collection, Mapping, Sequence

from api.store.curves import SearchCurves
from api.store.records import CandidateRecord, JobRecord, TrialRecord
from nas.ranking import Contender, Standing, leaderboard, mean_curve
from nas.states import JobState, TrialState

_BEFORE = (
    TrialState.RUNNING,
    TrialState.QUEUED,
    TrialState.WAITING,
    TrialState.CANCELLED,
    TrialState.SUCCEEDED,
    TrialState.STOPPED,
    TrialState.FAILED,
)
"""Of a candidate with several trials, what is true of any of them in this order; failed is one whose all did."""


def standings(candidates: Sequence[CandidateRecord], jobs: Sequence[JobRecord], curves: SearchCurves) -> list[Standing]:
    """The leaderboard, without how sure it is."""
    newest = {job.trial_id: job for job in jobs if job.kind == "trial"}
    retrained = {
        job.trial_id for job in jobs if job.state is JobState.SUCCEEDED and job.kind == "trial" and _is_whole(job)
    }
    return leaderboard([_contender(candidate, newest, retrained, curves) for candidate in candidates])


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
    return TrialState.SUCCEEDED if _is_whole(newest) else TrialState.WAITING


def _is_whole(job: JobRecord) -> bool:
    """Whether it takes its trial to the end of a schedule, and not to a rung."""
    content = job.spec_content
    return bool(content["until_tokens"] >= content["training"]["tokens"])
