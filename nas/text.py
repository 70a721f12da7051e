"""Reading documents of text from files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from nas.data_spec import Text
from nas.errors import DataError
from nas.hub import pinned_data_set

_HALF_PAIR = re.compile("[\ud800-\udfff]")
SUFFIXES = (".jsonl", ".txt", ".parquet")
_ACCEPTED = (
    "a .jsonl file (one JSON object per line), a .txt file (one document), a .parquet file (one row per document), a "
    "folder of such files, in UTF-8, or hf://datasets/ORG/NAME@COMMIT"
)


def text_files(path: Path, *, field: str) -> list[Path]:
    """The files that `path` names, sorted; raises DataError if there is none of a kind we read."""
    if path.is_dir():
        try:
            files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        except OSError as error:
            problem = f"cannot be looked through ({error.strerror}: {error.filename})"
            raise DataError(field, str(path), problem, _ACCEPTED) from error
        if not files:
            raise DataError(field, str(path), "holds no .jsonl, .txt or .parquet file", _ACCEPTED)
        return files
    if not path.exists():
        raise DataError(field, str(path), "does not exist", _ACCEPTED)
    if path.suffix not in SUFFIXES:
        raise DataError(field, str(path), f"has the ending {path.suffix!r}", _ACCEPTED)
    if not path.is_file():
        raise DataError(field, str(path), "is not a regular file", _ACCEPTED)
    return [path]


def read_file(file: Path, text: Text) -> Iterator[str]:
    """Every non-empty document of one .jsonl or .txt file of a text. Raises DataError naming file and line."""
    try:
        yield from _read_jsonl(file, text) if file.suffix == ".jsonl" else _read_text(file)
    except UnicodeDecodeError as error:
        raise DataError(text.field, str(file), f"is not UTF-8 (byte {error.start})", _ACCEPTED) from error
    except OSError as error:
        raise DataError(text.field, str(file), f"cannot be read ({error.strerror})", _ACCEPTED) from error


def check_text(text: Text) -> None:
    """Raises DataError for text that is not there, or whose first document cannot be read.

    What stands in .parquet files and on the Hub is not looked at; SpecError for a data set of the Hub in another form.
    """
    if pinned_data_set(text.field, text.path) is None:
        for file in text_files(Path(text.path), field=text.field):
            if file.suffix != ".parquet" and next(read_file(file, text), None) is not None:
                return


def _read_text(file: Path) -> Iterator[str]:
    if text := file.read_text(encoding="utf-8-sig"):
        yield text


def _read_jsonl(file: Path, source: Text) -> Iterator[str]:
    text_field, field = source.text_field, source.field
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            accepted = f'one JSON object per line with the text under "{text_field}" ({source.key_field})'
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
