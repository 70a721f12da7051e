"""Searches and promotions that are paused, stopped, cancelled, archived, deleted, or have used up what they may."""

from datetime import timedelta
from pathlib import Path

import pytest

from api.scheduler import Scheduler
from api.services import control, promotion_control
from api.services.deletion import delete
from api.services.extending import extend
from api.services.outcome import best
from api.services.submission import submit
from api.services.viewing import attempts, summaries
from api.store.database import Database
from api.store.store import Store
from nas.errors import ConflictError, NotFoundError
from nas.extension import Extension, PromotionExtension
from nas.jobs import JobProgress, Promotion
from nas.spec import SearchSpec, SpendingSpec
from nas.views import EventKind
from tests.api.instant_pool import InstantPool, fail, succeed
from tests.api.lifecycle.turns import START, HeldPool, Turns, is_training, kinds


@pytest.mark.on_both_databases
def test_a_paused_search_saves_what_runs_and_goes_on_when_it_is_resumed(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    control.pause(database, "tiny", turns.now)
    assert (turns.look().state, turns.look().intent) == ("running", "pause")
    seen = turns.until(lambda seen: seen.state == "paused")
    assert pool.interrupted == [(3, 1), (4, 1)], "each told once"
    with database.reading() as session:
        *_, last = Store(session).events.after(0, search="tiny", limit=999)
        assert last.kind is EventKind.SEARCH_PAUSED, "once nothing runs any more"
        ended = [(each.state, each.reason) for each in attempts(session, "tiny") if each.kind == "trial"]
    assert ended == [("interrupted", "told to end")] * 2
    assert {job.state for job in seen.jobs} == {"queued"}
    submitted = len(pool.submitted)
    turns.step(5)
    assert len(pool.submitted) == submitted, "nothing is started while it is paused"
    control.pause(database, "tiny", turns.now)  # Asked again, nothing changes.
    assert turns.look().state == "paused"

    control.resume(database, "tiny", turns.now)
    pool.held.clear()
    seen = turns.until(lambda seen: seen.state == "finished")
    again = [a for a in pool.submitted if a.job_id == 3][-1]
    assert (again.attempt, again.earlier_folders) == (2, ("/run/jobs/000003/attempt-1",))
    assert seen.finished_at is not None


def test_a_pause_that_nobody_hears_waits_for_the_worker_or_its_loss(database: Database) -> None:
    """The scheduler dies right after it told the workers; the next one tells them again."""
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    control.pause(database, "tiny", turns.now)
    deaf = HeldPool("trial")
    deaf.interrupt = lambda job_id, attempt: None  # type: ignore[method-assign]
    deaf._waiting, pool._waiting = pool._waiting, []
    second = Turns(database, deaf)
    second.now = turns.now + timedelta(minutes=1)
    assert second.step(20).state == "paused", "what it adopted was lost with the first"
    with database.reading() as session:
        assert {each.state for each in attempts(session, "tiny") if each.kind == "trial"} == {"lost"}


def test_a_stopped_search_starts_nothing_new_and_ends_nothing(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    control.stop(database, "tiny", turns.now)
    assert turns.step(3).state == "running", "what runs goes on"
    pool.held.clear()
    seen = turns.until(lambda seen: seen.state == "stopped")
    assert pool.interrupted == []
    assert [row.state for row in seen.leaderboard] == ["succeeded"] * 2 + ["queued"] * 2
    assert seen.promotions == ()
    control.resume(database, "tiny", turns.now)
    assert turns.until(lambda seen: seen.state == "finished").promotions


def test_a_stop_while_the_last_job_runs_ends_the_search_as_finished(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("export"))
    turns.until(lambda seen: any(job.kind == "export" for job in seen.jobs))
    turns.step()
    control.stop(database, "tiny", turns.now)
    pool.held.clear()
    assert turns.step(3).state == "finished"


def test_what_waits_can_be_cancelled_and_a_cancelled_search_goes_on(database: Database) -> None:
    turns = Turns(database, HeldPool("trial"))
    turns.until(is_training)
    control.pause(database, "tiny", turns.now)
    turns.until(lambda seen: seen.state == "paused")
    control.cancel(database, "tiny", turns.now)
    seen = turns.step(2)
    assert (seen.state, {job.state for job in seen.jobs}) == ("cancelled", {"cancelled"})
    with pytest.raises(ConflictError, match="is cancelled already; accepted: a search that is running, paused or stop"):
        control.pause(database, "tiny", turns.now)
    control.resume(database, "tiny", turns.now)
    turns.pool.held.clear()  # type: ignore[attr-defined]
    assert turns.until(lambda seen: seen.state == "finished").state == "finished"


def test_a_user_who_changes_their_mind_has_the_last_word(database: Database) -> None:
    turns = Turns(database, HeldPool("trial"))
    turns.until(is_training)
    for ask in (control.cancel, control.pause, control.stop, control.resume):
        ask(database, "tiny", turns.now)
    seen = turns.step(3)
    assert (seen.state, seen.intent, is_training(seen)) == ("running", "run", True)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"tokens": 2000}, "spending.tokens: 2,400 of 2,000 are used"),
        ({"device_hours": 0.5}, "spending.device_hours: 0."),
        ({"money": 1.0}, "spending.money: 1"),
        ({"wall_hours": 0.5}, "spending.wall_hours: 0.5"),
    ],
)
def test_a_search_that_has_used_up_what_it_may_stops(
    database: Database, spec: SearchSpec, limits: dict[str, float], reason: str
) -> None:
    content = {**spec.model_dump(), "name": "costly", "spending": limits, "hardware": {"price_per_hour": 2.0}}
    submit(database, SearchSpec.model_validate(content), START)
    control.cancel(database, "tiny", START)
    turns = Turns(database, pool := HeldPool("trial"))
    turns.step(4, seconds=60)
    pool.progress = JobProgress(done=1200, total=1280, unit="tokens")
    turns.step(10, seconds=1 if "tokens" in limits else 240)
    seen = turns.look("costly")
    assert (seen.state, seen.intent) == ("stopped", "stop")
    assert str(seen.reason).startswith(reason)
    assert {each[1] for each in pool.interrupted} == {1}, "what ran has saved its state"
    with pytest.raises(ConflictError, match="may not go on: spending"):
        control.resume(database, "costly", turns.now)
    extend(database, "costly", Extension(spending=SpendingSpec(tokens=10)), turns.now)
    assert str(turns.look("costly").reason).endswith(" of 10 are used"), "what keeps it from going on now"
    extend(database, "costly", Extension(spending=SpendingSpec(tokens=10**9)), turns.now)
    assert turns.look("costly").reason is None
    control.resume(database, "costly", turns.now)
    pool.held.clear()
    turns.step(10)
    assert turns.look("costly").state == "finished"


@pytest.mark.on_both_databases
def test_what_was_used_is_counted(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    before = turns.look().spent
    assert before.tokens == 0
    pool.progress = JobProgress(done=640, total=1280, unit="tokens")
    turns.step(4, seconds=900)
    after = turns.look().spent
    assert after.tokens == 2 * 640
    assert after.device_hours - before.device_hours == pytest.approx(2 * 1.0, abs=0.01), "two devices for an hour"
    assert after.wall_hours - before.wall_hours == pytest.approx(1.0)
    assert after.money is None


@pytest.mark.on_both_databases
def test_a_promotion_is_paused_extended_and_cancelled(database: Database, teacher_folder: Path) -> None:
    turns = Turns(database, pool := HeldPool("promotion"))
    seen = turns.until(lambda seen: any(job.kind == "promotion" and job.state == "running" for job in seen.jobs))
    (promotion,) = seen.promotions
    promotion_control.pause(database, "tiny", promotion.id, turns.now)
    seen = turns.step(3)
    assert (seen.state, seen.promotions[0].state) == ("running", "paused")
    with pytest.raises(ConflictError, match=f"promotion: {promotion.id} is paused; accepted: one that has failed"):
        promotion_control.retry(database, "tiny", promotion.id, turns.now)
    promotion_control.resume(database, "tiny", promotion.id, turns.now)
    promotion_control.extend(database, "tiny", promotion.id, PromotionExtension(tokens=128), turns.now)
    pool.held.clear()
    seen = turns.until(lambda seen: seen.state == "finished")
    assert seen.promotions[0].curve[-1].tokens == 1280 + 128
    assert kinds(pool).count("export") == 1, "what was extended before its end is exported once"
    promotion_control.extend(database, "tiny", promotion.id, PromotionExtension(tokens=256), turns.now)
    seen = turns.until(lambda seen: seen.state == "finished")
    specs = [a.spec for a in pool.submitted if isinstance(a.spec, Promotion)]
    assert [(spec.first_tokens, spec.first_sequence) for spec in specs[-2:]] == [(1280, 80), (1408, 84)]
    assert seen.promotions[0].model_id == 2, "it has ended again, in another model"
    assert seen.tokens_done == seen.tokens_total

    promotion_control.extend(database, "tiny", promotion.id, PromotionExtension(tokens=256), turns.now)
    pool.held = {"promotion"}
    turns.step(4)
    promotion_control.cancel(database, "tiny", promotion.id, turns.now)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert seen.promotions[0].state == "cancelled"
    assert seen.promotions[0].model_id == 2, "what it had ended in stays"


def test_an_archived_search_is_out_of_the_lists(database: Database) -> None:
    turns = Turns(database, InstantPool(succeed))
    with pytest.raises(ConflictError, match="tiny is running; accepted: a search that has ended, or that waits"):
        control.archive(database, "tiny", turns.now)
    turns.until(lambda seen: seen.state == "finished")
    control.archive(database, "tiny", turns.now)
    with database.reading() as session:
        assert summaries(session, limit=9, offset=0) == []
        assert [each.name for each in summaries(session, limit=9, offset=0, archived=True)] == ["tiny"]
        assert best(session, "tiny").final, "it is there all the same"
    control.archive(database, "tiny", turns.now, archived=False)
    with database.reading() as session:
        assert len(summaries(session, limit=9, offset=0)) == 1


@pytest.mark.on_both_databases
def test_a_deleted_search_is_gone_with_its_folders_and_its_name_is_free(
    database: Database, spec: SearchSpec, tmp_path: Path
) -> None:
    turns = Turns(database, pool := InstantPool(succeed))
    turns._scheduler = Scheduler(database, pool, tmp_path, clock=lambda: turns.now)
    with pytest.raises(ConflictError, match="tiny is running"):
        delete(database, "tiny", turns.now)
    turns.until(lambda seen: seen.state == "finished")
    other = tmp_path / "jobs" / "000099" / "attempt-1"
    for folder in (*(Path(a.folder) for a in pool.submitted), other):
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text("x")
    delete(database, "tiny", turns.now)
    assert list(tmp_path.rglob("log.txt")) == [other / "log.txt"]
    with pytest.raises(NotFoundError):
        turns.look()
    with database.reading() as session:
        told = Store(session).events.after(0, search="tiny", limit=999)
        assert told[-1].kind is EventKind.SEARCH_DELETED, "what happened stays on record"
    assert submit(database, spec, turns.now).created
    turns.step(20)
    assert turns.look().state == "finished"
    assert not {a.folder for a in pool.submitted[:8]} & {a.folder for a in pool.submitted[8:]}


def test_a_deletion_that_was_cut_off_goes_on_when_it_is_asked_again(database: Database, spec: SearchSpec) -> None:
    turns = Turns(database, InstantPool(succeed))
    turns.until(lambda seen: seen.state == "finished")
    with database.transaction() as session:
        store = Store(session)
        store.searches.begin_to_delete(store.searches.named("tiny").id, turns.now)
    with pytest.raises(NotFoundError):
        turns.look()
    with pytest.raises(ConflictError, match="tiny names a search that is being deleted"):
        submit(database, spec, turns.now)
    delete(database, "tiny", turns.now)
    assert submit(database, spec, turns.now).created


def test_a_stopping_search_is_held_to_its_limits(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    extend(database, "tiny", Extension(spending=SpendingSpec(device_hours=1)), turns.now)
    control.stop(database, "tiny", turns.now)
    turns.step(60, seconds=60)
    assert pool.interrupted, "what runs was ended"
    assert turns.look().reason == "spending.device_hours: 1 of 1 are used"


def test_a_search_does_without_a_promotion_that_failed(database: Database) -> None:
    turns = Turns(database, InstantPool(lambda a: fail(a) if a.spec.kind == "export" else succeed(a)))
    seen = turns.until(lambda seen: seen.state == "failed")
    assert seen.promotions[0].state == "failed"
    promotion_control.cancel(database, "tiny", seen.promotions[0].id, turns.now)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert seen.promotions[0].state == "cancelled"


def test_of_a_cancelled_search_all_goes_on_or_nothing(database: Database) -> None:
    turns = Turns(database, pool := InstantPool(succeed))
    (promotion,) = turns.until(lambda seen: seen.state == "finished").promotions
    extend(database, "tiny", Extension(seeds=1), turns.now)
    pool.silent = True
    turns.step(3)
    control.cancel(database, "tiny", turns.now)
    assert turns.step(2).state == "cancelled"
    pool.silent = False
    with pytest.raises(ConflictError, match="tiny is cancelled; accepted: one that is resumed first"):
        promotion_control.extend(database, "tiny", promotion.id, PromotionExtension(tokens=128), turns.now)
    with pytest.raises(ConflictError, match="tiny is cancelled; accepted: one that is resumed first"):
        control.retry(database, "tiny", turns.now)
    control.resume(database, "tiny", turns.now)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert [row.num_seeds for row in seen.leaderboard] == [2] * 4
    assert all(row.reason is None for row in seen.leaderboard)


def test_a_model_that_was_exported_stays_when_more_is_asked_meanwhile(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("export"))
    seen = turns.until(lambda seen: any(job.kind == "export" and job.state == "running" for job in seen.jobs))
    promotion_control.extend(database, "tiny", seen.promotions[0].id, PromotionExtension(tokens=128), turns.now)
    pool.held.clear()
    pool.outcome = lambda a: fail(a, user_error=True) if isinstance(a.spec, Promotion) else succeed(a)
    seen = turns.until(lambda seen: seen.state == "failed")
    assert (seen.promotions[0].state, seen.promotions[0].model_id) == ("failed", 1)
