"""Files at addresses: paths, or URLs of any store that fsspec has a driver for. The only file that knows fsspec.

An object store shows a file whole or not at all; of one that does not, what its reader expects to find says whether it
is whole: a digest, or JSON that ends.
"""

import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from nas.addresses import is_url
from nas.errors import SettingError

Returned = TypeVar("Returned")

_PAUSES_SECONDS = (0.2, 1.0, 5.0)
"""Before each further try at a store: most have tried for themselves, but a connection may have been closed as idle."""

_ACCEPTED = (
    "a path, or a URL of a store whose driver is installed, for s3:// with pip install 'topiary-nas[s3]', and whose "
    "credentials the environment has as that driver reads them"
)


def put(local: Path, address: str) -> None:
    """Writes a file. Raises OSError."""
    _tried(address, "written", lambda store, path: store.put_file(str(local), path))


def write(address: str, content: bytes) -> None:
    """Writes a small file. Raises OSError."""
    with tempfile.NamedTemporaryFile() as file:  # Not a pipe: only from a file do all drivers make the folders.
        file.write(content)
        file.flush()
        put(Path(file.name), address)


def get(address: str, local: Path) -> None:
    """Reads a file into a local one, which may be there in part if this fails. Raises OSError."""
    _tried(address, "read", lambda store, path: store.get_file(path, str(local)))


def read(address: str) -> bytes:
    """What is in a small file. Raises OSError, FileNotFoundError where there is none."""
    return bytes(_tried(address, "read", lambda store, path: store.cat_file(path)))


def read_end(address: str, most: int) -> bytes:
    """The last bytes of a file, at most so many. Raises OSError, FileNotFoundError where there is none."""

    def end(store: AbstractFileSystem, path: str) -> Any:
        size = store.size(path)
        return store.cat_file(path, start=max(0, size - most)) if size else b""

    return bytes(_tried(address, "read", end))


def files(address: str) -> dict[str, int]:
    """The bytes of every file below a folder, by its path there; none of a folder that is not there. Raises OSError."""

    def found(store: AbstractFileSystem, path: str) -> dict[str, int]:
        below = store.find(path, detail=True).items()
        return {name.removeprefix(path).lstrip("/"): int(info["size"]) for name, info in below if name != path}

    with suppress(FileNotFoundError):
        return _tried(address, "listed", found)
    return {}


def names(address: str) -> list[str]:
    """Of what lies in a folder, not deeper; none of a folder that is not there. Raises OSError."""
    with suppress(FileNotFoundError):
        listed = _tried(address, "listed", lambda store, path: store.ls(path, detail=False))
        return sorted(each.rstrip("/").rpartition("/")[2] for each in listed)
    return []


def delete_file(address: str) -> None:
    """Raises OSError; a file that is not there is no error."""
    with suppress(FileNotFoundError):
        _tried(address, "removed", lambda store, path: store.rm_file(path))


def delete_folders(folders: Iterable[str]) -> None:
    """Removes attempts' folders, and those of jobs of which nothing is left. Raises OSError."""
    for folder in folders:
        with suppress(FileNotFoundError):
            _tried(folder, "removed", lambda store, path: store.rm(path, recursive=True))
        if job := re.fullmatch(r"(.*/jobs/\d{6,})/[^/]+", folder):  # No other: an S3 driver removes empty buckets, too.
            with suppress(OSError):  # It holds something still, or the store has no folders that could be empty.
                _tried(job[1], "removed", lambda store, path: store.rmdir(path), pauses=())


def check(root: str) -> None:
    """Raises SettingError unless a file can be written below the root, read, and removed again."""
    if re.match(r"[^/]*://[^/@]*:[^/@]*@", root):
        hidden = re.sub(r"//.*@", "//...@", root)
        problem = "holds a password, which would be kept on record with every address"
        raise SettingError("TOPIARY_ARTIFACTS", hidden, problem, _ACCEPTED)
    if not is_url(root):
        return  # Its folder is made when it is first written to, like any other.
    try:
        _store(root)
        _tried(f"{root.rstrip('/')}/probe-{secrets.token_hex(8)}", "used", _probe, pauses=())
    except OSError as error:
        raise SettingError("TOPIARY_ARTIFACTS", root, f"is of no use ({error})", _ACCEPTED) from error


def _probe(store: AbstractFileSystem, path: str) -> None:
    content = b"written to see whether that can be done"
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        store.put_file(file.name, path)
    came_back = store.cat_file(path)
    store.rm_file(path)
    if came_back != content:
        raise OSError("other bytes come back than were written")


def _tried(
    address: str,
    done: str,
    operation: Callable[[AbstractFileSystem, str], Returned],
    pauses: tuple[float, ...] = _PAUSES_SECONDS,
) -> Returned:
    """What the operation returns; of a store it is tried again, over a connection of its own. Raises OSError."""
    if not is_url(address):
        return operation(*_store(address, auto_mkdir=True))
    number = 0
    while True:
        try:
            return operation(*_store(address, skip_instance_cache=number > 0))
        except (FileNotFoundError, SettingError):
            raise
        except Exception as error:  # Drivers have errors of their own.
            if done in ("read", "listed", "removed") and not _may_be_there(address):
                raise FileNotFoundError(address) from error
            if number == len(pauses) or isinstance(error, PermissionError):
                raise OSError(f"{address} cannot be {done}: {type(error).__name__}: {error}") from error
        time.sleep(pauses[number])
        number += 1


def _may_be_there(address: str) -> bool:
    """Not every driver tells a file that is not there from one that cannot be read."""
    with suppress(Exception):  # What is wrong is known already.
        store, path = _store(address)
        return bool(store.exists(path))
    return True


def _store(address: str, **options: bool) -> tuple[AbstractFileSystem, str]:
    """Raises SettingError where there is no driver."""
    try:
        # Listings are never kept: other processes write there too.
        store, path = url_to_fs(address, use_listings_cache=False, **options)
    except (ImportError, ValueError) as error:
        raise SettingError("TOPIARY_ARTIFACTS", address, f"needs a driver ({error})", _ACCEPTED) from error
    return store, path
