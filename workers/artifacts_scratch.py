"""Room on a node's own disk: folders that are their process's alone, and copies of artifacts that all attempts share.

own/NAME         a folder, held by a lock on own/NAME.lock; what a killed process left, the next one removes
cache/KEY        one artifact, whole, by its address and digests; held by a shared lock on cache/KEY.use
cache/KEY.fetch  locked by whoever fetches it
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nas.addresses import Artifact, is_url
from nas.errors import CheckpointError, SettingError
from workers import artifacts
from workers.artifacts_manifest import FileDigest, check_digest, promised

_UNUSED_SECONDS = 24 * 3600
"""After which a copy makes room for others."""


def scratch() -> Path:
    """Where this node's processes of this user work: below TOPIARY_SCRATCH, else the folder for temporary files.

    Raises SettingError for a folder that cannot be made, or is somebody else's.
    """
    folder = Path(os.environ.get("TOPIARY_SCRATCH") or tempfile.gettempdir()) / f"topiary-{os.getuid()}"
    accepted = "a folder on the node's own disk that this user can write to"
    try:
        for each in (folder, folder / "own", folder / "cache"):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise SettingError("TOPIARY_SCRATCH", str(folder), f"cannot be used ({error.strerror})", accepted) from error
    if owner != os.getuid():
        raise SettingError("TOPIARY_SCRATCH", str(folder), "belongs to another user", accepted)
    return folder


class OwnFolder:
    """An empty folder for this process, which is gone with it: removed by `remove`, or by whoever comes next."""

    def __init__(self, name: str) -> None:
        own = scratch() / "own"
        self.path = own / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{os.getpid()}-{time.monotonic_ns()}"
        self._lock = own / f"{self.path.name}.lock"
        with (scratch() / "lock").open("a") as one_at_a_time:
            fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
            _remove_left_over(own)
            self._held = os.open(self._lock, os.O_WRONLY | os.O_CREAT)
            fcntl.flock(self._held, fcntl.LOCK_EX)
            self.path.mkdir()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.unlink(missing_ok=True)
        os.close(self._held)


def _remove_left_over(own: Path) -> None:
    """A lock that can be had was its process's, which is dead."""
    for lock in own.glob("*.lock"):
        with lock.open("a") as file:
            if _locked_at_once(file):
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)


@contextmanager
def local_copy(address: str, mark: Artifact | None = None) -> Iterator[Path]:
    """An artifact as a local file or folder, held against its attempt's manifest, for as long as the block lasts.

    A path is its own copy; one of a store is fetched, once for all attempts of a node. Raises CheckpointError for an
    artifact that is not what was written, OSError where it cannot be read.
    """
    mark = mark or Artifact()
    wanted = promised(address, mark)
    if is_url(address):
        with _in_cache(address, mark, wanted) as path:
            yield path
    else:
        _check(Path(address).parent, wanted or {}, address)
        yield Path(address)


@contextmanager
def _in_cache(address: str, mark: Artifact, wanted: dict[str, FileDigest] | None) -> Iterator[Path]:
    parent, _, name = address.rpartition("/")
    files = list(wanted or [name, *(str(Path(name).with_suffix(each)) for each in mark.beside)])
    identity = repr((address, wanted and sorted((path, each.sha256) for path, each in wanted.items())))
    place = scratch() / "cache" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    with place.with_suffix(".use").open("a") as use:
        fcntl.flock(use, fcntl.LOCK_SH)
        os.utime(use.fileno())
        if not _is_whole(place, wanted):
            with place.with_suffix(".fetch").open("a") as fetching:
                fcntl.flock(fetching, fcntl.LOCK_EX)
                if not _is_whole(place, wanted):  # Whoever had the lock may have fetched it.
                    _remove_unused(place.parent)
                    _fetch(parent, files, place)
                    _check(place, wanted or {}, address)
        yield place / name


def _fetch(parent: str, files: list[str], place: Path) -> None:
    """Copies files from below `parent` to below `place`, which appears whole."""
    partial = place.with_suffix(".partial")
    for former in (place, partial):  # Damaged, or left by a fetch that was killed.
        shutil.rmtree(former, ignore_errors=True)
    for file in files:
        (partial / file).parent.mkdir(parents=True, exist_ok=True)
        artifacts.get(f"{parent}/{file}", partial / file)
    partial.replace(place)


def _is_whole(place: Path, wanted: dict[str, FileDigest] | None) -> bool:
    if not place.is_dir():
        return False
    try:
        _check(place, wanted or {}, str(place))
    except CheckpointError:
        return False
    return True


def _check(parent: Path, wanted: dict[str, FileDigest], address: str) -> None:
    """Raises CheckpointError, which names the address of the file that is not what was written."""
    above = address.rpartition("/")[0]
    for path, digest in wanted.items():
        check_digest(parent / path, digest, f"{above}/{path}")


def _remove_unused(cache: Path) -> None:
    for use in cache.glob("*.use"):
        with use.open("a") as file:
            is_old = time.time() - use.stat().st_mtime > _UNUSED_SECONDS
            if is_old and _locked_at_once(file):
                shutil.rmtree(use.with_suffix(""), ignore_errors=True)  # Its locks stay: others may wait for them.


def _locked_at_once(file: IO[str]) -> bool:
    """Whether the lock on a file could be had without waiting; it goes when the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
