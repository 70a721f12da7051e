"""Tasks beyond what whole runs show: what they refuse, and what an export says of itself."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nas.compression.checkpoint import load_model, own_tensors, weights_digest, write_weights
from nas.errors import TeacherError
from nas.jobs import DataFiles, DataPrepared, Export, Exported, JobSpec, PrepareData
from nas.model_folder import inspect_model_folder
from nas.pool import Assignment, Resources
from nas.spec import ResourcesSpec
from tests.conftest import tiny_spec
from workers.attempt import AttemptFolder
from workers.tasks import run_job


def attempt(spec: JobSpec, folder: Path) -> AttemptFolder:
    folder.mkdir()
    return AttemptFolder(Assignment(job_id=1, attempt=1, spec=spec, folder=str(folder), resources=Resources(cpus=1)))


@pytest.fixture
def data(tmp_path: Path, teacher_folder: Path, text_file: Path) -> DataFiles:
    spec = PrepareData(teacher=str(teacher_folder), data=tiny_spec(teacher_folder, text_file).data, training_tokens=999)
    prepared = run_job(attempt(spec, tmp_path / "prepared"))
    assert isinstance(prepared, DataPrepared)
    return prepared.data


def export_of(teacher: Path, data: DataFiles, weights: Path) -> Export:
    folder = inspect_model_folder(teacher)
    return Export(
        teacher=str(teacher),
        teacher_sha256=weights_digest(folder),
        weights=str(weights),
        architecture=folder.architecture,
        data=data,
        micro_batch_size=4,
        resources=ResourcesSpec(dtype="float32"),
        provenance={"search": "s"},
    )


@pytest.fixture
def export(tmp_path: Path, teacher_folder: Path, data: DataFiles) -> Export:
    """Of the teacher's own weights, as a search would hand them over."""
    folder = inspect_model_folder(teacher_folder)
    write_weights(tmp_path / "weights.safetensors", own_tensors(load_model(folder, torch.device("cpu"))))
    return export_of(teacher_folder, data, tmp_path / "weights.safetensors")


def test_an_export_is_measured_as_it_is_stored(export: Export, teacher_folder: Path, tmp_path: Path) -> None:
    exported = run_job(attempt(export, tmp_path / "one"))
    assert isinstance(exported, Exported)
    assert 2 < exported.loss < 5
    provenance = json.loads((Path(exported.folder) / "provenance.json").read_text())
    assert provenance["search"] == "s"
    assert provenance["versions"]["torch"] == torch.__version__

    # The same weights a little off, by less than bfloat16 can hold: what is stored, and so its loss, is the same.
    weights = load_file(export.weights)
    save_file({name: tensor * (1 + 2**-12) for name, tensor in weights.items()}, export.weights)
    again = run_job(attempt(export, tmp_path / "two"))
    assert isinstance(again, Exported)
    assert again.loss == exported.loss


def test_a_teacher_that_changed_under_the_search_is_refused(
    teacher_folder: Path, data: DataFiles, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(teacher_folder, teacher)
    spec = export_of(teacher, data, tmp_path / "none.safetensors")
    weights = load_file(teacher / "model.safetensors")
    save_file({name: tensor * 0.5 for name, tensor in weights.items()}, teacher / "model.safetensors")
    with pytest.raises(TeacherError, match=r"has other weights than when the search began; accepted: the weights it"):
        run_job(attempt(spec, tmp_path / "export"))


def test_a_tokenizer_that_cuts_or_pads_is_not_obeyed(tmp_path: Path, teacher_folder: Path, text_file: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(teacher_folder, teacher)
    content = json.loads((teacher / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }  # fmt: skip
    (teacher / "tokenizer.json").write_text(json.dumps(content))
    found = []
    for name, folder in (("plain", teacher_folder), ("cutting", teacher)):
        spec = PrepareData(teacher=str(folder), data=tiny_spec(folder, text_file).data, training_tokens=3000)
        run_job(attempt(spec, tmp_path / name))
        found.append((tmp_path / name / "train" / "train" / "00000.bin").read_bytes())
    assert found[0] == found[1]
