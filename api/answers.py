"""A teacher's answers for the trials of a search: asked for once per seed and segment, then handed to each trial."""

from collections.abc import Sequence
from datetime import datetime

from api.groundwork import Groundwork
from api.store.records import JobRecord, SearchRecord
from api.store.store import Store
from nas.jobs import CachedAnswers, CacheTeacher, TeacherCached


class TeachersAnswers:
    """What is there of a search's; what is missing is asked for once, by a job of its own."""

    def __init__(
        self, store: Store, search: SearchRecord, groundwork: Groundwork, jobs: Sequence[JobRecord], now: datetime
    ) -> None:
        self._store, self._search, self._groundwork, self._now = store, search, groundwork, now
        cached = [job for job in jobs if isinstance(job.spec, CacheTeacher)]
        self._jobs = {
            (job.spec.seed, job.spec.first_sequence): job for job in cached if isinstance(job.spec, CacheTeacher)
        }
        self._asked: set[tuple[int, int]] = set(self._jobs)

    @property
    def is_live(self) -> bool:
        """Whether the teacher runs beside every trial instead."""
        return self._search.spec.trial.targets == "live"

    def of(self, seed: int, segment: int) -> CachedAnswers | None:
        """Those to a segment of the trials of a seed; None until they are there, and once they are asked for."""
        spec, ends = self._search.spec, self._search.trial_ends
        if spec.trial.targets == "live":
            return None
        length = spec.data.sequence_length
        first = (ends[segment - 1] if segment else 0) // length
        job = self._jobs.get((seed, first))
        if job is not None and isinstance(job.result, TeacherCached):
            return job.result.answers
        if (seed, first) not in self._asked:
            self._asked.add((seed, first))
            ask = CacheTeacher(
                teacher=spec.teacher,
                corrected=self._groundwork.corrected,
                teacher_sha256=self._groundwork.calibrated.teacher_sha256,
                data=self._groundwork.data.data,
                form=spec.trial.targets,
                per_token=spec.trial.targets_per_token,
                temperature=spec.distillation.temperature,
                first_sequence=first,
                num_sequences=self._search.trial_segments[segment].actual_tokens(length) // length,
                micro_batch_size=spec.trial.fitting_micro_batch(length, self._search.teacher.vocab_size),
                seed=seed,
                resources=self._groundwork.resolved(spec.resources),
            )
            self._store.jobs.add(self._search.id, ask, self._now)
        return None
