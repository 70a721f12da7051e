"""The calibration of a search: in shards that are added up, tried again alone, and all of one teacher."""

from pathlib import Path

import pytest

from api.calibration_jobs import in_options
from api.one_job import JobFailed
from api.services.control import cancel
from api.services.submission import submit
from api.store.database import Database
from nas.errors import SettingError
from nas.jobs import Calibrate, Calibrated, Export, Trial
from nas.pool import Assignment, Failure, Update
from tests.api.instant_pool import InstantPool, fail, succeed
from tests.api.test_scheduler import NOW, database, run, scheduler
from tests.conftest import tiny_spec

__all__ = ["database"]  # The fixture.


def sharded(database: Database, teacher_folder: Path, text_file: Path, num_shards: int) -> None:
    """Puts a search of that name, with a calibration in shards, in the place of the one that is there."""
    cancel(database, "tiny", NOW)
    scheduler(database, InstantPool(succeed)).step()
    calibration = {"samples": 8, "shards": num_shards, "over_sequence": "l2"}
    submit(database, tiny_spec(teacher_folder, text_file, calibration=calibration), NOW)


def test_a_calibration_runs_in_shards_that_are_added_up(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    sharded(database, teacher_folder, text_file, 3)
    seen, pool = run(database, succeed)
    assert seen.state == "finished"
    specs = [assignment.spec for assignment in pool.submitted]
    kinds = ["prepare_data", *["calibrate"] * 3, "merge_scores", *["trial"] * 4, "promotion", "export"]
    assert [spec.kind for spec in specs] == kinds
    shards = [spec for spec in specs if isinstance(spec, Calibrate)]
    assert [spec.shard for spec in shards] == [(0, 3), (1, 3), (2, 3)]
    assert {spec.depths for spec in shards} == {(3, 2)}, "as many layers as candidates have"
    trials = [spec for spec in specs if isinstance(spec, Trial)]
    assert {(spec.scores_file, spec.resources.dtype) for spec in trials} == {("s0+s1+s2", "bfloat16")}
    assert {spec.calibration.over_sequence for spec in shards} == {"l2"}
    assert {spec.calibration for spec in trials} == {shards[0].calibration}
    assert seen.teacher_loss == 1.0, "the first shard measures it"
    export = next(spec for spec in specs if isinstance(spec, Export))
    assert export.provenance["merge_scores"] == {
        "kind": "merge_scores",
        "scores_file": "s0+s1+s2",
        "importance_file": "i",
    }


def test_a_shard_that_fails_is_tried_again_alone(database: Database, teacher_folder: Path, text_file: Path) -> None:
    sharded(database, teacher_folder, text_file, 2)

    def outcome(assignment: Assignment) -> Update:
        second = isinstance(assignment.spec, Calibrate) and assignment.spec.shard == (1, 2)
        return fail(assignment) if second and assignment.attempt == 1 else succeed(assignment)

    seen, pool = run(database, outcome)
    assert seen.state == "finished"
    shards = [(each.spec.shard, each.attempt) for each in pool.submitted if isinstance(each.spec, Calibrate)]
    assert shards == [((0, 2), 1), ((1, 2), 1), ((1, 2), 2)]


def test_shards_that_found_other_weights_end_the_search(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    sharded(database, teacher_folder, text_file, 2)

    def outcome(assignment: Assignment) -> Update:
        update = succeed(assignment)
        if isinstance(update.result, Calibrated) and update.result.loss is None:
            other = update.result.model_copy(update={"teacher_sha256": "def"})
            return update.model_copy(update={"result": other})
        return update

    seen, pool = run(database, outcome)
    assert seen.state == "failed"
    assert seen.reason == (
        f"teacher: {teacher_folder} had other weights for one shard of the calibration than for another; "
        "accepted: weights that nobody changes, under another name."
    )
    assert {assignment.spec.kind for assignment in pool.submitted} == {"prepare_data", "calibrate"}


@pytest.mark.parametrize(
    ("field", "told"),
    [("known", "--into"), ("scores_file", "--scores"), ("--into", "--into"), ("data.train", "data.train")],
)
def test_a_file_of_a_job_is_told_as_the_option_that_gave_it(field: str, told: str) -> None:
    sentence = str(SettingError(field, "known: a: b", "is bad", "another"))
    failed = in_options(JobFailed(Failure(reason=sentence, user_error=True)))
    assert failed.failure == Failure(reason=f"{told}: known: a: b is bad; accepted: another.", user_error=True)


def test_a_failure_that_names_no_field_is_told_as_it_is() -> None:
    failed = in_options(JobFailed(Failure(reason="known")))
    assert str(failed) == "known"
