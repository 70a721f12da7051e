"""Teacher correction: what it learns, what it leaves, that it resumes, and that later jobs read what it left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from nas.calibration import CalibrationSpec
from nas.compression.checkpoint import load_model
from nas.compression.correction import TextObjective
from nas.compression.data import PackedTokens
from nas.compression.head import SplitModel
from nas.errors import Interrupted
from nas.jobs import Calibrate, Calibrated, CorrectTeacher, TeacherCorrected, Trial
from nas.model_folder import inspect_model_folder
from nas.training_spec import RunSpec
from tests.contracts.conftest import assignment, following
from tests.workers.test_continuation import done
from tests.workers.test_sweep_tasks import ToldToEnd
from workers.attempt import AttemptFolder
from workers.tasks import run_job

TRAINING = RunSpec(tokens=2560, batch_size=4, peak_learning_rate=3e-3, warmup_steps=2, measurements=2)


@pytest.fixture
def correct(trial: Callable[[int], Trial]) -> CorrectTeacher:
    like = trial(1280)
    return CorrectTeacher(teacher=like.teacher, data=like.data, training=TRAINING, seed=9, resources=like.resources)


def corrected(attempt: AttemptFolder) -> TeacherCorrected:
    attempt.path.mkdir(parents=True)
    result = run_job(attempt)
    assert isinstance(result, TeacherCorrected)
    return result


def test_the_gradient_is_that_of_the_cross_entropy(correct: CorrectTeacher) -> None:
    batch = PackedTokens(Path(correct.data.train_file), correct.data.sequence_length).first(3)
    model: Any = load_model(inspect_model_folder(Path(correct.teacher)), torch.device("cpu"))
    loss = TextObjective(SplitModel(model, torch.float32, torch.device("cpu")))(batch).loss
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    logits_BTV = model(batch.inputs_BT).logits
    expected = F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), reduction="sum")
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, rtol=1e-4, atol=1e-4 * parameter.grad.abs().max()), name


def test_later_jobs_read_the_corrected_teacher(
    correct: CorrectTeacher, trial: Callable[[int], Trial], tmp_path: Path
) -> None:
    attempt = AttemptFolder(assignment(correct, tmp_path / "correct"))
    found = corrected(attempt)
    assert found.tokens == 2560
    assert found.loss < found.loss_before - 0.02
    news = AttemptFolder(attempt.assignment).news()
    assert news is not None
    assert not news.measurements, "they are of no trial"
    before, after = inspect_model_folder(Path(correct.teacher)), inspect_model_folder(Path(found.folder))
    assert (after.architecture, after.dtype, after.end_of_text) == (before.architecture, "bfloat16", before.end_of_text)
    # As plain transformers reads it.
    model: Any = AutoModelForCausalLM.from_pretrained(found.folder, dtype=torch.float32)
    held = PackedTokens(Path(correct.data.validation_file), 32).first(correct.data.validation_sequences)
    with torch.no_grad():
        plain = F.cross_entropy(model(held.inputs_BT).logits.flatten(0, 1), held.targets_BT.flatten()).item()
    assert plain == pytest.approx(found.loss, abs=0.01), "but for its rounding to bfloat16"

    calibrate = Calibrate(
        teacher=correct.teacher,
        corrected=found.folder,
        data=correct.data,
        calibration=CalibrationSpec(samples=4),
        micro_batch_size=4,
        seed=0,
        resources=correct.resources,
    )
    scoring = AttemptFolder(assignment(calibrate, tmp_path / "calibrate"))
    scoring.path.mkdir(parents=True)
    calibrated = run_job(scoring)
    assert isinstance(calibrated, Calibrated)
    assert calibrated.loss == pytest.approx(plain, rel=1e-5)
    assert calibrated.teacher_sha256 == found.teacher_sha256

    changes = {
        "corrected": found.folder,
        "teacher_sha256": found.teacher_sha256,
        "scores_file": calibrated.scores_file,
        "architecture": before.architecture,
    }
    _, told = done(trial(128).model_copy(update=changes), tmp_path / "trial")
    uncut = told.measurements[0]
    assert uncut.loss == pytest.approx(plain, rel=1e-5), "cut out of the corrected teacher"
    assert uncut.kl_to_teacher == pytest.approx(0, abs=1e-6), "and held against it"


def test_it_goes_on_from_its_newest_checkpoint(correct: CorrectTeacher, tmp_path: Path) -> None:
    whole = corrected(AttemptFolder(assignment(correct, tmp_path / "whole")))
    first = assignment(correct, tmp_path / "cut")
    cut = ToldToEnd(first, after=2)
    cut.path.mkdir(parents=True)
    with pytest.raises(Interrupted):
        run_job(cut)
    resumed = corrected(AttemptFolder(following(first)))
    assert resumed == whole.model_copy(update={"folder": resumed.folder}), "the same bits, and what was before"
    ends = [load_file(Path(each.folder) / "model.safetensors") for each in (whole, resumed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
