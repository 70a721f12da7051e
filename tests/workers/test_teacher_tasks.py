"""Trials whose teacher has left its answers: what they measure, that they resume, and what they refuse."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nas.distillation_spec import DistillationSpec
from nas.errors import CheckpointError
from nas.jobs import CacheTeacher, TeacherCached, Trial
from tests.contracts.conftest import assignment
from tests.workers.test_continuation import done
from workers.attempt import AttemptFolder
from workers.tasks import run_job


def ask_for(trial: Trial, per_token: int = 100) -> CacheTeacher:
    return CacheTeacher(
        teacher=trial.teacher,
        teacher_sha256=trial.teacher_sha256,
        data=trial.data,
        form="sampled",
        per_token=per_token,
        temperature=1.0,
        first_sequence=0,
        num_sequences=trial.training.actual_tokens(trial.data.sequence_length) // trial.data.sequence_length,
        micro_batch_size=3,
        seed=trial.seed,
        resources=trial.resources,
    )


@pytest.fixture
def live(trial: Callable[[int], Trial]) -> Trial:
    return trial(1280).model_copy(update={"distillation": DistillationSpec(hidden_states=())})


def cached(live: Trial, folder: Path) -> Trial:
    attempt = AttemptFolder(assignment(ask_for(live), folder))
    attempt.path.mkdir(parents=True)
    result = run_job(attempt)
    assert isinstance(result, TeacherCached)
    written = sum(file.stat().st_size for file in Path(result.answers.folder).glob("*.safetensors"))
    assert result.num_bytes == written
    assert result.num_bytes == pytest.approx(result.predicted_bytes, rel=0.1)
    return live.model_copy(update={"answers": result.answers})


def test_a_trial_on_cached_answers_ends_near_a_live_one_and_measures_the_same_text(live: Trial, tmp_path: Path) -> None:
    _, told = done(live, tmp_path / "live")
    spec = cached(live, tmp_path / "cache")
    trained, told_of_cached = done(spec, tmp_path / "cached")
    assert trained.samples[0].teacher, "the teacher still writes its samples"
    for one, other in zip(told.measurements, told_of_cached.measurements, strict=True):
        assert one.tokens == other.tokens
        assert other.kl_to_teacher == pytest.approx(one.kl_to_teacher, rel=0.05), "estimated without bias"
    first, last = told.measurements[0], told.measurements[-1]
    assert told_of_cached.measurements[0].loss == first.loss
    learned = first.loss - last.loss
    assert learned > 0.02
    assert told_of_cached.measurements[-1].loss == pytest.approx(last.loss, abs=0.1 * learned)

    # Cut off behind its last checkpoint, it ends with the same bits.
    shutil.copytree(Path(trained.weights).parent / "checkpoints", tmp_path / "cut" / "checkpoints")
    shutil.copyfile(Path(trained.weights).parent / "kept.safetensors", tmp_path / "cut" / "kept.safetensors")
    resumed = assignment(spec, tmp_path / "resumed").model_copy(update={"earlier_folders": (str(tmp_path / "cut"),)})
    attempt = AttemptFolder(resumed)
    attempt.path.mkdir(parents=True)
    result = run_job(attempt)
    ends = [load_file(trained.weights), load_file(result.weights)]  # type: ignore[union-attr]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_answers_to_another_order_are_refused(live: Trial, tmp_path: Path) -> None:
    spec = cached(live, tmp_path / "cache").model_copy(update={"seed": live.seed + 1})
    with pytest.raises(CheckpointError, match=f"seed {live.seed} where {live.seed + 1} is wanted"):
        done(spec, tmp_path / "trial")
