"""`topiary prepare-data`: what it says against the text itself, and that a search takes just what it has kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.cli import main
from nas.data_spec import DataSpec
from nas.errors import DataError
from nas.jobs import DataPrepared, PrepareData
from nas.pool import Assignment, Resources
from tests.conftest import tiny_spec
from workers import data_tasks
from workers.attempt import AttemptFolder

LENGTH = 32


@pytest.fixture
def texts(text_file: Path, tmp_path: Path) -> list[str]:
    """Two files, of which the second is short."""
    lines = text_file.read_text().splitlines()
    (tmp_path / "code.jsonl").write_text("\n".join(lines[:60]))
    (tmp_path / "more.jsonl").write_text("\n".join(lines[60:68]))
    return lines


@pytest.fixture
def spec(texts: list[str], tmp_path: Path, teacher_folder: Path) -> Path:
    content = tiny_spec(teacher_folder, tmp_path).model_dump(mode="json", exclude_unset=True)
    content["data"] = {
        "sources": [{"path": "code.jsonl", "weight": 3}, {"path": "more.jsonl"}],
        "validation_sequences": 40,
        "validation_fraction": 0.3,
        "sequence_length": LENGTH,
    }
    content["trial"]["tokens"] = 64_000
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "spec.yaml"


def prepare(spec: Path, teacher: Path, into: Path, **changes: Any) -> DataPrepared:
    """What a search's job makes of the same text."""
    content = yaml.safe_load(spec.read_text())["data"]
    for source in content["sources"]:
        source["path"] = str(spec.parent / source["path"])
        source["name"] = Path(source["path"]).stem
    tokens = changes.pop("tokens", 64_000 + 1280)
    job = PrepareData(
        teacher=str(teacher), data=DataSpec.model_validate({**content, **changes}), training_tokens=tokens
    )
    into.mkdir()
    assignment = Assignment(job_id=1, attempt=1, spec=job, folder=str(into), resources=Resources(cpus=1))
    return data_tasks.prepare_data(job, AttemptFolder(assignment))


def test_it_says_what_comes_of_every_source_and_a_search_takes_just_that(
    spec: Path,
    tmp_path: Path,
    teacher_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["prepare-data", str(spec), "--into", str(tmp_path / "kept"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    fresh = prepare(spec, teacher_folder, tmp_path / "fresh")
    assert sorted(file.name for file in (tmp_path / "kept").iterdir()) == ["prepared.json", "train", "validation"]
    for source, made, share in zip(told["sources"], fresh.sources, (0.75, 0.25), strict=True):
        epochs = {"trial": source.pop("trial_epochs"), "promotion": source.pop("promotion_epochs")}
        assert source == made.model_dump()
        sequences = (made.tokens - 1) // LENGTH
        wanted = {"trial": 2000 * share / sequences, "promotion": 40 * share / sequences}
        assert epochs == pytest.approx(wanted)

    # Nothing is tokenised again: whoever tried would find no tokenizer.
    monkeypatch.setattr(data_tasks, "ShardWriter", None)
    again = prepare(spec, teacher_folder, tmp_path / "again", prepared=str(tmp_path / "kept"))
    assert again.sources == fresh.sources
    for file in (tmp_path / "fresh").rglob("*.bin"):
        assert (tmp_path / "again" / file.relative_to(tmp_path / "fresh")).read_bytes() == file.read_bytes()
    _refuses_all_else(spec, tmp_path, teacher_folder)


def _refuses_all_else(spec: Path, tmp_path: Path, teacher: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(content))
    attempts = iter(range(99))

    def problem(folder: str = "kept", teacher: Path = teacher, **changes: Any) -> str:
        with pytest.raises(DataError) as caught:
            prepare(spec, teacher, tmp_path / f"r{next(attempts)}", prepared=str(tmp_path / folder), **changes)
        assert (caught.value.field, caught.value.value) == ("data.prepared", str(tmp_path / folder))
        return caught.value.problem

    assert problem(sequence_length=16) == "was prepared with another data.sequence_length"
    assert problem(teacher=other) == "was prepared with another tokenizer"
    assert problem(tokens=10**6) == "was prepared for 65,280 tokens of training, not the 1,000,000 wanted"
    assert problem("fresh/train").startswith("holds no prepared data (")
    shard = tmp_path / "kept" / "train" / "code" / "00000.bin"
    whole = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(whole[:-2] + b"\1\0")
    assert problem().startswith("is damaged (")
    text = tmp_path / "more.jsonl"
    text.write_text(text.read_text() + "\n")
    assert problem() == f"was prepared before {text} was changed"


def test_it_tells_in_a_table_and_keeps_nothing_unless_told_to(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {*tmp_path.iterdir()}
    assert main(["prepare-data", str(spec)]) == 0
    out = capsys.readouterr().out
    assert {*tmp_path.iterdir()} == before
    rows = [line.split() for line in out.splitlines() if line.strip().startswith(("code", "more"))]
    assert [(row[0], row[1], row[-1]) for row in rows] == [("code", "75", "30"), ("more", "25", "10")]


def test_a_text_that_is_not_there_and_a_folder_that_is_are_refused(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare-data", str(spec), "--into", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"topiary: --into: {tmp_path} exists already; accepted: a folder that")
    (tmp_path / "more.jsonl").unlink()
    assert main(["prepare-data", str(spec)]) == 2
    assert capsys.readouterr().err.startswith(
        f"topiary: data.sources.1.path: {tmp_path}/more.jsonl does not exist; acc"
    )
