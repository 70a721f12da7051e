"""A Ray cluster of its own, as `ray start --head` makes one."""

import shutil
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


@contextmanager
def ray_head(num_cpus: int = 2) -> Iterator[str]:
    """The address of a head that runs for as long as the block does."""
    # A short name: the paths of Ray's sockets below it may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    port = free_port()
    command = [RAY, "start", "--head", "--block", f"--port={port}", f"--num-cpus={num_cpus}", f"--temp-dir={folder}"]
    options = ["--include-dashboard=false", "--disable-usage-stats"]
    with (folder / "start.log").open("wb") as log:
        head = subprocess.Popen([*command, *options], stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in (folder / "start.log").read_text():
            if time.monotonic() > deadline or head.poll() is not None:
                raise RuntimeError((folder / "start.log").read_text())
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(30)
        shutil.rmtree(folder)
