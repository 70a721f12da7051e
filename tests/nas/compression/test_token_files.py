"""Shards against one file of the same text, and what a later attempt takes over of an earlier one."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from nas.compression.token_files import Encoding, ShardWriter, SourceManifest, TokenShards, write_token_file

TEXTS = [f"x{i} = {i}\n" * (1 + i % 3) for i in range(700)]  # More than the tokenizer is given at once.


class Counting:
    """A tokenizer's encoding that counts the documents it is given."""

    def __init__(self, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_encoded = 0
        encoded = Encoding.encoded

        def counted(encoding: Encoding, documents: object) -> object:
            for each in encoded(encoding, documents):  # type: ignore[arg-type]
                self.num_encoded += 1
                yield each

        monkeypatch.setattr(Encoding, "encoded", counted)
        self.encoding = Encoding(tokenizer, 0)


def written(folder: Path, tokenizer: Tokenizer, *, texts: list[str] = TEXTS, **changes: object) -> SourceManifest:
    limits = {"max_tokens": 10**6, "shard_tokens": 1000, **changes}
    return ShardWriter(folder, lambda: iter(texts), Encoding(tokenizer, 0), **limits).write()  # type: ignore[arg-type]


def test_shards_hold_what_one_file_holds(tmp_path: Path, tokenizer: Tokenizer) -> None:
    whole = write_token_file(tmp_path / "one.bin", iter(TEXTS), tokenizer, 0)
    manifest = written(tmp_path / "shards", tokenizer)
    assert (manifest.tokens, manifest.documents, manifest.sha256) == (whole["tokens"], 700, whole["sha256"])
    assert len(manifest.shards) > 3
    assert all(1000 <= shard.tokens < 1100 for shard in manifest.shards[:-1])
    plain = np.fromfile(tmp_path / "one.bin", dtype="<u2")
    tokens = TokenShards(tmp_path / "shards")
    assert len(tokens) == len(plain)
    for start, length in ((0, 9), (995, 20), (0, len(plain)), (len(plain) - 3, 3), (900, 2500)):
        assert tokens.window(start, length).tolist() == plain[start : start + length].tolist()


def test_a_text_that_ends_with_a_shard_leaves_no_empty_one(tmp_path: Path, tokenizer: Tokenizer) -> None:
    total = written(tmp_path / "a", tokenizer).tokens
    assert [shard.tokens for shard in written(tmp_path / "b", tokenizer, shard_tokens=total).shards] == [total]
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == ["00000.bin", "00000.json", "manifest.json"]


class Stopped(Exception):
    pass


def interrupted(folder: Path, tokenizer: Tokenizer, at_tokens: int) -> None:
    def stop(tokens: int) -> None:
        if tokens > at_tokens:
            raise Stopped

    with pytest.raises(Stopped):
        written(folder, tokenizer, progress=stop)


def test_a_later_attempt_goes_on_from_the_last_whole_shard(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = written(tmp_path / "whole", tokenizer)
    interrupted(tmp_path / "1", tokenizer, 1500)
    interrupted(tmp_path / "2", tokenizer, 500)
    assert not list((tmp_path / "2").glob("*.bin"))
    counting = Counting(tokenizer, monkeypatch)
    again = written(tmp_path / "3", tokenizer, earlier=[tmp_path / "1", tmp_path / "2"])
    assert again == whole
    assert counting.num_encoded == 700 - whole.shards[0].documents
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "3" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("damage", ["text", "tokens", "tokenizer", "manifest"])
def test_what_an_earlier_attempt_left_is_taken_only_if_it_is_the_same(
    tmp_path: Path, tokenizer: Tokenizer, damage: str
) -> None:
    interrupted(tmp_path / "1", tokenizer, 2500)
    texts, shard = list(TEXTS), tmp_path / "1" / "00001.bin"
    match damage:
        case "text":
            texts[json.loads((tmp_path / "1" / "00000.json").read_text())["documents"]] += "changed"
        case "tokens":
            shard.write_bytes(shard.read_bytes()[:-2] + b"\1\0")
        case "tokenizer":
            said = json.loads(shard.with_suffix(".json").read_text())
            shard.with_suffix(".json").write_text(json.dumps({**said, "tokenizer_sha256": "0"}))
        case "manifest":
            shard.with_suffix(".json").write_text("{")
    again = written(tmp_path / "2", tokenizer, texts=texts, earlier=[tmp_path / "1"])
    assert again == written(tmp_path / "fresh", tokenizer, texts=texts)
    assert (tmp_path / "2" / "00000.bin").samefile(tmp_path / "1" / "00000.bin")
    assert not (tmp_path / "2" / "00001.bin").samefile(shard)
