"""The worker that a command without a service starts, in a hidden folder beside what it is to write."""

import time
from pathlib import Path


def wait_for_worker(into: Path) -> int:
    """The process id of the first worker, as soon as it is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for heartbeat in into.parent.glob(f".{into.name}.*/jobs/000001/attempt-1/heartbeat"):
            if written_by := heartbeat.read_text():
                return int(written_by)
        time.sleep(0.05)
    raise AssertionError("no worker was started")
