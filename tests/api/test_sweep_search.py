"""A search that chooses the learning rate of its trials: by a sweep before them, on one candidate."""

from dataclasses import replace
from pathlib import Path

import pytest

from api import words
from api.display import SearchDisplay
from api.outlook import outlook
from api.pages.render import search_page
from api.services.control import cancel, pause
from api.services.extending import extend
from api.services.submission import submit
from api.spending import tokens_used
from api.store.database import Database
from api.store.store import Store
from api.sweep import middle
from nas.errors import SpecError
from nas.extension import Extension
from nas.jobs import CacheTeacher, Export, JobProgress, Promotion, Sweep, Trial
from nas.pool import Assignment, Update
from tests.api.instant_pool import InstantPool, fail, succeed
from tests.api.test_scheduler import NOW, database, look, run, scheduler
from tests.conftest import tiny_spec

__all__ = ["database"]  # The fixture.

RATES = [1e-3, 4e-3, 2e-3]


def begin(database: Database, teacher: Path, text: Path, **trial: object) -> None:
    """Puts a search with a sweep in the place of the one that is there."""
    cancel(database, "tiny", NOW)
    scheduler(database, InstantPool(succeed)).step()
    own = tiny_spec(teacher, text).trial.model_dump() | {"learning_rates": RATES, "min_learning_rate": 3e-4} | trial
    submit(database, tiny_spec(teacher, text, trial=own, distillation={"hidden_states": []}), NOW)


@pytest.fixture
def swept(database: Database, teacher_folder: Path, text_file: Path) -> Database:
    begin(database, teacher_folder, text_file)
    return database


def test_all_trials_use_the_rate_that_was_chosen(swept: Database, capsys: pytest.CaptureFixture[str]) -> None:
    seen, pool = run(swept, succeed)
    assert seen.state == "finished"
    specs = [assignment.spec for assignment in pool.submitted]
    kinds = ["prepare_data", "calibrate", "sweep", *["trial"] * 4, "promotion", "export"]
    assert [spec.kind for spec in specs] == kinds
    (sweep,) = [spec for spec in specs if isinstance(spec, Sweep)]
    counts = sorted(row.parameters for row in seen.leaderboard)
    (tried,) = [row for row in seen.leaderboard if row.architecture == sweep.trial.architecture]
    assert tried.parameters == counts[1], "of two in the middle, the smaller"
    assert (sweep.rates, sweep.trial.until_tokens, sweep.trial.seed) == (tuple(RATES), 1280, 0)
    assert (sweep.trial.training.peak_learning_rate, sweep.trial.training.text_samples) == (3e-3, 0)
    for spec in (spec for spec in specs if isinstance(spec, Trial)):
        assert (spec.training.peak_learning_rate, spec.training.text_samples) == (4e-3, 1)
        assert spec.training.min_learning_rate == pytest.approx(4e-4), "a tenth of the peak, as in the spec"
    (promotion,) = [spec for spec in specs if isinstance(spec, Promotion)]
    assert promotion.training.peak_learning_rate == 2e-4, "it has a rate of its own"

    assert seen.sweep is not None
    assert (seen.sweep.chosen, seen.sweep.candidate_id) == (4e-3, tried.candidate_id)
    assert seen.tokens_done == seen.tokens_total == 3 * 1280 + 5 * 1280
    (export,) = [spec for spec in specs if isinstance(spec, Export)]
    assert export.provenance["sweep"] == {
        "kind": "sweep",
        "rates": [{"rate": each.rate, "loss": each.loss, "problem": None} for each in seen.sweep.rates],
        "chosen": 4e-3,
        "tokens": 3840,
    }
    told = f"0.004 of 0.001 (6.000), 0.004 (5.000), 0.002 (6.000), tried on {tried.architecture.label}"
    assert words.sweep(seen.sweep) == told
    with SearchDisplay() as shown:
        shown.update(seen)
    assert f"tiny: learning rate {told}" in capsys.readouterr().err
    page = search_page(seen, {})
    assert all(figure in page for figure in ("is the peak learning rate of all trials", "0.002&nbsp;→ 6.000"))


def test_what_is_added_later_uses_it_too(swept: Database) -> None:
    run(swept, succeed)
    extend(swept, "tiny", Extension(seeds=1, tokens=640), NOW)
    seen, pool = run(swept, succeed)
    assert seen.state == "finished"
    trials = [each.spec for each in pool.submitted if isinstance(each.spec, Trial)]
    assert len(trials) == 4 * 3
    assert {spec.training.peak_learning_rate for spec in trials} == {4e-3}
    assert not any(isinstance(each.spec, Sweep) for each in pool.submitted)


def test_it_learns_from_the_answers_that_the_trials_learn_from(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    begin(database, teacher_folder, text_file, targets="sampled")
    seen, pool = run(database, succeed)
    assert seen.state == "finished"
    specs = [assignment.spec for assignment in pool.submitted]
    assert [spec.kind for spec in specs[:4]] == ["prepare_data", "calibrate", "cache_teacher", "sweep"]
    (sweep,) = [spec for spec in specs if isinstance(spec, Sweep)]
    assert sum(isinstance(spec, CacheTeacher) for spec in specs) == 1
    assert {spec.answers for spec in specs if isinstance(spec, Trial)} == {sweep.trial.answers}
    assert sweep.trial.answers is not None


def test_a_sweep_without_a_rate_ends_the_search_with_the_reason(swept: Database) -> None:
    def outcome(assignment: Assignment) -> Update:
        if isinstance(assignment.spec, Sweep):
            return fail(assignment, "trial.learning_rates: all diverge", user_error=True)
        return succeed(assignment)

    seen, pool = run(swept, outcome)
    assert (seen.state, seen.reason, seen.user_error) == ("failed", "trial.learning_rates: all diverge", True)
    assert seen.sweep is None
    assert not any(isinstance(each.spec, Trial) for each in pool.submitted)


def test_its_tokens_are_used_while_it_runs_and_when_it_is_tried_again(swept: Database) -> None:
    progress = JobProgress(done=2000, total=3840, unit="tokens")

    def outcome(assignment: Assignment) -> Update:
        if isinstance(assignment.spec, Sweep):
            return Update(job_id=assignment.job_id, attempt=assignment.attempt, progress=progress)
        return succeed(assignment)

    turns = scheduler(swept, InstantPool(outcome))
    for _ in range(6):
        turns.step()
    with swept.reading() as session:
        assert tokens_used(Store(session), Store(session).searches.named("tiny").id) == 2000
    seen = look(swept)
    assert (seen.tokens_done, seen.tokens_total) == (2000, 8 * 1280)


def test_of_equal_candidates_the_first_is_the_middle_one(database: Database) -> None:
    with database.reading() as session:
        store = Store(session)
        first, *others = store.candidates.of_search(store.searches.named("tiny").id)
    same = [first, *(replace(each, parameters=first.parameters) for each in others)]
    assert middle(same) is first


@pytest.mark.parametrize(
    ("rates", "problem"),
    [
        ([1e-3], r"\[0\.001\] leaves nothing to choose"),
        ([1e-3, 1e-3], r"\[0\.001, 0\.001\] has the same rate twice"),
        ([1e-3, 0], "0 should be greater than 0"),
        ([n * 1e-3 for n in range(1, 11)], "should have at most 9 items"),
    ],
)
def test_rates_that_are_none_are_refused(
    rates: list[float], problem: str, teacher_folder: Path, text_file: Path
) -> None:
    with pytest.raises(
        SpecError, match=rf"^trial\.learning_rates.*{problem}.*; accepted: 2 to 9 different rates above 0"
    ):
        tiny_spec(teacher_folder, text_file, trial={"learning_rates": rates})


def test_a_sweep_that_is_paused_saves_its_state(swept: Database) -> None:
    turns = scheduler(swept, InstantPool(succeed))
    while not any(job.kind == "sweep" and job.state == "running" for job in look(swept).jobs):
        turns.step()
    pause(swept, "tiny", NOW)
    assert outlook(look(swept)) == "1 running sweep saves its state and ends"
