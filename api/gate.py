"""The gate before promotion: the first of the leaderboard answer questions with the weights of their trials."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.groundwork import Groundwork
from api.store.records import CandidateRecord, JobRecord, SearchRecord
from api.store.store import Store
from nas.gate import passing
from nas.jobs import Evaluate, Evaluated, Trained
from nas.training_spec import GateSpec


@dataclass(frozen=True)
class Finalist:
    """A candidate that may be promoted, and what its first trial ended with after so many tokens."""

    candidate: CandidateRecord
    trial_id: int
    trained: Trained
    tokens: int


@dataclass(frozen=True)
class Verdict:
    """Who is to be promoted, the first first; `refusal` says why it is nobody, if the gate lets nobody through."""

    winners: Sequence[Finalist]
    refusal: str | None = None


def answers(jobs: Sequence[JobRecord]) -> dict[str, JobRecord]:
    """The jobs that put questions to candidates, by the address of the weights, with an answer or still open.

    Answers to questions that were in the file before it was changed are none.
    """
    asked = [job for job in jobs if job.kind == "evaluate"]
    newest = next((job.result for job in reversed(asked) if isinstance(job.result, Evaluated)), None)
    digest = newest.questions_sha256 if newest is not None else None
    return {
        job.spec.weights: job
        for job in asked
        if isinstance(job.spec, Evaluate)
        and not (isinstance(job.result, Evaluated) and job.result.questions_sha256 != digest)
    }


def accuracy_of(weights: str, jobs: Sequence[JobRecord]) -> float | None:
    """The share of questions that these weights have answered rightly; None if they have answered none."""
    job = answers(jobs).get(weights)
    return job.result.accuracy if job is not None and isinstance(job.result, Evaluated) else None


def judged(
    store: Store, search: SearchRecord, groundwork: Groundwork, finalists: Sequence[Finalist]
) -> tuple[Verdict | None, list[Evaluate]]:
    """Who is promoted of the first of the leaderboard, None before all of them have answered; and who is to be asked.

    Without a gate, it is the first.
    """
    promotion = search.spec.promotion
    if promotion.gate is None or not finalists:
        return Verdict(finalists[: promotion.winners]), []
    found = answers(store.jobs.but_trials(search.id))
    unasked = [each for each in finalists if each.trained.weights not in found]
    if unasked:
        return None, [_evaluate(search, groundwork, promotion.gate, each) for each in unasked]
    results = [found[each.trained.weights].result for each in finalists]
    answered = [result for result in results if isinstance(result, Evaluated)]
    if len(answered) < len(finalists):
        return None, []
    accuracies = [result.accuracy for result in answered]
    places = passing(accuracies, answered[0].num_questions, promotion.gate.min_accuracy)
    winners = [finalists[place] for place in places[: promotion.winners]]
    return Verdict(winners, None if winners else _refusal(promotion.gate, finalists, accuracies)), []


def _evaluate(search: SearchRecord, groundwork: Groundwork, gate: GateSpec, finalist: Finalist) -> Evaluate:
    spec = search.spec
    return Evaluate(
        teacher=spec.teacher,
        corrected=groundwork.corrected,
        teacher_sha256=groundwork.calibrated.teacher_sha256,
        weights=finalist.trained.weights,
        architecture=finalist.candidate.architecture,
        kept_layers=finalist.trained.kept_layers,
        questions=gate.questions,
        micro_batch_size=spec.trial.fitting_micro_batch(spec.data.sequence_length, search.teacher.vocab_size),
        resources=groundwork.resolved(spec.resources),
    )


def _refusal(gate: GateSpec, finalists: Sequence[Finalist], accuracies: Sequence[float]) -> str:
    told = ", ".join(
        f"{each.candidate.architecture.label} {accuracy:.4g}"
        for each, accuracy in zip(finalists, accuracies, strict=True)
    )
    return f"nobody is promoted: the shares of right answers are {told}, below min_accuracy {gate.min_accuracy:g}"
