"""Preparing several sources, and going on where an earlier attempt was cut off, on a path and in a store."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from nas.compression.data import PackedTokens, write_token_file
from nas.data_spec import DataSpec
from nas.errors import DataError, Interrupted
from nas.jobs import DataPrepared, PrepareData
from nas.pool import Assignment, Resources, Update
from tests.contracts.test_artifacts_attempt import attempt_at, done
from workers import artifacts, data_tasks
from workers.attempt import AttemptFolder
from workers.data_tasks import prepare_data

LENGTH = 16


@pytest.fixture
def texts(text_file: Path) -> list[str]:
    """Different documents of some dozens of tokens."""
    text = "".join(json.loads(line)["text"] for line in text_file.read_text().splitlines()[:12])
    return [text[start : start + 100] for start in range(0, len(text), 100)]


def source(path: Path, texts: list[str], **more: object) -> dict[str, object]:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {"path": str(path), **more}


def job(teacher: Path, sources: list[dict[str, object]], tokens: int = 8000) -> PrepareData:
    content = {
        "sources": sources,
        "sequence_length": LENGTH,
        "validation_sequences": 20,
        "validation_fraction": 0.2,
    }
    return PrepareData(teacher=str(teacher), data=DataSpec.model_validate(content), training_tokens=tokens)


def attempt(spec: PrepareData, folder: Path, *earlier: Path) -> AttemptFolder:
    folder.mkdir()
    return AttemptFolder(
        Assignment(
            job_id=1,
            attempt=1,
            spec=spec,
            folder=str(folder),
            resources=Resources(cpus=1),
            earlier_folders=tuple(map(str, earlier)),
        )
    )


def documents(folder: Path, tokenizer: Tokenizer) -> list[str]:
    """What a source's shards hold, as text."""
    tokens = np.concatenate([np.fromfile(shard, dtype="<u2") for shard in sorted(folder.glob("*.bin"))])
    ends = np.flatnonzero(tokens == 0)
    return [tokenizer.decode(part[part != 0].tolist()) for part in np.split(tokens, ends)[:-1]]


def test_sources_are_prepared_by_weight_and_what_one_is_validated_on_none_is_trained_on(
    teacher_folder: Path, tmp_path: Path, texts: list[str], tokenizer: Tokenizer
) -> None:
    sources = [
        source(tmp_path / "a.jsonl", texts[:400], weight=3),
        source(tmp_path / "b.jsonl", texts[300:], name="second", validation=str(tmp_path / "v.jsonl")),
    ]
    source(tmp_path / "v.jsonl", texts[:20])
    prepared = prepare_data(job(teacher_folder, sources), attempt(job(teacher_folder, sources), tmp_path / "made"))
    held, train = (
        {name: documents(tmp_path / "made" / part / name, tokenizer) for name in ("a", "second")}
        for part in ("validation", "train")
    )
    assert {*train["a"]} <= {*texts[:400]}
    assert {*train["second"]} <= {*texts[300:]}
    assert not ({*train["a"]} | {*train["second"]}) & ({*held["a"]} | {*held["second"]})
    assert held["second"] == texts[: len(held["second"])]

    first, second = prepared.sources
    assert (first.name, first.per_block, first.validation_sequences) == ("a", 750, 15)
    assert (second.name, second.per_block, second.validation_sequences) == ("second", 250, 5)
    assert (first.documents, second.documents) == (len(train["a"]), len(train["second"]))
    assert first.tokens >= 6000 > first.tokens - 200
    assert second.tokens >= 2000 > second.tokens - 200
    assert prepared.training_tokens == first.tokens + second.tokens

    validation = PackedTokens(Path(prepared.data.validation_file), LENGTH).first(20).inputs_BT
    assert held["second"][0].startswith(tokenizer.decode(validation[15].tolist()))
    assert PackedTokens(Path(prepared.data.train_file), LENGTH).weights == (3, 1)


def test_a_source_that_has_too_little_is_named(teacher_folder: Path, tmp_path: Path, texts: list[str]) -> None:
    sources = [source(tmp_path / "a.jsonl", texts), source(tmp_path / "b.jsonl", ["a = 1"], weight=0.1)]
    with pytest.raises(
        DataError, match=r"^data\.sources\.1\.path: .*b\.jsonl leaves \d tokens .*data\.sources\.1\.validation"
    ):
        prepare_data(job(teacher_folder, sources), attempt(job(teacher_folder, sources), tmp_path / "made"))
    sources[1] = source(tmp_path / "b.jsonl", texts[:20], validation=sources[0]["path"])
    with pytest.raises(
        DataError, match=r"^data\.sources\.1\.path: .*b\.jsonl holds 0 tokens besides the validation text"
    ):
        prepare_data(job(teacher_folder, sources), attempt(job(teacher_folder, sources), tmp_path / "again"))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_tasks, "SHARD_TOKENS", 1000)


def interrupt(monkeypatch: pytest.MonkeyPatch, after_tokens: int) -> None:
    """The next attempt ends as if its process was told to, once it has come so far."""
    told = AttemptFolder.report_progress

    def ending(attempt: AttemptFolder, progress: object, **options: bool) -> None:
        told(attempt, progress, **options)  # type: ignore[arg-type]
        if progress.done > after_tokens:  # type: ignore[attr-defined]
            monkeypatch.setattr(AttemptFolder, "report_progress", told)
            raise Interrupted

    monkeypatch.setattr(AttemptFolder, "report_progress", ending)


@pytest.mark.usefixtures("small_shards")
def test_a_later_attempt_goes_on_and_makes_the_same(
    teacher_folder: Path, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(teacher_folder, [source(tmp_path / "a.jsonl", texts, weight=1), source(tmp_path / "b.jsonl", texts)])
    whole = prepare_data(spec, attempt(spec, tmp_path / "whole"))
    interrupt(monkeypatch, 6500)
    with pytest.raises(Interrupted):
        prepare_data(spec, attempt(spec, tmp_path / "1"))
    left = {file.relative_to(tmp_path / "1") for file in (tmp_path / "1" / "train").rglob("*.bin")}
    assert {str(file) for file in left} > {"train/a/00000.bin", "train/a/00003.bin", "train/b/00001.bin"}
    again = prepare_data(spec, attempt(spec, tmp_path / "2", tmp_path / "1"))
    assert again.sources == whole.sources
    assert all((tmp_path / "2" / file).samefile(tmp_path / "1" / file) for file in left)
    for file in (tmp_path / "whole").rglob("*.bin"):
        assert (tmp_path / "2" / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes()


@pytest.mark.usefixtures("small_shards")
def test_a_later_attempt_goes_on_from_a_store(
    root: str, teacher_folder: Path, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(teacher_folder, [source(tmp_path / "a.jsonl", texts)], tokens=4000)
    interrupt(monkeypatch, 2500)
    first = done(attempt_at(root, 1, spec))
    assert first.failure is not None
    assert "train/a/00001.json" in artifacts.files(f"{root}/jobs/000001/attempt-1")
    artifacts.write(f"{root}/jobs/000001/attempt-1/train/a/00001.json", b"{}")
    second = done(attempt_at(root, 1, spec, number=2))
    here = prepare_data(spec, attempt(spec, tmp_path / "here"))
    assert _prepared(second).sources == here.sources
    shard = "train/a/00002.bin"
    assert artifacts.read(f"{root}/jobs/000001/attempt-2/{shard}") == (tmp_path / "here" / shard).read_bytes()


def _prepared(update: Update) -> DataPrepared:
    assert isinstance(update.result, DataPrepared), update.failure
    return update.result


def test_records_and_files_of_before_there_were_sources_are_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_token_file(tmp_path / "train.bin", iter(["a = 1\n" * 50]), tokenizer, 0)
    files = {"train_file": str(tmp_path / "train.bin"), "validation_file": "v.bin", "sequence_length": 8}
    record = {"kind": "prepare_data", "data": {**files, "validation_sequences": 4}, "training_tokens": 9}
    prepared = DataPrepared.model_validate({**record, "validation_tokens": 9})
    assert prepared.sources == ()
    assert PackedTokens(Path(prepared.data.train_file), LENGTH).num_sequences > 5
    old = DataSpec.model_validate({"train": "/text", "validation": None, "sequence_length": 8})
    assert [(source.name, source.training.path) for source in old.all_sources] == [("train", "/text")]
