"""Files that jobs wrote, for users: local ones or of a store, and none that is not what was written.

Every function raises StoreError where the store of artifacts cannot be read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.addresses import is_url
from nas.errors import SettingError, StoreError
from workers import artifacts
from workers.artifacts_scratch import local_copy

MOST_LOG_BYTES = 8_000_000


def verified(address: str) -> Path:
    """An artifact as a local file, held against its attempt's manifest; of a store, a copy of some hours.

    Raises CheckpointError for one that is not what was written; FileNotFoundError where there is none, and no manifest.
    """
    with _readable(), local_copy(address) as path:
        if not path.exists():
            raise FileNotFoundError(address)
        return path


def sizes(folder: str) -> dict[str, int]:
    """The bytes of every file in a folder, by name; nothing of one that was deleted."""
    with _readable():
        return {name: size for name, size in sorted(artifacts.files(folder).items()) if "/" not in name}


def last_lines(address: str, count: int) -> bytes:
    """Of a file that may grow meanwhile, and of at most 8 MB; nothing of one that is not there."""
    try:
        with _readable():
            lines = artifacts.read_end(address, MOST_LOG_BYTES).splitlines(keepends=True)
    except FileNotFoundError:
        return b""
    return b"".join(lines[-count:])


def file_below(folder: str, name: str) -> str | None:
    """The address of a file in a folder; None for what leads out of it."""
    if is_url(folder):
        return f"{folder}/{name}"
    path, below = (Path(folder) / name).resolve(), Path(folder).resolve()
    return str(Path(folder) / name) if path.is_relative_to(below) and path.is_file() else None


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, SettingError) as error:
        raise StoreError(f"artifacts cannot be read: {error}") from error
