"""The folder of runs: artifacts of every job, and beside them SQLite's file, which numbers those jobs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nas.errors import FolderError
from workers import artifacts


@contextmanager
def exclusive(folder: Path, *, option: str, accepted: str) -> Iterator[None]:
    """The folder, made if need be, for this process alone; the lock goes with the process, however it ends.

    Raises FolderError, which names the option, for one that is in use or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        lock.acquire(blocking=False)
    except Timeout as error:
        raise FolderError(option, str(folder), "is in use by another service or run", accepted) from error
    except OSError as error:
        raise FolderError(
            option, str(folder), f"cannot be used ({error.strerror})", "a folder to write into"
        ) from error
    try:
        yield
    finally:
        lock.release()


def check_numbering(folder: Path | str, database: Path, *, option: str) -> None:
    """Raises FolderError for jobs without the SQLite file that numbered them, SettingError for a store of no use.

    Numbered anew, jobs would take what earlier ones left for their own.
    """
    if database.exists():
        return
    try:
        has_jobs = bool(artifacts.names(f"{folder}/jobs"))
    except OSError as error:
        raise FolderError(option, str(folder), f"cannot be read ({error})", "a folder or a store that can") from error
    if has_jobs:
        problem = "holds jobs whose database is gone"
        raise FolderError(option, str(folder), problem, f"a new folder, or this one with {database} put back")
