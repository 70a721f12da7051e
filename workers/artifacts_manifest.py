"""What an attempt made, by digest: written before its result, and held against what is read.

artifacts.json, in the attempt's folder, has bytes and SHA-256 of every file that the result names.
"""

import hashlib
import logging
from functools import lru_cache
from pathlib import Path

from nas.addresses import Artifact, attempt_folder_of, mapped
from nas.border import Border
from nas.durable import write_text
from nas.errors import CheckpointError
from workers import artifacts

MANIFEST = "artifacts.json"

logger = logging.getLogger(__name__)


class FileDigest(Border):
    bytes: int
    sha256: str


class Manifest(Border):
    """Files by their path in the attempt's folder."""

    artifacts: dict[str, FileDigest]


def write_manifest(folder: Path, result: Border) -> None:
    """Reads every file below `folder` that the result names, once, and writes what it found. Raises OSError."""
    files: set[Path] = set()

    def add(address: str, mark: Artifact) -> str:
        path = Path(address)
        if path.is_relative_to(folder):
            found = path.rglob("*") if path.is_dir() else [path, *(path.with_suffix(each) for each in mark.beside)]
            files.update(file for file in found if not file.is_dir())
        return address

    mapped(result, add)
    manifest = Manifest(artifacts={file.relative_to(folder).as_posix(): digest_of(file) for file in sorted(files)})
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def promised(address: str, mark: Artifact) -> dict[str, FileDigest] | None:
    """The files of an artifact, by their path beside or below it, as its attempt's manifest has them.

    None of what no attempt wrote, and, with a warning, of what an attempt wrote before there were manifests. Raises
    CheckpointError for a manifest that is damaged or does not have the artifact, OSError where it cannot be read.
    """
    place = attempt_folder_of(address)
    if place is None:
        return None
    folder, path = place
    try:
        manifest = Manifest.model_validate_json(artifacts.read(f"{folder}/{MANIFEST}"))
    except FileNotFoundError:
        logger.warning("%s cannot be verified: the attempt that wrote it left no %s", address, MANIFEST)
        return None
    except ValueError as error:
        raise CheckpointError(f"{folder}/{MANIFEST}", f"is not a manifest ({_first_line(error)})") from error
    parent = path.rpartition("/")[0]
    names = {path, *(str(Path(path).with_suffix(each)) for each in mark.beside)}
    found = {
        name.removeprefix(f"{parent}/"): digest
        for name, digest in manifest.artifacts.items()
        if name in names or name.startswith(f"{path}/")
    }
    if not found:
        raise CheckpointError(address, f"is not in its attempt's manifest {folder}/{MANIFEST}")
    return found


def check_digest(file: Path, wanted: FileDigest, address: str) -> None:
    """Raises CheckpointError, which names the address, unless the file is what was written."""
    try:
        size = file.stat().st_size
        found = digest_of(file) if size == wanted.bytes else None
    except OSError as error:
        raise CheckpointError(address, f"cannot be read ({error.strerror}); its manifest has it") from error
    if found is None:
        raise CheckpointError(address, f"has {size} bytes where its manifest has {wanted.bytes}")
    if found.sha256 != wanted.sha256:
        raise CheckpointError(address, f"has SHA-256 {found.sha256} where its manifest has {wanted.sha256}")


def digest_of(file: Path) -> FileDigest:
    """Of the whole file, which is read once in a process for as long as nobody writes to it. Raises OSError."""
    status = file.stat()
    return _digest(file, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=1024)
def _digest(file: Path, size: int, modified_ns: int, inode: int) -> FileDigest:
    with file.open("rb") as content:
        return FileDigest(bytes=size, sha256=hashlib.file_digest(content, "sha256").hexdigest())


def _first_line(error: ValueError) -> str:
    return str(error).splitlines()[0]
