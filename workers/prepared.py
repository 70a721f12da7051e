"""Data that was prepared before: what it was made of, and whether that is exactly what a job is to prepare.

prepared.json lies beside train/ and validation/, in the folder of an attempt and in what `topiary prepare-data` keeps.
"""

import shutil
from pathlib import Path

from nas.border import Border
from nas.compression.token_files import Encoding, check_shards, link_or_copy
from nas.data_spec import DataSpec
from nas.durable import write_text
from nas.errors import CheckpointError, DataError
from nas.hub import pinned_data_set
from nas.jobs import DataPrepared, PrepareData
from nas.text import text_files
from workers.attempt import TRAIN, VALIDATION

PREPARED = "prepared.json"
_ACCEPTED = "a folder that topiary prepare-data made of just this data and tokenizer"


class Prepared(Border):
    """What was asked for, and what came of it; addresses in `made` count from the folder.

    `files` has size and time of change (in nanoseconds) of every local file that was read; a data set of the Hub is
    known by its commit.
    """

    data: DataSpec
    training_tokens: int
    tokenizer_sha256: str
    end_of_text: int
    files: dict[str, tuple[int, int]]
    made: DataPrepared


def record_prepared(
    folder: Path, spec: PrepareData, encoding: Encoding, files: dict[str, tuple[int, int]], made: DataPrepared
) -> None:
    """Writes what the token files in `folder` are of; `files` is what `local_files` said before they were read."""
    relative = made.data.model_copy(update={"train_file": TRAIN, "validation_file": VALIDATION})
    content = Prepared(
        data=spec.data,
        training_tokens=spec.training_tokens,
        tokenizer_sha256=encoding.sha256,
        end_of_text=encoding.end_of_text,
        files=files,
        made=made.model_copy(update={"data": relative}),
    )
    write_text(folder / PREPARED, content.model_dump_json(indent=2) + "\n")


def use_prepared(folder: Path, spec: PrepareData, encoding: Encoding, into: Path) -> DataPrepared:
    """Takes token files over into `into`, by links where that can be, once they are verified.

    Raises DataError, with what differs, for what is not of exactly this data and tokenizer, or not whole.
    """
    try:
        found = Prepared.model_validate_json((folder / PREPARED).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = f"holds no prepared data ({str(error).splitlines()[0]})"
        raise DataError("data.prepared", str(folder), problem, _ACCEPTED) from error
    if (difference := _difference(found, spec, encoding)) is not None:
        raise DataError("data.prepared", str(folder), difference, _ACCEPTED)
    try:
        for part in (TRAIN, VALIDATION):
            shutil.copytree(folder / part, into / part, copy_function=link_or_copy)
            for source in spec.data.all_sources:
                check_shards(into / part / source.name)
    except (FileNotFoundError, CheckpointError) as error:
        raise DataError("data.prepared", str(folder), f"is damaged ({error})", _ACCEPTED) from error
    places = {"train_file": str(into / TRAIN), "validation_file": str(into / VALIDATION)}
    return found.made.model_copy(update={"data": found.made.data.model_copy(update=places)})


def _difference(found: Prepared, spec: PrepareData, encoding: Encoding) -> str | None:
    """What was otherwise when it was prepared, to follow the folder in a sentence."""
    names = [name for name in DataSpec.model_fields if name != "prepared"]
    changed = [f"data.{name}" for name in names if getattr(found.data, name) != getattr(spec.data, name)]
    if changed:
        return f"was prepared with another {', '.join(changed)}"
    if (found.tokenizer_sha256, found.end_of_text) != (encoding.sha256, encoding.end_of_text):
        return "was prepared with another tokenizer"
    if found.training_tokens < spec.training_tokens:
        return f"was prepared for {found.training_tokens:,} tokens of training, not the {spec.training_tokens:,} wanted"
    files = local_files(spec.data)
    other = sorted(name for name in found.files.keys() | files if found.files.get(name) != files.get(name))
    return f"was prepared before {other[0]} was changed" if other else None


def local_files(data: DataSpec) -> dict[str, tuple[int, int]]:
    """Bytes and time of change, in nanoseconds, of every file of a text that is not on the Hub. Raises DataError."""
    texts = [text for source in data.all_sources for text in (source.training, source.validation) if text is not None]
    found = {}
    for text in texts:
        if pinned_data_set(text.field, text.path) is None:
            for file in text_files(Path(text.path), field=text.field):
                status = file.stat()
                found[str(file)] = (status.st_size, status.st_mtime_ns)
    return found
