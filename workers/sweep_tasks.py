"""The job that chooses a learning rate: one candidate is retrained at each of several, one after another."""

import logging
from pathlib import Path

from nas.errors import SpecError, TrainingDiverged
from nas.jobs import Sweep, Swept
from nas.training_record import SweptRate
from workers.attempt import AttemptFolder
from workers.attempt_part import AttemptPart
from workers.training_tasks import trial

logger = logging.getLogger(__name__)


def sweep(spec: Sweep, attempt: AttemptFolder) -> Swept:
    """Each run is a trial in a folder of its own. One that diverges has no loss.

    Raises SpecError if all of them do: tried again, they would do the same.
    """
    tokens_of_run = spec.trial.training.actual_tokens(spec.trial.data.sequence_length)
    found, tokens = list[SweptRate](), 0
    for number, rate in enumerate(spec.rates, start=1):
        own = spec.trial.model_copy(update={"training": spec.trial.training.at_rate(rate)})
        total = tokens + (len(spec.rates) - number + 1) * tokens_of_run
        part = AttemptPart(attempt, number, own, behind=tokens, total=total)
        try:
            trained = trial(own, part)
        except TrainingDiverged as error:
            logger.warning("at a peak learning rate of %g, %s", rate, error)
            found.append(SweptRate(rate=rate, problem=str(error)))
            tokens += part.tokens
            continue
        Path(trained.weights).unlink()  # Only its loss is wanted, and checkpoints to find it again.
        found.append(SweptRate(rate=rate, loss=part.measured[trained.tokens].loss))
        tokens += trained.tokens
    return Swept(rates=tuple(found), chosen=chosen(found), tokens=tokens)


def chosen(found: list[SweptRate]) -> float:
    losses = [(each.loss, each.rate) for each in found if each.loss is not None]
    if not losses:
        problem = f"all diverge, the last like this: {found[-1].problem}"
        raise SpecError("trial.learning_rates", [each.rate for each in found], problem, "lower rates")
    return min(losses)[1]
