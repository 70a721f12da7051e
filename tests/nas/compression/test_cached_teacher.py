"""A teacher's answers on disk: the same bits however they came to be written, and what a student learns from them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from nas.compression import answers_writer, head
from nas.compression.answers_writer import AnswersWriter
from nas.compression.cached_teacher import Answers, CachedTeacher
from nas.compression.checkpoint import load_model
from nas.compression.data import PackedTokens, write_token_file
from nas.compression.head import SplitModel
from nas.compression.losses import forward_kl
from nas.compression.teacher import LiveTeacher
from nas.distillation_spec import DistillationSpec
from nas.durable import is_full
from nas.errors import CheckpointError, Interrupted
from nas.model_folder import inspect_model_folder
from nas.teacher_answers import AnswersIdentity, CachedForm

CPU = torch.device("cpu")
LENGTH, SEQUENCES, FIRST = 16, 12, 5


@pytest.fixture
def writer(tmp_path: Path, teacher_folder: Path, tokenizer: Tokenizer, text_file: Path) -> AnswersWriter:
    write_token_file(tmp_path / "t.bin", iter([text_file.read_text()]), tokenizer, 0, max_tokens=2000)
    data = PackedTokens(tmp_path / "t.bin", LENGTH)
    return writing(data, SplitModel(load_model(inspect_model_folder(teacher_folder), CPU), torch.float32, CPU))


def writing(
    data: PackedTokens,
    teacher: SplitModel,
    form: CachedForm = "sampled",
    per_token: int = 20,
    micro_batch_size: int = 4,
) -> AnswersWriter:
    identity = AnswersIdentity(
        teacher_sha256="a",
        config_sha256="b",
        vocab_size=teacher.head.weight_VD.shape[0],
        train_sha256=data.sha256,
        validation_sha256="c",
        sequence_length=LENGTH,
        seed=7,
        first_sequence=FIRST,
        num_sequences=SEQUENCES,
        validation_sequences=3,
        form=form,
        per_token=per_token,
        temperature=1.0,
        dtype="float32",
    )
    return AnswersWriter(teacher, data, data.first(3), identity, CPU, micro_batch_size)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


@pytest.mark.parametrize("form", ["sampled", "top_k"])
def test_what_is_read_at_any_position_is_what_the_teacher_says_there(
    form: CachedForm, writer: AnswersWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the vocabulary is kept, so that the loss is the live teacher's, up to the float16 of what is stored."""
    monkeypatch.setattr(answers_writer, "_sequences_per_shard", lambda _: 5)
    every = writer.identity.vocab_size if form == "top_k" else 250
    written = writing(writer.data, writer.teacher, form, every)
    written.write(tmp_path / "answers")
    cached = CachedTeacher(Answers(tmp_path / "answers", written.identity), CPU)
    live = LiveTeacher(writer.teacher)
    assert len(list((tmp_path / "answers").glob("0*.safetensors"))) == 3, "of 5, 5 and 2 sequences"
    for first, count in ((FIRST, 1), (FIRST + 3, 4), (FIRST + 4, 8)):  # The last is in all three files.
        batch = writer.data.training_batch(first, count, seed=7)
        student = torch.randn(
            count * LENGTH, writer.identity.vocab_size, generator=torch.Generator().manual_seed(first)
        )
        rows = slice(3, count * LENGTH - 2)
        (losses, _), (exact, _) = cached.targets(batch, ()), live.targets(batch, ())
        found, by_found = losses(student[rows], rows)
        expected, by_expected = exact(student[rows], rows)
        if form == "top_k":
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
            torch.testing.assert_close(by_found, by_expected, rtol=0, atol=1e-3)
        else:
            assert (by_found - by_expected).abs().max() < 1 / 250
            assert (found - expected).abs().max() < 0.1
            assert abs((found - expected).mean().item()) < 0.01


def test_how_far_a_student_is_from_the_validation_answers(writer: AnswersWriter, tmp_path: Path) -> None:
    written = writing(writer.data, writer.teacher, per_token=250)
    written.write(tmp_path / "answers")
    cached = CachedTeacher(Answers(tmp_path / "answers", written.identity), CPU)
    batch = next(iter(list(writer.data.first(3).split(2))[1:]))
    assert batch.first == 2
    student = torch.randn(LENGTH, writer.identity.vocab_size, generator=torch.Generator().manual_seed(0))
    found = cached.divergences(batch)(student, slice(0, LENGTH))
    exact = forward_kl(student, writer.teacher.logits(batch.inputs_BT).flatten(0, 1))
    assert found.mean().item() == pytest.approx(exact.mean().item(), rel=0.01)


@pytest.mark.parametrize("form", ["sampled", "top_k"])
def test_the_bits_do_not_depend_on_batches_or_on_interruptions(
    form: CachedForm, writer: AnswersWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_writer, "_sequences_per_shard", lambda _: 5)
    written = writing(writer.data, writer.teacher, form)
    whole = written.write(tmp_path / "whole")
    files: list[int] = []
    asked = iter([*[False] * 4, True])
    with pytest.raises(Interrupted):  # In the third file; each of the first two has two micro-batches.
        written.write(tmp_path / "cut", saved=lambda: files.append(1), interrupted=lambda: next(asked))
    assert sorted(contents(tmp_path / "cut")) == ["000000.safetensors", "000001.safetensors"]
    assert len(files) == 2
    (tmp_path / "cut" / "000001.safetensors").write_bytes(b"damaged")
    again = writing(writer.data, writer.teacher, form).write(tmp_path / "again", [tmp_path / "none", tmp_path / "cut"])
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert again.shards == whole.shards
    kept, made_anew = (tmp_path / "again" / f"00000{i}.safetensors" for i in (0, 1))
    assert (kept.stat().st_nlink, made_anew.stat().st_nlink) == (2, 1)


def test_the_size_is_known_before(writer: AnswersWriter, tmp_path: Path) -> None:
    for form, tolerance in (("sampled", 0.05), ("top_k", 0.02)):
        written = writing(writer.data, writer.teacher, form)  # type: ignore[arg-type]
        manifest = written.write(tmp_path / form)
        headers = 512 * (len(manifest.shards) + 1)  # At most: of files this small they are not nothing.
        assert manifest.num_bytes == pytest.approx(manifest.predicted_bytes, rel=tolerance, abs=headers)
        assert sum(len(each) for each in contents(tmp_path / form).values()) == manifest.num_bytes


def test_a_disk_too_small_is_told_before_a_token_is_spent(
    writer: AnswersWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        free = 10

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Full)
    with pytest.raises(
        OSError, match=r"answers has 10 bytes where the teacher's answers take about [0-9,]{5,} more"
    ) as refused:
        writer.write(tmp_path / "answers")
    assert is_full(refused.value), "so it is tried again"
    assert not list((tmp_path / "answers").iterdir())


@pytest.mark.parametrize(
    "differing", [{"teacher_sha256": "z"}, {"seed": 8}, {"train_sha256": "z"}, {"temperature": 2.0}, {"per_token": 21}]
)
def test_answers_of_other_things_are_refused(
    differing: dict[str, object], writer: AnswersWriter, tmp_path: Path
) -> None:
    writer.write(tmp_path / "answers")
    name, value = next(iter(differing.items()))
    with pytest.raises(CheckpointError, match=f"answers of other things: {name} .* where {value} is wanted"):
        Answers(tmp_path / "answers", writer.identity.model_copy(update=differing))


def test_there_is_nothing_outside_of_what_was_asked(writer: AnswersWriter, tmp_path: Path) -> None:
    writer.write(tmp_path / "answers")
    answers = Answers(tmp_path / "answers", writer.identity)
    for first, count in ((FIRST - 1, 1), (FIRST + SEQUENCES - 1, 2)):
        with pytest.raises(CheckpointError, match="has 12 sequences"):
            answers.training(first, count)
    with pytest.raises(ValueError, match="no hidden states"):
        CachedTeacher(answers, CPU).targets(writer.data.training_batch(FIRST, 1, 7), [("embedding", 0)])
    (tmp_path / "answers" / "000000.safetensors").write_bytes(json.dumps({}).encode())
    with pytest.raises(CheckpointError, match="cannot be read"):
        Answers(tmp_path / "answers", writer.identity).training(FIRST, 1)


def test_chunks_of_any_size_give_the_same_draws(
    writer: AnswersWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.write(tmp_path / "whole")
    monkeypatch.setitem(head._CHUNK_BYTES, "cpu", 7 * 4 * writer.identity.vocab_size)
    writing(writer.data, writer.teacher).write(tmp_path / "chunks")
    assert contents(tmp_path / "chunks") == contents(tmp_path / "whole")


@pytest.mark.parametrize("form", ["sampled", "top_k"])
def test_at_another_temperature_the_loss_is_the_live_teachers(
    form: CachedForm, writer: AnswersWriter, tmp_path: Path
) -> None:
    every = writer.identity.vocab_size if form == "top_k" else 250
    at_one = writing(writer.data, writer.teacher, form, every)
    written = replace(at_one, identity=at_one.identity.model_copy(update={"temperature": 2.5}))
    written.write(tmp_path / "answers")
    cached = CachedTeacher(Answers(tmp_path / "answers", written.identity), CPU)
    live = LiveTeacher(writer.teacher, DistillationSpec(temperature=2.5))
    batch = writer.data.training_batch(FIRST, 2, seed=7)
    student = torch.randn(2 * LENGTH, writer.identity.vocab_size, generator=torch.Generator().manual_seed(0)) * 3
    rows = slice(0, 2 * LENGTH)
    (losses, _), (exact, _) = cached.targets(batch, ()), live.targets(batch, ())
    (found, by_found), (expected, by_expected) = losses(student, rows), exact(student, rows)
    assert found.mean().item() == pytest.approx(expected.mean().item(), rel=0.02)
    assert (by_found - by_expected).abs().max() < 1 / 250 / 2.5
    at_one.write(tmp_path / "one")
    assert (
        contents(tmp_path / "one")["validation.safetensors"] == contents(tmp_path / "answers")["validation.safetensors"]
    )


def test_room_is_asked_for_only_for_what_is_not_there(
    writer: AnswersWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.write(tmp_path / "whole")
    there = sum(len(each) for each in contents(tmp_path / "whole").values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 2000))
    assert writer.predicted_bytes() - there < 2000 < writer.predicted_bytes()
    writer.write(tmp_path / "again", [tmp_path / "whole"])
    with pytest.raises(OSError, match=r"more$"):
        writer.write(tmp_path / "alone")
