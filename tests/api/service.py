"""`topiary serve` in processes of its own, for tests that use it, break it, and start it again."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil

from nas.client import Client

Found = TypeVar("Found")


class Service:
    """A service over a folder of runs, with a Ray of its own unless told of another; a fixed port, so that it stays."""

    def __init__(self, runs: Path, *options: str) -> None:
        self.runs = runs
        self._options = options
        self._port = "0"
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "api.cli", "serve", "--runs", str(self.runs), "--port", self._port]
        self.runs.parent.mkdir(parents=True, exist_ok=True)
        with (self.runs.parent / "service.log").open("a") as log:
            self.process = subprocess.Popen(
                [*command, *self._options], stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        line = self.process.stdout.readline() if self.process.stdout else ""
        address = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if address is None:
            raise RuntimeError(f"the service did not start: {(self.runs.parent / 'service.log').read_text()}")
        self.url, self._port = address[0], address[1]
        with Client(self.url) as client:
            client.wait_until_ready()

    def child(self, name: str) -> psutil.Process:
        """The `http` or the `scheduler` process."""
        if self.process is None:
            raise RuntimeError("the service is not running")

        def found() -> psutil.Process | None:
            for child in psutil.Process(self.process.pid if self.process else 0).children():
                if name in child.cmdline():
                    return child
            return None

        return wait_for(found)

    def kill(self) -> None:
        """As a lost machine would: the supervisor with SIGKILL; its children find out."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        self.process = None
        wait_for(lambda: not any(_lives(each) for each in below) or None, seconds=60)


@contextmanager
def serving(runs: Path, *options: str) -> Iterator[Service]:
    service = Service(runs, *options)
    try:
        service.start()
        yield service
    finally:
        service.stop()


def wait_for(look: Callable[[], Found | None], seconds: float = 120) -> Found:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"nothing was found in {seconds} s")


def worker_of(attempt_folder: Path) -> int:
    """The process id of an attempt's worker, as its heartbeat says."""
    return int((attempt_folder / "heartbeat").read_text())


def slowly(process_id: int, act: Callable[[], object], until: Callable[[], bool], seconds: float = 60) -> None:
    """Does something while a process is stopped, and lets that go on at a tenth of its speed until something is so.

    So what is asked while it works reaches it while it works, however short the work and however slow the machine.
    """
    deadline = time.monotonic() + seconds
    with suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGSTOP)
        act()
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not in {seconds} s")
            os.kill(process_id, signal.SIGCONT)
            time.sleep(0.02)
            os.kill(process_id, signal.SIGSTOP)
            time.sleep(0.2)
        os.kill(process_id, signal.SIGCONT)
    wait_for(lambda: until() or None, seconds)


def kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)


def _lives(process: psutil.Process) -> bool:
    try:
        # Ray's agents linger for some seconds and do nothing to anybody.
        return process.status() != psutil.STATUS_ZOMBIE and not process.name().startswith("ray")
    except psutil.NoSuchProcess:
        return False
