"""Text as token ids in files: shards, each whole once its manifest is there, and a manifest of all.

FOLDER/00000.bin, FOLDER/00000.json, FOLDER/00001.bin, ...   shards, each of whole documents
FOLDER/manifest.json                                         what all of them hold, written last
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from nas.border import Border
from nas.durable import beside, write_text
from nas.errors import CheckpointError
from nas.model_folder import ModelFolder

SHARD_TOKENS = 1 << 27
"""After which a shard ends with the document it is at: minutes of work, half a gigabyte at most."""

MANIFEST = "manifest.json"

_DOCUMENTS_AT_ONCE = 256
_READ_AT_ONCE = 1 << 20

logger = logging.getLogger(__name__)


class Shard(Border):
    """One file of a source's tokens; `text_sha256` is of the digests of its documents."""

    file: str
    tokens: int
    documents: int
    sha256: str
    text_sha256: str


class SourceManifest(Border):
    """What the shards of a source hold. `sha256` is of all tokens in their order, however they are divided."""

    tokens: int
    documents: int
    dtype: str
    sha256: str
    tokenizer_sha256: str
    end_of_text: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Encoding:
    """How documents become ids: each ended by `end_of_text`, once."""

    tokenizer: Tokenizer
    end_of_text: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 where the ids allow, else uint32, little-endian."""
        largest = max(self.tokenizer.get_vocab().values())
        return np.dtype("<u2") if max(largest, self.end_of_text) < 1 << 16 else np.dtype("<u4")

    def encoded(self, documents: Iterator[str]) -> Iterator[tuple[str, list[int]]]:
        """Each document with its ids, and whatever the tokenizer itself adds."""
        while texts := list(islice(documents, _DOCUMENTS_AT_ONCE)):
            for text, found in zip(texts, self.tokenizer.encode_batch(texts), strict=True):
                ids = found.ids
                yield text, ids if ids[-1:] == [self.end_of_text] else [*ids, self.end_of_text]


def load_tokenizer(folder: ModelFolder) -> Tokenizer:
    """The folder's tokenizer, which neither cuts texts short nor fills them up, whatever its file says."""
    tokenizer = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def text_digest(text: str) -> bytes:
    """What identifies a document, whichever file it stands in."""
    return hashlib.sha256(text.encode()).digest()


# --- one file -----------------------------------------------------------------------------------------------


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
    encoding = Encoding(tokenizer, end_of_text)
    return _write(path, encoding.encoded(documents), encoding, max_tokens=max_tokens, progress=progress)


def _write(
    path: Path,
    encoded: Iterator[tuple[str, list[int]]],
    encoding: Encoding,
    *,
    max_tokens: int | None,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    dtype, digest, texts = encoding.dtype, hashlib.sha256(), hashlib.sha256()
    num_tokens = num_documents = 0
    with beside(path) as partial, partial.open("wb") as out:
        for text, ids in encoded:
            raw = np.asarray(ids, dtype=dtype).tobytes()
            out.write(raw)
            digest.update(raw)
            texts.update(text_digest(text))
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
        "tokenizer_sha256": encoding.sha256,
        "end_of_text": encoding.end_of_text,
        "text_sha256": texts.hexdigest(),
    }
    write_text(path.with_suffix(".json"), json.dumps(manifest, indent=2) + "\n")
    return manifest


# --- the shards of a source ---------------------------------------------------------------------------------


@dataclass
class ShardWriter:
    """Writes the documents of one source to `folder`, as far as `max_tokens`.

    What `earlier` folders hold of the same documents, as one tokenizer and end of text encode them, is taken over
    shard by shard: the documents are read again and compared by their digests, so a shard of another text is never
    taken. `written` is called after every shard, and `progress` told the tokens so far.
    """

    folder: Path
    documents: Callable[[], Iterator[str]]
    encoding: Encoding
    max_tokens: int
    earlier: Sequence[Path] = ()
    shard_tokens: int = SHARD_TOKENS
    progress: Callable[[int], None] = lambda tokens: None
    written: Callable[[], None] = lambda: None
    _shards: list[Shard] = field(default_factory=list)

    def write(self) -> SourceManifest:
        """Returns, and writes last, the manifest."""
        self.folder.mkdir(parents=True)
        encoded = self.encoding.encoded(self._after_earlier())
        while self._num_tokens < self.max_tokens:
            limit = min(self.shard_tokens, self.max_tokens - self._num_tokens)
            file = self.folder / _name(len(self._shards))
            found = _write(file, encoded, self.encoding, max_tokens=limit, progress=self._told)
            if not found["documents"]:
                for each in (file, file.with_suffix(".json")):
                    each.unlink()
                break
            self._add(file.name, found)
            if found["tokens"] < limit:
                break
        return self._finish()

    def _told(self, tokens_of_shard: int) -> None:
        self.progress(self._num_tokens + tokens_of_shard)

    @property
    def _num_tokens(self) -> int:
        return sum(shard.tokens for shard in self._shards)

    def _add(self, name: str, found: dict[str, Any]) -> None:
        self._shards.append(Shard(file=name, **{key: found[key] for key in Shard.model_fields if key != "file"}))
        self.written()

    def _finish(self) -> SourceManifest:
        digest = hashlib.sha256()
        for shard in self._shards:
            _feed(digest, self.folder / shard.file)
        manifest = SourceManifest(
            tokens=self._num_tokens,
            documents=sum(shard.documents for shard in self._shards),
            dtype=self.encoding.dtype.str,
            sha256=digest.hexdigest(),
            tokenizer_sha256=self.encoding.sha256,
            end_of_text=self.encoding.end_of_text,
            shards=tuple(self._shards),
        )
        write_text(self.folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        return manifest

    def _after_earlier(self) -> Iterator[str]:
        """Takes over what can be; returns the documents that come after it."""
        documents = self.documents()
        while self._num_tokens < self.max_tokens:
            found = self._found_earlier(_name(len(self._shards)))
            if found is None:
                return documents
            file, manifest = found
            texts = hashlib.sha256()
            for text in islice(documents, manifest["documents"]):
                texts.update(text_digest(text))
                self.progress(self._num_tokens)
            if texts.hexdigest() != manifest["text_sha256"]:
                logger.warning("%s is of other documents than those that are there now; they are tokenised anew", file)
                return islice(self.documents(), sum(shard.documents for shard in self._shards), None)
            for each in (file, file.with_suffix(".json")):  # The manifest last: with it, a shard is whole.
                link_or_copy(each, self.folder / each.name)
            self._add(file.name, manifest)
        return documents

    def _found_earlier(self, name: str) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole shard of this name that was encoded in the same way."""
        wanted = {"tokenizer_sha256": self.encoding.sha256, "end_of_text": self.encoding.end_of_text}
        for folder in reversed(self.earlier):
            file = folder / name
            if not file.with_suffix(".json").exists():
                continue
            try:
                manifest = json.loads(file.with_suffix(".json").read_text())
                digest = hashlib.sha256()
                _feed(digest, file)
                if {**wanted, "sha256": digest.hexdigest()}.items() <= manifest.items():
                    return file, manifest
                raise CheckpointError(file, "is not what its manifest says, or is of another tokenizer")
            except (OSError, ValueError, CheckpointError) as error:
                logger.warning("a shard of an earlier attempt cannot be used: %s", error)
        return None


def _name(number: int) -> str:
    return f"{number:05d}.bin"


def link_or_copy(file: str | Path, to: str | Path) -> None:
    """A link where both are on one file system: token files are never changed. Raises OSError."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def check_shards(folder: Path) -> None:
    """Raises CheckpointError unless a source's tokens are what its manifest says; they are all read."""
    digest = hashlib.sha256()
    tokens = TokenShards(folder)
    for file in tokens.files:
        _feed(digest, file)
    if digest.hexdigest() != tokens.sha256:
        raise CheckpointError(folder, f"has SHA-256 {digest.hexdigest()} where its manifest has {tokens.sha256}")


def _feed(digest: Any, file: Path) -> None:
    with file.open("rb") as content:
        while part := content.read(_READ_AT_ONCE):
            digest.update(part)


# --- reading ------------------------------------------------------------------------------------------------


class TokenShards:
    """The tokens of one token file, or of a source's folder of shards, as if they were one array; memory-mapped."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError for what is not whole."""
        manifest = path / MANIFEST if path.is_dir() else path.with_suffix(".json")
        try:
            said = json.loads(manifest.read_text())
            files = {path: said["tokens"]}
            if path.is_dir():
                files = {path / shard["file"]: shard["tokens"] for shard in said["shards"]}
            dtype = np.dtype(said["dtype"])
            self.sha256 = str(said["sha256"])
            self._parts: list[NDArray[Any]] = [np.memmap(file, dtype=dtype, mode="r") for file in files]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(path, f"is not a token file of ours ({error})") from error
        for part, (file, tokens) in zip(self._parts, files.items(), strict=True):
            if len(part) != tokens:
                raise CheckpointError(file, f"has {len(part)} tokens where its manifest says {tokens}")
        self.files = tuple(files)
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def window(self, start: int, length: int) -> NDArray[Any]:
        """So many tokens from `start`, over the ends of shards."""
        pieces = []
        for number in range(int(np.searchsorted(self._ends, start, side="right")), len(self._parts)):
            begin = start - (int(self._ends[number]) - len(self._parts[number]))
            pieces.append(self._parts[number][begin : begin + length])
            start, length = start + len(pieces[-1]), length - len(pieces[-1])
            if not length:
                break
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
