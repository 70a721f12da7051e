"""Documents of the texts that a spec names, and which of them are validated on. The only file that knows `datasets`.

The library is imported within functions: that takes a second. It reads parquet files and data sets of the Hub, as
streams, and runs no code of a data set; .jsonl and .txt files are read without it.
"""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from nas.compression.token_files import text_digest
from nas.data_spec import DataSpec, Source, Text
from nas.errors import DataError, ServiceError
from nas.hub import Pinned, check_data_set, pinned_data_set
from nas.text import read_file, text_files

_PARQUET = "whole .parquet files with a column of text"


def read_documents(text: Text) -> Iterator[str]:
    """Every non-empty document, in a stable order; a row without text is none.

    Raises DataError naming the field, and of a file its place. Raises ServiceError while the Hub is out of reach: that
    may pass, so a worker's job is tried again.
    """
    if (source := pinned_data_set(text.field, text.path)) is not None:
        yield from _on_hub(source, text)
        return
    for file in text_files(Path(text.path), field=text.field):
        yield from _in_parquet(file, text) if file.suffix == ".parquet" else read_file(file, text)


def validation_documents(source: Source, fraction: float, digests: set[bytes]) -> Iterator[str]:
    """The documents to validate on, of a text without its own a `fraction`; adds to `digests` what identifies each."""
    for text in read_documents(source.validation or source.training):
        if source.validation is not None or held_out(text, fraction):
            digests.add(text_digest(text))
            yield text


def training_documents(source: Source, data: DataSpec, *, without: frozenset[bytes]) -> Iterator[str]:
    """The documents to train on: none that is held out of this text, none whose digest is in `without`.

    With the digests of the validation documents of all sources, no document of any is trained on.
    """
    fraction = data.validation_fraction if source.validation is None else 0.0
    for text in read_documents(source.training):
        if text_digest(text) not in without and not held_out(text, fraction):
            yield text


def held_out(text: str, fraction: float) -> bool:
    """Whether a document belongs to validation; decided by its text alone, so copies stay on one side."""
    return int.from_bytes(text_digest(text)[:8], "big") < fraction * 2**64


# --- through the library ------------------------------------------------------------------------------------


def _in_parquet(file: Path, text: Text) -> Iterator[str]:
    import pyarrow.parquet as pq
    from datasets import load_dataset_builder

    _prepare()
    try:
        builder = load_dataset_builder("parquet", data_files=[glob.escape(str(file))])
        if pq.ParquetFile(file).metadata.num_rows:  # The library's own reader stumbles over none.
            yield from _rows(builder, "train", str(file), text)
    except (ValueError, OSError) as error:  # Arrow's are among them.
        raise DataError(text.field, str(file), f"cannot be read ({_first_line(error)})", _PARQUET) from error


def _on_hub(source: Pinned, text: Text) -> Iterator[str]:
    from datasets import load_dataset_builder

    check_data_set(text.field, source)
    _prepare()
    with _explained(text):
        builder = load_dataset_builder(source.repository, name=text.config, revision=source.commit)
        if builder.hash != source.commit:  # Where the Hub does not answer, the library takes any commit it has.
            raise ConnectionError(f"only the commit {builder.hash} is there")
        yield from _rows(builder, text.split, text.path, text)


def _rows(builder: Any, split: str, where: str, text: Text) -> Iterator[str]:
    """The texts of a split; of parquet files only their column is read. Raises DataError where there is none."""
    rows = builder.as_streaming_dataset(split=split)
    if rows.features is not None:
        _check_column(dict(rows.features), where, text)
        if hasattr(builder.config, "columns"):
            builder.config.columns = [text.text_field]
            rows = builder.as_streaming_dataset(split=split)
    for number, row in enumerate(rows, start=1):
        found = row.get(text.text_field, 0)
        if isinstance(found, str) and found:
            yield found
        elif found:
            _check_column({name: type(value).__name__ for name, value in row.items()}, f"{where}, row {number}", text)


def _check_column(columns: dict[str, Any], where: str, text: Text) -> None:
    accepted = f'rows with the text in a column "{text.text_field}" ({text.key_field})'
    if text.text_field not in columns:
        there = ", ".join(map(repr, columns)) or "none"
        raise DataError(text.field, where, f"has no column {text.text_field!r} (it has {there})", accepted)
    kind = columns[text.text_field]
    dtype = getattr(kind, "dtype", kind)
    if dtype not in ("string", "large_string", "str"):
        raise DataError(text.field, where, f"has no text in its column {text.text_field!r}, but {dtype}", accepted)


def _prepare() -> None:
    """Sees to it that the library draws no bars over our progress, and tells nobody what is read."""
    from datasets import config, disable_progress_bars, logging

    config.HF_UPDATE_DOWNLOAD_COUNTS = False
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)


@contextmanager
def _explained(text: Text) -> Iterator[None]:
    """Turns what the library raises into DataError, or ServiceError where asking again may help."""
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DatasetsError, EmptyDatasetError, ValueError, RuntimeError) as error:
        accepted = "a data set of files that the datasets library reads, with a configuration and split that it has"
        raise DataError(text.field, text.path, f"cannot be read ({_first_line(error)})", accepted) from error
    except (httpx.HTTPError, OSError) as error:
        raise ServiceError(f"{text.path} cannot be fetched from the Hub ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
