"""A search that corrects its teacher first: everything after that is of the corrected one."""

from pathlib import Path

import pytest

from api.calibration_jobs import search_tokens
from api.correction import correction_seed
from api.display import SearchDisplay
from api.pages.render import search_page
from api.services.control import cancel
from api.services.submission import submit
from api.store.database import Database
from nas.errors import SpecError
from nas.jobs import CacheTeacher, Calibrate, CorrectTeacher, Export, PrepareData, Promotion, Sweep, Trial
from nas.spec import SearchSpec
from nas.training_spec import CorrectionSpec
from tests.api.instant_pool import InstantPool, succeed
from tests.api.test_scheduler import NOW, database, run, scheduler
from tests.conftest import tiny_spec

__all__ = ["database"]  # The fixture.


@pytest.fixture
def spec(teacher_folder: Path, text_file: Path) -> SearchSpec:
    """With all that reads the teacher; its correction sees more text than anything else."""
    trial = tiny_spec(teacher_folder, text_file).trial.model_dump()
    trial |= {"targets": "sampled", "learning_rates": [1e-3, 2e-3]}
    correction = {"tokens": 6400, "batch_size": 4}
    distillation: dict[str, object] = {"hidden_states": []}
    return tiny_spec(teacher_folder, text_file, trial=trial, correction=correction, distillation=distillation)


def test_all_that_comes_later_reads_the_corrected_teacher(
    database: Database, spec: SearchSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    cancel(database, "tiny", NOW)
    scheduler(database, InstantPool(succeed)).step()
    submit(database, spec, NOW)
    seen, pool = run(database, succeed)
    assert seen.state == "finished"
    specs = [assignment.spec for assignment in pool.submitted]
    first = ["prepare_data", "correct_teacher", "calibrate", "cache_teacher", "sweep", "trial"]
    assert [each.kind for each in specs[:6]] == first
    (prepare,) = [each for each in specs if isinstance(each, PrepareData)]
    assert prepare.training_tokens == search_tokens(spec) == 6400
    (correct,) = [each for each in specs if isinstance(each, CorrectTeacher)]
    assert (correct.training.warmup_steps, correct.training.peak_learning_rate) == (120, 4e-5)
    assert correct.seed == correction_seed(spec) == 2**62
    folder = next(each.folder for each in pool.submitted if each.spec is correct) + "/teacher"
    jobs = [each.trial if isinstance(each, Sweep) else each for each in specs]
    reading = [each for each in jobs if isinstance(each, Calibrate | CacheTeacher | Trial | Promotion | Export)]
    assert len(reading) == len(specs) - 2
    assert {(each.teacher, each.corrected) for each in reading} == {(spec.teacher, folder)}
    digests = {each.teacher_sha256 for each in reading if not isinstance(each, Calibrate)}
    assert digests == {"def"}, "as the calibration has found it"

    assert seen.correction is not None
    assert (seen.correction.loss_before, seen.correction.loss, seen.teacher_loss) == (1.5, 1.0, 1.0)
    assert seen.tokens_done == 7 * 1280, "of students"
    (export,) = [each for each in specs if isinstance(each, Export)]
    of_correction = export.provenance["correct_teacher"]
    assert isinstance(of_correction, dict)
    assert (of_correction["folder"], of_correction["loss_before"]) == (folder, 1.5)
    with SearchDisplay() as shown:
        shown.update(seen)
    told = "1.500 before its correction by 6,400 tokens"
    assert f"tiny: the teacher's loss is 1.000, {told}" in capsys.readouterr().err
    assert told in search_page(seen, {}).replace("&nbsp;", " ")


def test_what_is_left_out_is_what_the_follow_up_prints(teacher_folder: Path, text_file: Path) -> None:
    spec = tiny_spec(teacher_folder, text_file)
    assert spec.correction is None
    assert tiny_spec(teacher_folder, text_file, correction={}).correction == CorrectionSpec(
        tokens=100_000_000_000,
        batch_size=1152,
        peak_learning_rate=4e-5,
        min_learning_rate=4.5e-7,
        warmup_steps=120,
    )


@pytest.mark.parametrize(
    ("correction", "sentence"),
    [
        (
            {"preset": "paper"},
            r"^correction\.preset: paper is not a field of a spec; accepted: an object with",
        ),
        ({"tokens": 1e16}, r"^correction: .*comes to 1\.00e\+16 tokens, more than 1e\+15"),
        ({"tokens": 0}, r"^correction\.tokens: 0 should be greater than 0; accepted: a number of tokens"),
        (5, r"^correction: 5 is not an object; accepted: how the teacher is fine-tuned on the text"),
    ],
)
def test_anything_else_is_refused(correction: object, sentence: str, teacher_folder: Path, text_file: Path) -> None:
    with pytest.raises(SpecError, match=sentence):
        tiny_spec(teacher_folder, text_file, correction=correction)
