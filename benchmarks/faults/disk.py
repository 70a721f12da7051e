"""A small file system in memory, that can be full."""

import errno
import os
import subprocess
import time
from pathlib import Path

_LARGEST_PIECE, _SMALLEST_PIECE = 2**22, 2**12


class Disk:
    """A tmpfs, mounted at a folder from `mount` to `unmount`."""

    def __init__(self, folder: Path, num_bytes: int) -> None:
        self.folder = folder
        self._num_bytes = num_bytes
        self._filler = folder / "filler"
        self.is_mounted = False

    def mount(self) -> str | None:
        """Why it cannot be done here; None once it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._num_bytes}", "tmpfs", str(self.folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"there is no mount command: {error.strerror}"
        self.is_mounted = done.returncode == 0
        return None if self.is_mounted else done.stderr.strip()

    def unmount(self) -> None:
        if self.is_mounted:
            # Lazily: a process that is about to end may still have a log open.
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
            self.is_mounted = False

    def be_full(self, seconds: float) -> None:
        """Leaves no byte for so long, whatever others remove meanwhile."""
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline:
                self._fill()
                time.sleep(0.02)
        finally:
            self._filler.unlink()

    def _fill(self) -> None:
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT)
        try:
            piece = _LARGEST_PIECE
            while piece >= _SMALLEST_PIECE:
                try:
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, piece)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece //= 2
        finally:
            os.close(descriptor)

    @property
    def used_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize
