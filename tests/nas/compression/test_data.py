"""Token files against the tokenizer itself, and batches against the plain list of tokens."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from nas.compression.data import (
    PackedTokens,
    held_out,
    training_documents,
    validation_documents,
    write_token_file,
)
from nas.data_spec import DataSpec
from nas.errors import CheckpointError

DOCUMENTS = ["def f(x):\n    return x\n", "", "class A:\n    pass\n", "x = 'ä'\n" * 30]


@pytest.fixture
def token_file(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    path = tmp_path / "tokens.bin"
    write_token_file(path, iter(DOCUMENTS), tokenizer, 0)
    return path


def plain_tokens(tokenizer: Tokenizer) -> list[int]:
    return [token for text in DOCUMENTS for token in [*tokenizer.encode(text).ids, 0]]


def test_file_holds_every_document_ended_once(token_file: Path, tokenizer: Tokenizer) -> None:
    assert np.fromfile(token_file, dtype="<u2").tolist() == plain_tokens(tokenizer)
    manifest = json.loads(token_file.with_suffix(".json").read_text())
    assert manifest["tokens"] == len(plain_tokens(tokenizer))
    assert manifest["documents"] == 4


def test_a_tokenizer_that_ends_texts_itself_is_not_doubled(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = "a = 1<|endoftext|>"
    assert tokenizer.encode(text).ids[-1] == 0
    write_token_file(tmp_path / "tokens.bin", iter([text]), tokenizer, 0)
    assert np.fromfile(tmp_path / "tokens.bin", dtype="<u2").tolist() == tokenizer.encode(text).ids


def test_writing_stops_with_the_document_that_reaches_the_limit(tmp_path: Path, tokenizer: Tokenizer) -> None:
    first = len(tokenizer.encode(DOCUMENTS[0]).ids) + 1
    manifest = write_token_file(tmp_path / "t.bin", iter(DOCUMENTS), tokenizer, 0, max_tokens=first + 2)
    assert manifest["documents"] == 3


def test_sequences_are_windows_with_the_next_token_as_target(token_file: Path, tokenizer: Tokenizer) -> None:
    tokens = plain_tokens(tokenizer)
    packed = PackedTokens(token_file, sequence_length=8)
    assert packed.num_sequences == (len(tokens) - 1) // 8
    batch = packed.first(packed.num_sequences)
    for i in range(packed.num_sequences):
        assert batch.inputs_BT[i].tolist() == tokens[i * 8 : i * 8 + 8]
        assert batch.targets_BT[i].tolist() == tokens[i * 8 + 1 : i * 8 + 9]


def test_every_epoch_visits_every_sequence_once_in_an_order_of_its_own(token_file: Path) -> None:
    packed = PackedTokens(token_file, sequence_length=8)
    count = packed.num_sequences
    everything = sorted(map(tuple, packed.first(count).inputs_BT.tolist()))
    epochs = [packed.training_batch(epoch * count, count, seed=1).inputs_BT.tolist() for epoch in range(2)]
    assert sorted(map(tuple, epochs[0])) == sorted(map(tuple, epochs[1])) == everything
    assert epochs[0] != epochs[1]
    assert epochs[0] != packed.training_batch(0, count, seed=2).inputs_BT.tolist()


def test_a_position_is_the_same_whichever_batches_led_to_it(token_file: Path) -> None:
    one_walk = PackedTokens(token_file, sequence_length=8)
    walked = torch.cat([one_walk.training_batch(i, 1, seed=4).inputs_BT for i in range(40)])
    jumped = PackedTokens(token_file, sequence_length=8).training_batch(13, 27, seed=4).inputs_BT
    assert torch.equal(walked[13:], jumped)


def test_calibration_does_not_draw_what_training_begins_with(token_file: Path) -> None:
    packed = PackedTokens(token_file, sequence_length=8)
    count = packed.num_sequences
    drawn = packed.sample(count, seed=3).inputs_BT
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, packed.first(count).inputs_BT.tolist()))
    assert not torch.equal(drawn, packed.training_batch(0, count, seed=3).inputs_BT)


def test_a_file_cut_short_is_refused(token_file: Path) -> None:
    token_file.write_bytes(token_file.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match=r"tokens where its manifest says"):
        PackedTokens(token_file, sequence_length=8)


def test_a_file_shorter_than_a_sequence_is_refused(token_file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"fewer than 10001"):
        PackedTokens(token_file, sequence_length=10_000)


def write_jsonl(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_no_validation_text_enters_training(tmp_path: Path) -> None:
    shared, own = [f"shared {i}" for i in range(5)], [f"own {i}" for i in range(5)]
    data = DataSpec(
        train=write_jsonl(tmp_path / "train.jsonl", own + shared), validation=write_jsonl(tmp_path / "v.jsonl", shared)
    )
    digests: set[bytes] = set()
    assert list(validation_documents(data, digests)) == shared
    assert list(training_documents(data, without=frozenset(digests))) == own


def test_held_out_documents_are_split_by_their_text(tmp_path: Path) -> None:
    texts = [f"document {i}" for i in range(400)]
    data = DataSpec(train=write_jsonl(tmp_path / "train.jsonl", texts + texts), validation_fraction=0.25)
    digests: set[bytes] = set()
    validation = set(validation_documents(data, digests))
    training = set(training_documents(data, without=frozenset(digests)))
    assert validation | training == set(texts)
    assert not validation & training
    assert 70 <= len(validation) <= 130  # 100 expected; 3.5 standard deviations either way
    assert all(held_out(text, 0.25) for text in validation)
