"""Sweeps of learning rates: each rate is a trial, one that diverges counts for nothing, and all of it resumes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nas.errors import Interrupted, SpecError
from nas.jobs import Sweep, Swept, Trial
from nas.pool import Assignment
from nas.training_record import SweptRate
from tests.contracts.conftest import assignment, following
from tests.workers.test_continuation import done
from workers.artifacts_attempt import MirroredAttempt, local_artifacts
from workers.attempt import AttemptFolder
from workers.sweep_tasks import chosen
from workers.tasks import run_job

RATES = (1e-4, 1e30, 3e-3)
"""Too low, so high that the weights overflow, and good."""


@pytest.fixture
def sweep(trial: Callable[[int], Trial]) -> Sweep:
    spec = trial(1280)
    training = spec.training.model_copy(update={"text_samples": 0, "rollbacks": 0, "measurements": 2})
    return Sweep(trial=spec.model_copy(update={"training": training}), rates=RATES)


class ToldToEnd(AttemptFolder):
    """Is told to end once it has written so many checkpoints."""

    def __init__(self, given: Assignment, after: int) -> None:
        super().__init__(given)
        self._left = after

    def checkpointed(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.tell_to_end("the test wants it")


def result_of(attempt: AttemptFolder) -> Swept:
    attempt.path.mkdir(parents=True)
    result = run_job(attempt)
    assert isinstance(result, Swept)
    return result


def test_rates_are_held_against_each_other_by_trials(sweep: Sweep, tmp_path: Path) -> None:
    attempt = AttemptFolder(assignment(sweep, tmp_path / "sweep"))
    found = result_of(attempt)
    for rate, least in ((1e-4, 4.5e-7 / 2), (3e-3, 4.5e-7 * 15)):
        training = sweep.trial.training.model_copy(update={"peak_learning_rate": rate, "min_learning_rate": least})
        _, told = done(sweep.trial.model_copy(update={"training": training}), tmp_path / f"trial-{rate}")
        (own,) = [each for each in found.rates if each.rate == rate]
        assert own.loss == told.measurements[-1].loss, "to the last bit, as a trial at this rate"
    (low, high, good) = found.rates
    assert high.loss is None
    assert "nan" in str(high.problem)
    assert low.loss is not None
    assert good.loss is not None
    assert good.loss < low.loss
    assert found.chosen == 3e-3
    assert 2 * 1280 <= found.tokens < 3 * 1280, "what diverged has not come to its end"
    news = AttemptFolder(attempt.assignment).news()
    assert news is not None
    assert not news.measurements, "they are of no trial"
    assert news.progress is not None
    assert (news.progress.done, news.progress.total) == (found.tokens, found.tokens)


def test_a_sweep_goes_on_in_the_run_that_it_was_in(sweep: Sweep, tmp_path: Path) -> None:
    whole = result_of(AttemptFolder(assignment(sweep, tmp_path / "whole")))
    first = assignment(sweep, tmp_path / "cut")
    # Each run has a checkpoint at 0 tokens, in the middle and at its end, the one that diverges none behind its start.
    cut = ToldToEnd(first, after=6)
    cut.path.mkdir(parents=True)
    with pytest.raises(Interrupted):
        run_job(cut)
    second = ToldToEnd(following(first), after=99)
    resumed = result_of(second)
    assert (resumed.rates, resumed.chosen) == (whole.rates, whole.chosen)
    left = sorted(path.relative_to(second.path).as_posix() for path in second.path.glob("run-*/checkpoints/step-*"))
    assert left == ["run-3/checkpoints/step-000000010"], "what had ended was not done again"


def test_rates_that_all_diverge_are_the_users_to_mend(sweep: Sweep, tmp_path: Path) -> None:
    attempt = AttemptFolder(assignment(sweep.model_copy(update={"rates": (1e30, 2e30)}), tmp_path))
    attempt.path.mkdir(parents=True)
    with pytest.raises(SpecError, match=r"trial\.learning_rates: \[1e\+30, 2e\+30\] all diverge, the last like this: "):
        run_job(attempt)


class InStore(MirroredAttempt):
    """Is told to end once it has mirrored so many checkpoints."""

    def __init__(self, given: Assignment, after: int) -> None:
        super().__init__(given)
        self._left = after

    def checkpointed(self) -> None:
        super().checkpointed()
        self._left -= 1
        if self._left == 0:
            self.tell_to_end("the test wants it")


def test_in_a_store_it_goes_on_from_what_was_mirrored_of_every_run(sweep: Sweep, root: str, tmp_path: Path) -> None:
    whole = result_of(AttemptFolder(assignment(sweep, tmp_path / "whole")))
    first = assignment(sweep, tmp_path).model_copy(update={"folder": f"{root}/jobs/000001/attempt-1"})
    cut = InStore(first, after=6)
    with pytest.raises(Interrupted), local_artifacts(cut):
        run_job(cut)
    changes = {"attempt": 2, "folder": f"{root}/jobs/000001/attempt-2", "earlier_folders": (first.folder,)}
    second = InStore(first.model_copy(update=changes), after=99)
    with local_artifacts(second):
        resumed = run_job(second)
        assert isinstance(resumed, Swept)
        assert (resumed.rates, resumed.chosen) == (whole.rates, whole.chosen)
        left = sorted(path.relative_to(second.path).as_posix() for path in second.path.glob("run-*/checkpoints/step-*"))
        assert left == ["run-3/checkpoints/step-000000010"]


def test_of_equal_losses_the_lower_rate_is_chosen() -> None:
    assert chosen([SweptRate(rate=3.0, loss=1.5), SweptRate(rate=2.0, loss=1.5), SweptRate(rate=1.0, loss=1.6)]) == 2.0
