"""Text into token files, and token files into batches that are found again by position.

B sequences in a batch, T tokens in a sequence.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from nas.data_spec import DataSpec
from nas.durable import beside, write_text
from nas.errors import CheckpointError
from nas.model_folder import ModelFolder
from nas.text import read_documents

_DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True)
class Batch:
    """`inputs_BT` and, one token later, `targets_BT`."""

    inputs_BT: torch.Tensor
    targets_BT: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.inputs_BT.to(device), self.targets_BT.to(device))

    def split(self, size: int) -> Iterator["Batch"]:
        """Micro-batches of at most `size` sequences, in order."""
        for inputs_BT, targets_BT in zip(self.inputs_BT.split(size), self.targets_BT.split(size), strict=True):
            yield Batch(inputs_BT, targets_BT)


def load_tokenizer(folder: ModelFolder) -> Tokenizer:
    """The folder's tokenizer, which neither cuts texts short nor fills them up, whatever its file says."""
    tokenizer = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def write_token_file(
    path: Path,
    documents: Iterator[str],
    tokenizer: Tokenizer,
    end_of_text: int,
    *,
    max_tokens: int | None = None,
    progress: Callable[[int], None] = lambda tokens: None,
) -> dict[str, Any]:
    """Tokenise `documents` into one flat file, each ended by `end_of_text`; returns (and writes) its manifest.

    Stops after the document that reaches `max_tokens`. The file is uint16 where the token ids allow, else uint32,
    little-endian. The manifest is written last, so a file with a manifest is complete. `progress` is told the
    tokens written.
    """
    largest = max(tokenizer.get_vocab().values())
    dtype = np.dtype("<u2") if max(largest, end_of_text) < 1 << 16 else np.dtype("<u4")
    digest, num_tokens, num_documents = hashlib.sha256(), 0, 0
    with beside(path) as partial, partial.open("wb") as out:
        for ids in _tokenized(documents, tokenizer, end_of_text):
            raw = np.asarray(ids, dtype=dtype).tobytes()
            out.write(raw)
            digest.update(raw)
            num_tokens += len(ids)
            num_documents += 1
            progress(num_tokens)
            if max_tokens is not None and num_tokens >= max_tokens:
                break
    manifest = {
        "tokens": num_tokens,
        "documents": num_documents,
        "dtype": dtype.str,
        "sha256": digest.hexdigest(),
        "tokenizer_sha256": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
    }
    write_text(_manifest_path(path), json.dumps(manifest, indent=2) + "\n")
    return manifest


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _tokenized(documents: Iterator[str], tokenizer: Tokenizer, end_of_text: int) -> Iterator[list[int]]:
    """The ids of each document, with whatever the tokenizer itself adds, ended by `end_of_text` once."""
    while texts := list(islice(documents, _DOCUMENTS_AT_ONCE)):
        for encoding in tokenizer.encode_batch(texts):
            yield encoding.ids if encoding.ids[-1:] == [end_of_text] else [*encoding.ids, end_of_text]


class PackedTokens:
    """A token file cut into sequences of T tokens, addressed by number; memory-mapped."""

    def __init__(self, path: Path, sequence_length: int) -> None:
        try:
            self.manifest = json.loads(_manifest_path(path).read_text())
            self._tokens: NDArray[Any] = np.memmap(path, dtype=np.dtype(self.manifest["dtype"]), mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(path, f"is not a token file of ours ({error})") from error
        if len(self._tokens) != self.manifest["tokens"]:
            raise CheckpointError(
                path, f"has {len(self._tokens)} tokens where its manifest says {self.manifest['tokens']}"
            )
        self.sequence_length = sequence_length
        # A sequence needs one token more than its length, as the target of its last input.
        self.num_sequences = (len(self._tokens) - 1) // sequence_length
        # Of the epoch last asked for: a permutation of a billion sequences is not made for every batch.
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}
        if self.num_sequences < 1:
            raise CheckpointError(path, f"has {len(self._tokens)} tokens, fewer than {sequence_length + 1}")

    def sequences(self, numbers: NDArray[np.int64]) -> Batch:
        """The sequences with these numbers, in the order of `numbers`, as int64."""
        starts_B1 = numbers[:, None] * self.sequence_length
        window_BT1 = self._tokens[starts_B1 + np.arange(self.sequence_length + 1)].astype(np.int64)
        tokens_BT1 = torch.from_numpy(window_BT1)
        return Batch(tokens_BT1[:, :-1], tokens_BT1[:, 1:])

    def first(self, count: int) -> Batch:
        """The first `count` sequences of the file, or all there are."""
        return self.sequences(np.arange(min(count, self.num_sequences)))

    def spread(self, count: int) -> Batch:
        """`count` sequences (or all there are) evenly spaced over the file, so that every part of it speaks."""
        count = min(count, self.num_sequences)
        return self.sequences(np.arange(count) * self.num_sequences // count)

    def sample(self, count: int, seed: int) -> Batch:
        """`count` different sequences (or all there are) drawn at random."""
        # A stream that no epoch has: calibration must not see just what training begins with.
        return self.sequences(_generator(seed, 2**64 - 1).permutation(self.num_sequences)[:count])

    def training_batch(self, first: int, count: int, seed: int) -> Batch:
        """Positions `first` to `first + count` of the endless shuffled order that `seed` gives.

        Each epoch is a permutation of its own, so any position is found again without having walked there.
        """
        positions = np.arange(first, first + count)
        numbers = np.empty(count, dtype=np.int64)
        for epoch in np.unique(positions // self.num_sequences):
            here = positions // self.num_sequences == epoch
            numbers[here] = self._epoch_order(int(epoch), seed)[positions[here] % self.num_sequences]
        return self.sequences(numbers)

    def _epoch_order(self, epoch: int, seed: int) -> NDArray[np.int64]:
        if (epoch, seed) not in self._orders:
            self._orders = {(epoch, seed): _generator(seed, epoch).permutation(self.num_sequences)}
        return self._orders[epoch, seed]


def _generator(seed: int, stream: int) -> np.random.Generator:
    """Random numbers that follow from both alone, whichever others were drawn before."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))


def text_digest(text: str) -> bytes:
    """What identifies a document, whichever file it stands in."""
    return hashlib.sha256(text.encode()).digest()


def held_out(text: str, fraction: float) -> bool:
    """Whether a document belongs to validation; decided by its text alone, so copies stay on one side."""
    return int.from_bytes(text_digest(text)[:8], "big") < fraction * 2**64


def validation_documents(data: DataSpec, digests: set[bytes]) -> Iterator[str]:
    """The documents to validate on; adds what identifies each to `digests`, for `training_documents`."""
    if data.validation is None:
        documents = read_documents(Path(data.train), data.text_field, field="data.train")
        fraction = data.validation_fraction
    else:
        documents = read_documents(Path(data.validation), data.text_field, field="data.validation")
        fraction = 1.0
    for text in documents:
        if held_out(text, fraction):
            digests.add(text_digest(text))
            yield text


def training_documents(data: DataSpec, *, without: frozenset[bytes]) -> Iterator[str]:
    """The documents to train on: none that is held out, none whose digest is in `without`."""
    fraction = data.validation_fraction if data.validation is None else 0.0
    for text in read_documents(Path(data.train), data.text_field, field="data.train"):
        if text_digest(text) not in without and not held_out(text, fraction):
            yield text
