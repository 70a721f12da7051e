"""A small real WorkerPool that ends every job at once, as told, without doing the work."""

from collections.abc import Callable, Collection, Sequence

from nas.jobs import (
    CachedAnswers,
    CacheTeacher,
    Calibrate,
    Calibrated,
    CorrectTeacher,
    DataFiles,
    DataPrepared,
    Evaluate,
    Evaluated,
    Export,
    Exported,
    JobResult,
    Measurement,
    MergeScores,
    PrepareData,
    Promotion,
    ScoresMerged,
    Sweep,
    Swept,
    TeacherCached,
    TeacherCorrected,
    Trained,
    Trial,
)
from nas.pool import Assignment, Failure, Resources, Update
from nas.training_record import SweptRate, TextSample

Outcome = Callable[[Assignment], Update]

SAMPLE = TextSample(prompt="def f(", teacher="x):", student="self):")
"""What every trial and promotion ends with."""


class InstantPool:
    """`outcome` says how an assignment ends; assignments wait in `submitted` until polled.

    A `patient` one adopts what was submitted to another pool, as a cluster does; else what it adopts is lost.
    """

    def __init__(self, outcome: Outcome, *, num_cpus: int = 100, patient: bool = False) -> None:
        self.outcome = outcome
        self.submitted: list[Assignment] = []
        self.adopted: list[Assignment] = []
        self.cancelled: list[tuple[int, int]] = []
        self.interrupted: list[tuple[int, int]] = []
        self.silent = False
        self._patient = patient
        self._waiting: list[Assignment] = []
        self._lost: list[Assignment] = []
        self._num_cpus = num_cpus

    def has_room(self, wanted: Resources, claimed: Sequence[Resources], avoid_nodes: Collection[str] = ()) -> bool:
        return len(self._waiting) + sum(each.cpus for each in claimed) + wanted.cpus <= self._num_cpus

    def obstacle(self, wanted: Resources) -> str | None:
        return None

    def submit(self, assignment: Assignment) -> None:
        self.submitted.append(assignment)
        self._waiting.append(assignment)

    def adopt(self, assignment: Assignment) -> None:
        self.adopted.append(assignment)
        (self._waiting if self._patient else self._lost).append(assignment)

    def poll(self) -> list[Update]:
        if self.silent:
            return []
        lost = [_update(a, failure=Failure(reason="lost", lost=True)) for a in self._lost]
        waiting, self._waiting, self._lost = self._waiting, [], []
        return lost + [self._outcome(assignment) for assignment in waiting]

    def _outcome(self, assignment: Assignment) -> Update:
        if (assignment.job_id, assignment.attempt) in self.interrupted:
            return _update(assignment, failure=Failure(reason="told to end", interrupted=True))
        return self.outcome(assignment)

    def interrupt(self, job_id: int, attempt: int) -> None:
        self.interrupted.append((job_id, attempt))

    def cancel(self, job_id: int, attempt: int) -> None:
        self.cancelled.append((job_id, attempt))
        self._waiting = [a for a in self._waiting if (a.job_id, a.attempt) != (job_id, attempt)]

    def keep_only(self, current: Collection[tuple[int, int]]) -> None:
        self._waiting = [a for a in self._waiting if (a.job_id, a.attempt) in current]

    def release(self) -> None:
        self._waiting, self._lost = [], []

    def close(self) -> None:
        self.release()


def succeed(assignment: Assignment) -> Update:
    """The result that a real job of this kind would have; wider candidates end with lower losses."""
    match assignment.spec:
        case PrepareData():
            files = DataFiles(train_file="t", validation_file="v", sequence_length=32, validation_sequences=16)
            result: JobResult = DataPrepared(data=files, training_tokens=9999, validation_tokens=999)
        case CorrectTeacher() as correct:
            result = TeacherCorrected(
                folder=f"{assignment.folder}/teacher",
                teacher_sha256="def",
                tokens=correct.training.actual_tokens(32),
                loss_before=1.5,
                loss=1.0,
                dtype="float32",
            )
        case Calibrate(shard=(number, total)):
            result = Calibrated(
                scores_file="s" if total == 1 else f"s{number}",
                samples=8 // total,
                loss=None if number else 1.0,
                dtype="float32" if number else "bfloat16",
                teacher_sha256="abc" if assignment.spec.corrected is None else "def",
            )
        case MergeScores(scores_files=files_of_shards):
            result = ScoresMerged(scores_file="+".join(files_of_shards), importance_file="i")
        case CacheTeacher() as ask:
            answers = CachedAnswers(
                folder=f"{assignment.folder}/answers",
                form=ask.form,
                per_token=ask.per_token,
                first_sequence=ask.first_sequence,
                num_sequences=ask.num_sequences,
            )
            result = TeacherCached(answers=answers, num_bytes=99, predicted_bytes=100)
        case Sweep(rates=rates) as sweep:
            # The middle one is best, and what lies further from it worse.
            losses = [SweptRate(rate=rate, loss=5 + abs(place - len(rates) // 2)) for place, rate in enumerate(rates)]
            tokens = len(rates) * sweep.trial.until_tokens
            result = Swept(rates=tuple(losses), chosen=rates[len(rates) // 2], tokens=tokens)
        case Trial() | Promotion() as spec:
            run = spec.until_tokens if isinstance(spec, Trial) else spec.training.actual_tokens(32)
            result = Trained(
                kind=spec.kind, weights=f"{assignment.folder}/w", tokens=run, dtype="float32", samples=(SAMPLE,)
            )
            size = spec.architecture.hidden_size * spec.architecture.num_hidden_layers
            first = _tokens_before(spec)
            end = 5 + (size + spec.seed) / 1000 - first / 10_000
            points = (_point(first, 9 - size / 1000), _point(first + run, end))
            return _update(assignment, result=result, measurements=points)
        case Evaluate():
            result = Evaluated(num_right=5, num_questions=10, questions_sha256="q")
        case Export():
            result = Exported(folder=f"{assignment.folder}/model", parameters=1, loss=4.5)
    return _update(assignment, result=result)


def fail(assignment: Assignment, reason: str = "it broke", *, user_error: bool = False) -> Update:
    return _update(assignment, failure=Failure(reason=reason, user_error=user_error))


def _tokens_before(spec: Trial | Promotion) -> int:
    if isinstance(spec, Promotion):
        return spec.first_tokens
    return 0 if spec.continues is None else spec.continues.tokens


def _point(tokens: int, loss: float) -> Measurement:
    return Measurement(tokens=tokens, loss=loss, kl_to_teacher=0.1, loss_per_sequence=(loss,))


def _update(assignment: Assignment, **content: object) -> Update:
    return Update.model_validate({"job_id": assignment.job_id, "attempt": assignment.attempt, **content})
