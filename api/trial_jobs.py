"""The job by which a trial goes on, from what is on record of it."""

from bisect import bisect_right
from collections.abc import Sequence

from api.groundwork import Groundwork
from api.store.records import CandidateRecord, JobRecord, SearchRecord, TrialRecord
from nas.jobs import Continuation, Trained, Trial


def trial_job(
    search: SearchRecord,
    groundwork: Groundwork,
    candidate: CandidateRecord,
    trial: TrialRecord,
    jobs: Sequence[JobRecord],
    tokens: int,
    told_tokens: int,
) -> tuple[int, Trial]:
    """The number of the segment in which a trial goes on from so many tokens, and the job for it."""
    spec, ends = search.spec, search.trial_ends
    segment = bisect_right(ends, tokens)
    begins = ends[segment - 1] if segment else 0
    before = jobs[-1].result if segment else None
    return segment, Trial(
        teacher=spec.teacher,
        corrected=groundwork.corrected,
        teacher_sha256=groundwork.calibrated.teacher_sha256,
        scores_file=groundwork.scores_file,
        calibration=spec.calibration,
        architecture=candidate.architecture,
        data=groundwork.data.data,
        training=groundwork.training(search.trial_segments[segment]),
        distillation=spec.distillation,
        until_tokens=min(told_tokens, ends[segment]) - begins,
        seed=trial.seed,
        resources=groundwork.resolved(spec.resources),
        continues=_continuation(before, begins, spec.data.sequence_length) if isinstance(before, Trained) else None,
    )


def _continuation(before: Trained, tokens: int, sequence_length: int) -> Continuation:
    return Continuation(
        weights=before.weights,
        tokens=tokens,
        first_sequence=tokens // sequence_length,
        kept_layers=before.kept_layers,
    )
