"""A Ray cluster of its own, as `ray start --head` makes one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


class RayHead:
    """A head with workers of its own. Killed and started again, it is another cluster at the same address."""

    def __init__(self, num_cpus: int = 2) -> None:
        self._num_cpus = num_cpus
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # A short name: the paths of Ray's sockets below it may have 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))
        command = [RAY, "start", "--head", "--block", f"--port={self._port}", f"--num-cpus={self._num_cpus}"]
        options = [f"--temp-dir={self._folder}", "--include-dashboard=false", "--disable-usage-stats"]
        log = self._folder / "start.log"
        with log.open("wb") as file:
            self._process = subprocess.Popen([*command, *options], stdout=file, stderr=file, start_new_session=True)
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in log.read_text():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.1)

    def kill(self) -> None:
        """All that `ray start` has started, with SIGKILL; the workers, which it has not, find out for themselves."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._end()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.wait(60)
            self._process = None
            shutil.rmtree(self._folder, ignore_errors=True)  # Whoever finds out still writes its last lines there.


@contextmanager
def ray_head(num_cpus: int = 2) -> Iterator[str]:
    """The address of a head that runs for as long as the block does."""
    head = RayHead(num_cpus)
    try:
        head.start()
        yield head.address
    finally:
        head.stop()
