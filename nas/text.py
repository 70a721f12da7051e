"""Reading documents of text from files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from nas.errors import DataError

_HALF_PAIR = re.compile("[\ud800-\udfff]")
SUFFIXES = (".jsonl", ".txt")
_ACCEPTED = "a .jsonl file (one JSON object per line), a .txt file (one document), or a folder of such files, in UTF-8"


def text_files(path: Path, *, field: str) -> list[Path]:
    """The files that `path` names, sorted; raises DataError if there is none of a kind we read."""
    if path.is_dir():
        try:
            files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        except OSError as error:
            problem = f"cannot be looked through ({error.strerror}: {error.filename})"
            raise DataError(field, str(path), problem, _ACCEPTED) from error
        if not files:
            raise DataError(field, str(path), "holds no .jsonl and no .txt file", _ACCEPTED)
        return files
    if not path.exists():
        raise DataError(field, str(path), "does not exist", _ACCEPTED)
    if path.suffix not in SUFFIXES:
        raise DataError(field, str(path), f"has the ending {path.suffix!r}", _ACCEPTED)
    if not path.is_file():
        raise DataError(field, str(path), "is not a regular file", _ACCEPTED)
    return [path]


def read_documents(path: Path, text_field: str, *, field: str) -> Iterator[str]:
    """Every non-empty document under `path`, in a stable order.

    `field` is the spec's name for the path, for the errors. Raises DataError naming file and line.
    """
    for file in text_files(path, field=field):
        try:
            yield from _read_jsonl(file, text_field, field) if file.suffix == ".jsonl" else _read_text(file)
        except UnicodeDecodeError as error:
            raise DataError(field, str(file), f"is not UTF-8 (byte {error.start})", _ACCEPTED) from error
        except OSError as error:
            raise DataError(field, str(file), f"cannot be read ({error.strerror})", _ACCEPTED) from error


def _read_text(file: Path) -> Iterator[str]:
    if text := file.read_text(encoding="utf-8-sig"):
        yield text


def _read_jsonl(file: Path, text_field: str, field: str) -> Iterator[str]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            accepted = f'one JSON object per line with the text under "{text_field}" (data.text_field)'
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(field, where, f"is not UTF-8 (byte {error.start} of the line)", _ACCEPTED) from error
            except ValueError as error:
                # The decoder would say "line 1", of the one line that it was given.
                reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                raise DataError(field, where, f"is not JSON ({reason})", accepted) from error
            text = record.get(text_field) if isinstance(record, dict) else None
            if not isinstance(text, str):
                found = _found(record, text_field)
                raise DataError(field, where, f"has no text under {text_field!r} (it has {found})", accepted)
            if _HALF_PAIR.search(text):
                raise DataError(field, where, "has half of a surrogate pair, which no tokenizer reads", accepted)
            if text:
                yield text


def _found(record: object, text_field: str) -> str:
    if not isinstance(record, dict):
        return f"a {type(record).__name__}"
    if text_field in record:
        return f"a value of type {type(record[text_field]).__name__} there"
    return ", ".join(map(repr, record)) or "no field"
