"""The correction of a search's teacher: asked for before it is scored, where the spec wants one."""

from collections.abc import Sequence
from datetime import datetime

from api.store.records import JobRecord, SearchRecord
from api.store.store import Store
from nas.jobs import CorrectTeacher, DataPrepared, TeacherCorrected
from nas.spec import SearchSpec

_SEED_APART = 2**62


def correction_of(jobs: Sequence[JobRecord]) -> TeacherCorrected | None:
    """What it came to; None without one, or before its end. `jobs` are at least the search's jobs but trials."""
    return next((job.result for job in jobs if isinstance(job.result, TeacherCorrected)), None)


def is_ready(store: Store, search: SearchRecord, data: DataPrepared, jobs: Sequence[JobRecord], now: datetime) -> bool:
    """Whether the teacher is what it is to be; asks once for its correction. `jobs` are the search's but trials."""
    spec = search.spec
    if spec.correction is None:
        return True
    if not any(job.kind == "correct_teacher" for job in jobs):
        job = CorrectTeacher(
            teacher=spec.teacher,
            data=data.data,
            training=spec.correction,
            seed=correction_seed(spec),
            resources=spec.resources,
        )
        store.jobs.add(search.id, job, now)
    return correction_of(jobs) is not None


def correction_seed(spec: SearchSpec) -> int:
    """Of the order in which the text corrects: far from the seeds of trials and promotions, which count on."""
    return (spec.seed + _SEED_APART) % 2**63
