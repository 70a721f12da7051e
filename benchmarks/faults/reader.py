"""A client that follows all events through everything that happens to the service.

`python -m benchmarks.faults.reader URL` prints the number of every event that it is told.
"""

import subprocess
import sys
from pathlib import Path

from nas.client import Client

_PATIENCE_SECONDS = 180


class Reader:
    """The process of the client, from `start` to `stop`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, url: str) -> None:
        with self._file.open("wb") as told:
            command = [sys.executable, "-m", "benchmarks.faults.reader", url]
            self._process = subprocess.Popen(command, stdout=told, start_new_session=True)

    @property
    def told(self) -> list[int]:
        """The numbers of the events so far."""
        return [int(line) for line in self._file.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main(url: str) -> None:
    with Client(url, patience=_PATIENCE_SECONDS) as client:
        for event in client.events(after=0):
            print(event.id, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
