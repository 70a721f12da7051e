"""The scheduler over a real database; jobs end at once, so that every order of events can be made."""

from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from api.lifecycle import advance
from api.scheduler import FIRST_SIGN_SECONDS, Scheduler
from api.services.control import cancel
from api.services.submission import submit
from api.services.viewing import attempts, view
from api.store.database import Database
from api.store.records import SearchRecord
from api.store.store import Store
from nas.errors import ConflictError
from nas.jobs import Export, Promotion, Trial
from nas.pool import Assignment, Failure, Update
from nas.states import Intent
from nas.views import SearchView
from tests.api.instant_pool import InstantPool, Outcome, fail, succeed
from tests.conftest import tiny_spec

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
_minutes = count()


@pytest.fixture
def database(database: Database, teacher_folder: Path, text_file: Path) -> Database:
    """With one search of four candidates, submitted."""
    submit(database, tiny_spec(teacher_folder, text_file), NOW)
    return database


def scheduler(database: Database, pool: InstantPool) -> Scheduler:
    """One that comes after all others: their leases have run out."""
    born = NOW + next(_minutes) * timedelta(minutes=1)
    return Scheduler(database, pool, Path("/run"), clock=lambda: born)


def look(database: Database) -> SearchView:
    with database.reading() as session:
        return view(session, "tiny", NOW)


def run(database: Database, outcome: Outcome) -> tuple[SearchView, InstantPool]:
    pool = InstantPool(outcome)
    turns = scheduler(database, pool)
    for _ in range(40):
        if not turns.step():
            return look(database), pool
    raise AssertionError("the search did not end")


def is_second_trial(assignment: Assignment) -> bool:
    return isinstance(assignment.spec, Trial) and assignment.spec.architecture.axes == (3, 36, 32, 4, 2, 0)


def test_a_search_goes_through_all_its_jobs(database: Database) -> None:
    seen, pool = run(database, succeed)
    assert seen.state == "finished"
    kinds = [assignment.spec.kind for assignment in pool.submitted]
    assert kinds == ["prepare_data", "calibrate", *["trial"] * 4, "promotion", "export"]
    assert seen.tokens_done == seen.tokens_total == 5 * 1280
    assert [row.architecture.axes[:2] for row in seen.leaderboard] == [(2, 48), (2, 48), (3, 36), (3, 36)]
    assert [row.rank for row in seen.leaderboard] == [1, 2, 3, 4]
    assert [row.rank_after_pruning for row in seen.leaderboard] == [3, 4, 1, 2]
    assert seen.promotions[0].candidate_id == seen.leaderboard[0].candidate_id
    assert seen.promotions[0].folder == "/run/jobs/000008/attempt-1/model"


def test_jobs_are_handed_what_earlier_jobs_left(database: Database) -> None:
    seen, pool = run(database, succeed)
    specs = [assignment.spec for assignment in pool.submitted]
    trials = [spec for spec in specs if isinstance(spec, Trial)]
    assert {spec.architecture for spec in trials} == {row.architecture for row in seen.leaderboard}
    for spec in trials:
        assert (spec.scores_file, spec.until_tokens, spec.seed) == ("s", 1280, 0)
        assert spec.teacher_sha256 == "abc"
        assert spec.resources.dtype == "bfloat16", "what the calibration found, for all alike"
    promotion = next(spec for spec in specs if isinstance(spec, Promotion))
    (winner,) = [
        a for a in pool.submitted if isinstance(a.spec, Trial) and a.spec.architecture == promotion.architecture
    ]
    assert promotion.weights == f"{winner.folder}/w"
    assert promotion.first_sequence == 1280 // 32, "it goes on behind the trial's text"
    export = next(assignment.spec for assignment in pool.submitted if isinstance(assignment.spec, Export))
    assert export.weights == "/run/jobs/000007/attempt-1/w"
    assert export.provenance["parameters"] == seen.leaderboard[0].parameters
    assert seen.promotions[0].exported_loss == 4.5


def test_a_step_without_news_changes_nothing(database: Database) -> None:
    pool = InstantPool(succeed)
    turns = scheduler(database, pool)
    turns.step()
    pool._waiting = []  # The worker is still busy.
    before = look(database)
    assert turns.step()
    assert look(database) == before
    assert len(pool.submitted) == 1


def test_a_job_that_fails_is_tried_again_as_often_as_the_spec_says(database: Database) -> None:
    tries: list[int] = []

    def outcome(assignment: Assignment) -> Update:
        if not is_second_trial(assignment):
            return succeed(assignment)
        tries.append(assignment.attempt)
        assert len(assignment.earlier_folders) == assignment.attempt - 1
        return fail(assignment) if len(tries) < 3 else succeed(assignment)

    seen, _ = run(database, outcome)
    assert tries == [1, 2, 3]
    assert seen.state == "finished"
    assert all(row.rank is not None for row in seen.leaderboard)


def test_a_trial_given_up_leaves_the_ranking_and_says_why(database: Database) -> None:
    seen, pool = run(database, lambda a: fail(a, "out of memory") if is_second_trial(a) else succeed(a))
    assert seen.state == "finished"
    failed = seen.leaderboard[-1]
    assert (failed.rank, failed.state, failed.reason) == (None, "failed", "out of memory")
    assert [row.rank for row in seen.leaderboard] == [1, 2, 3, None]
    assert sum(is_second_trial(assignment) for assignment in pool.submitted) == 3


def test_a_search_fails_with_the_reason_of_its_job_and_can_be_taken_up_again(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    seen, pool = run(database, lambda a: fail(a, "data.train: is bad", user_error=True))
    assert (seen.state, seen.reason, seen.user_error) == ("failed", "data.train: is bad", True)
    assert len(pool.submitted) == 1, "what the user gave would fail again"

    submit(database, tiny_spec(teacher_folder, text_file), NOW)
    seen, _ = run(database, succeed)
    assert (seen.state, seen.reason, seen.user_error) == ("finished", None, False)


def test_a_search_that_failed_before_any_retraining_gives_way_to_a_mended_spec(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    _, old = run(database, lambda a: fail(a, "data.train: is bad", user_error=True))
    assert submit(database, tiny_spec(teacher_folder, text_file, seed=7), NOW).created
    with database.reading() as session:
        assert [search.spec.seed for search in Store(session).searches.newest_first()] == [7]
    pool = InstantPool(succeed)
    turns = scheduler(database, pool)
    while turns.step():
        pass
    assert look(database).state == "finished"
    assert not {a.folder for a in pool.submitted} & {a.folder for a in old.submitted}, "a folder is never used twice"


def test_a_search_with_retrained_candidates_does_not_give_way(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    run(database, lambda a: fail(a) if isinstance(a.spec, Promotion) else succeed(a))
    with pytest.raises(ConflictError, match="begun with another seed"):
        submit(database, tiny_spec(teacher_folder, text_file, seed=7), NOW)


def test_a_search_whose_trials_all_fail_fails(database: Database) -> None:
    seen, _ = run(database, lambda a: fail(a, "no") if isinstance(a.spec, Trial) else succeed(a))
    assert (seen.state, seen.reason) == ("failed", "every trial failed, the first with: no")


def test_the_result_of_a_stale_attempt_is_refused(database: Database) -> None:
    stale: list[Update] = []

    def outcome(assignment: Assignment) -> Update:
        if is_second_trial(assignment) and assignment.attempt == 1:
            late = succeed(assignment)
            wrong = tuple(point.model_copy(update={"loss": 0.001}) for point in late.measurements)
            stale.append(late.model_copy(update={"measurements": wrong}))
            return fail(assignment)
        twice = succeed(assignment)
        stale.append(twice)
        return twice

    pool = InstantPool(outcome)
    turns = scheduler(database, pool)
    running = True
    while running:
        running = turns.step()
        turns._unrecorded += stale  # It arrives again and again, while the second attempt runs and after.
    assert all(row.loss != 0.001 for row in look(database).leaderboard)
    assert look(database).state == "finished"


def test_a_new_scheduler_adopts_what_the_old_one_handed_out(database: Database) -> None:
    old = InstantPool(succeed)
    scheduler(database, old).step()
    new = InstantPool(succeed)
    turns = scheduler(database, new)
    turns.step()
    assert [assignment.attempt for assignment in new.adopted] == [1]
    while turns.step():
        pass
    seen = look(database)
    assert seen.state == "finished"
    assert new.submitted[0].attempt == 2, "the adopted attempt was lost, which does not count as a failure"
    assert new.submitted[0].earlier_folders == (old.submitted[0].folder,)


def test_lost_attempts_use_up_none_of_the_failures_of_a_job(database: Database) -> None:
    for _ in range(8):  # Fewer than max_losses, and more than max_failures.
        turns = scheduler(database, InstantPool(succeed))
        turns.step()  # hands out or adopts
        turns.step()  # records the loss and hands out anew, then dies
    seen, _ = run(database, succeed)
    assert seen.state == "finished"


def test_lost_attempts_do_not_bring_a_job_closer_to_being_given_up(database: Database) -> None:
    ends = iter(["lost"] * 5 + ["failed"] * 2 + ["done"])

    def outcome(assignment: Assignment) -> Update:
        if not is_second_trial(assignment):
            return succeed(assignment)
        end = next(ends)
        failed = fail(assignment)
        lost = Failure(reason="lost", lost=True)
        return (
            succeed(assignment)
            if end == "done"
            else failed.model_copy(update={"failure": lost} if end == "lost" else {})
        )

    seen, _ = run(database, outcome)
    assert all(row.rank is not None for row in seen.leaderboard)


def test_a_better_trial_that_is_tried_again_is_promoted_beside_the_one_in_its_place(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    broken = {"trial", "export"}

    def outcome(assignment: Assignment) -> Update:
        kind = assignment.spec.kind
        is_best = isinstance(assignment.spec, Trial) and assignment.spec.architecture.axes == (2, 48, 64, 4, 2, 0)
        return fail(assignment) if kind in broken and (kind == "export" or is_best) else succeed(assignment)

    seen, _ = run(database, outcome)
    assert seen.state == "failed"
    second = seen.promotions[0].candidate_id
    broken.clear()
    submit(database, tiny_spec(teacher_folder, text_file), NOW)
    seen, pool = run(database, outcome)
    assert seen.state == "finished"
    best = seen.leaderboard[0].candidate_id
    assert [promotion.candidate_id for promotion in seen.promotions] == [second, best] != [best, best]
    assert sorted(assignment.spec.kind for assignment in pool.submitted) == ["export", "export", "promotion", "trial"]


def test_what_the_store_refuses_fails_its_own_attempt_only(database: Database) -> None:
    def outcome(assignment: Assignment) -> Update:
        update = succeed(assignment)
        if not is_second_trial(assignment):
            return update
        nan = update.measurements[0].model_copy(update={"loss": float("nan")})
        return update.model_copy(update={"measurements": (nan,)})

    seen, _ = run(database, outcome)
    assert seen.state == "finished"
    assert [row.state for row in seen.leaderboard] == ["succeeded"] * 3 + ["failed"]
    assert "cannot be recorded" in str(seen.leaderboard[-1].reason)


def test_work_is_handed_out_for_as_many_cores_as_there_are(database: Database) -> None:
    pool = InstantPool(succeed, num_cpus=2)
    turns = scheduler(database, pool)
    most = 0
    while turns.step():
        most = max(most, len(pool._waiting))
    assert most == 2


def test_a_worker_that_cannot_be_started_is_a_failure_of_its_job(database: Database) -> None:
    class NoMemory(InstantPool):
        def submit(self, assignment: Assignment) -> None:
            raise OSError("cannot allocate memory")

    turns = scheduler(database, NoMemory(succeed))
    while turns.step():
        pass
    assert look(database).reason == "its worker could not be started: cannot allocate memory"


def test_updates_survive_a_step_that_fails(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = InstantPool(succeed)
    turns = scheduler(database, pool)
    turns.step()
    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "_claim", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            turns.step()
    while turns.step():
        pass
    assert look(database).state == "finished"
    assert [assignment.spec.kind for assignment in pool.submitted].count("prepare_data") == 1


def test_a_search_that_cannot_be_advanced_fails_and_holds_up_no_other(
    database: Database, teacher_folder: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(database, tiny_spec(teacher_folder, text_file, name="other"), NOW)

    def broken(store: Store, search: SearchRecord, now: datetime) -> None:
        if search.name == "tiny" and store.jobs.of_search(search.id):
            store.promotions.add(search.id, store.candidates.of_search(search.id)[0].trials[0].id, 1, now)
            raise OverflowError("too large for the database")
        advance(store, search, now)

    monkeypatch.setattr("api.scheduler.advance", broken)
    run(database, succeed)
    seen = look(database)
    assert (seen.state, seen.promotions) == ("failed", ()), "what it had begun is taken back"
    assert seen.reason == "the scheduler met a bug of its own: OverflowError: too large for the database"
    with database.reading() as session:
        assert view(session, "other").state == "finished"


def test_a_silent_attempt_is_given_up_and_tried_again(database: Database) -> None:
    now = [NOW]
    pool = InstantPool(succeed)
    turns = Scheduler(database, pool, Path("/run"), clock=lambda: now[0])
    turns.step()
    pool.silent = True
    for _ in range(FIRST_SIGN_SECONDS // 10):
        now[0] += timedelta(seconds=10)
        turns.step()
    assert not pool.cancelled, "it may take its time"
    now[0] += timedelta(seconds=10)
    turns.step()
    assert pool.cancelled == [(1, 1)]
    assert [assignment.attempt for assignment in pool.submitted] == [1, 2]
    with database.reading() as session:
        first, _ = attempts(session, "tiny")
    assert (first.state, first.reason) == ("lost", "its worker gave no sign of life until 12:10:00 UTC")


def test_after_a_machine_has_slept_its_workers_get_time_to_show_life(database: Database) -> None:
    now = [NOW]
    pool = InstantPool(succeed)
    turns = Scheduler(database, pool, Path("/run"), clock=lambda: now[0])
    turns.step()
    pool.silent = True
    now[0] += timedelta(hours=8)
    turns.step()
    assert not pool.cancelled
    pool.silent = False
    now[0] += timedelta(seconds=1)
    while turns.step():
        now[0] += timedelta(seconds=1)
    assert look(database).state == "finished"
    assert {assignment.attempt for assignment in pool.submitted} == {1}


def test_a_search_that_is_being_cancelled_can_be_taken_back(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    pool = InstantPool(succeed)
    turns = scheduler(database, pool)
    turns.step()
    cancel(database, "tiny", NOW)
    assert look(database).intent is Intent.CANCEL
    submit(database, tiny_spec(teacher_folder, text_file), NOW)
    assert look(database).intent is not Intent.CANCEL
    while turns.step():
        pass
    assert look(database).state == "finished"
    assert not pool.cancelled


def test_a_broken_promotion_waits_for_those_that_still_run(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    promotion = {**tiny_spec(teacher_folder, text_file).promotion.model_dump(), "winners": 2}
    submit(database, tiny_spec(teacher_folder, text_file, name="two", promotion=promotion), NOW)

    def outcome(assignment: Assignment) -> Update:
        first = isinstance(assignment.spec, Promotion) and assignment.spec.architecture.intermediate_size == 64
        return fail(assignment, "no", user_error=True) if first else succeed(assignment)

    run(database, outcome)
    with database.reading() as session:
        seen = view(session, "two")
    assert (seen.state, seen.reason) == ("failed", "no")
    assert sorted(promotion.state for promotion in seen.promotions) == ["failed", "finished"]
