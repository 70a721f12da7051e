"""Token files against the tokenizer itself, and batches against the plain list of tokens."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from nas.compression.data import PackedTokens, WeightedSource, write_sources, write_token_file
from nas.compression.token_files import Encoding, ShardWriter
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


def test_a_path_may_count_from_the_current_folder(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(token_file.parent)
    assert PackedTokens(Path(token_file.name), sequence_length=8).num_sequences > 1


def test_a_file_cut_short_is_refused(token_file: Path) -> None:
    token_file.write_bytes(token_file.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match=r"tokens where its manifest says"):
        PackedTokens(token_file, sequence_length=8)


def test_a_file_shorter_than_a_sequence_is_refused(token_file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"fewer than 10001"):
        PackedTokens(token_file, sequence_length=10_000)


# --- several sources ----------------------------------------------------------------------------------------


def mixture(folder: Path, tokenizer: Tokenizer, weights: dict[str, float], documents: int) -> Path:
    """A folder of sources, each in shards of a few tokens; documents tell which source they are of."""
    for number, name in enumerate(weights):
        texts = [f"{name} = {i} + {number}\n" for i in range(documents * (number + 1))]
        documents_of = partial(iter, texts)
        ShardWriter(folder / name, documents_of, Encoding(tokenizer, 0), max_tokens=10**6, shard_tokens=50).write()
    write_sources(folder, [WeightedSource(name=name, weight=weight) for name, weight in weights.items()])
    return folder


def plain_sequences(folder: Path, length: int) -> list[tuple[int, ...]]:
    """The sequences of a source, cut out of its shards one after the other."""
    shards = sorted(folder.glob("*.bin"))
    assert len(shards) > 2
    tokens = np.concatenate([np.fromfile(shard, dtype="<u2") for shard in shards]).tolist()
    return [tuple(tokens[i * length : i * length + length]) for i in range((len(tokens) - 1) // length)]


def test_sequences_go_over_the_ends_of_shards_and_batches_hold_each_source_by_its_weight(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    folder = mixture(tmp_path / "t", tokenizer, {"a": 3, "b": 1}, documents=40)
    of = {name: plain_sequences(folder / name, 8) for name in ("a", "b")}
    packed = PackedTokens(folder, sequence_length=8)
    assert packed.num_sequences == len(of["a"]) + len(of["b"])
    assert list(map(tuple, packed.spread(10**6).inputs_BT.tolist())) == of["a"] + of["b"]
    batch = packed.training_batch(0, 1000, seed=5)
    found = list(map(tuple, batch.inputs_BT.tolist()))
    assert (sum(each in of["a"] for each in found), sum(each in of["b"] for each in found)) == (750, 250)
    assert {*found} == {*of["a"], *of["b"]}  # Short texts come again and again.
    assert torch.equal(packed.training_batch(700, 9, seed=5).inputs_BT, batch.inputs_BT[700:709])


def test_the_first_and_a_sample_hold_each_source_by_its_weight(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = mixture(tmp_path / "t", tokenizer, {"a": 3, "b": 1}, documents=40)
    of = {name: plain_sequences(folder / name, 8) for name in ("a", "b")}
    packed = PackedTokens(folder, sequence_length=8)
    assert list(map(tuple, packed.first(16).inputs_BT.tolist())) == of["a"][:12] + of["b"][:4]
    sample = list(map(tuple, packed.sample(16, seed=1).inputs_BT.tolist()))
    assert len({*sample}) == 16
    assert ({*sample[:12]} <= {*of["a"]}, {*sample[12:]} <= {*of["b"]}) == (True, True)


def test_a_batch_knows_its_place_and_so_do_its_parts(token_file: Path) -> None:
    batch = PackedTokens(token_file, sequence_length=8).training_batch(13, 5, seed=0)
    assert batch.first == batch.to(torch.device("cpu")).first == 13
    assert [(part.first, len(part.inputs_BT)) for part in batch.split(2)] == [(13, 2), (15, 2), (17, 1)]


def test_one_source_in_a_folder_reads_as_one_file(tmp_path: Path, tokenizer: Tokenizer, token_file: Path) -> None:
    ShardWriter(tmp_path / "t" / "a", lambda: iter(DOCUMENTS), Encoding(tokenizer, 0), 10**6, shard_tokens=9).write()
    write_sources(tmp_path / "t", [WeightedSource(name="a", weight=0.3)])
    one, folder = (PackedTokens(path, sequence_length=8) for path in (token_file, tmp_path / "t"))
    assert one.sha256 == folder.sha256 == json.loads(token_file.with_suffix(".json").read_text())["sha256"]
    assert torch.equal(one.training_batch(7, 90, 3).inputs_BT, folder.training_batch(7, 90, 3).inputs_BT)
    assert torch.equal(one.sample(9, 3).inputs_BT, folder.sample(9, 3).inputs_BT)


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = mixture(tmp_path / "t", tokenizer, {"a": 1}, documents=9)
    (folder / "a" / "00001.bin").unlink()
    with pytest.raises(CheckpointError, match=r"a: is not a token file of ours .*00001\.bin"):
        PackedTokens(folder, sequence_length=8)
    (folder / "sources.json").unlink()
    with pytest.raises(CheckpointError, match=r"is not a folder of ours with token files"):
        PackedTokens(folder, sequence_length=8)
