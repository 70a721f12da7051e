"""The folder of one attempt: how a worker tells what it did, and how a pool reads it.

assignment.json           what to do
heartbeat                 the worker's process id; touched every second by a thread of its own, whatever the work does
log.txt                   what the worker printed
progress.json             how far it is, replaced again and again
measurements/000000.json  the curve, numbered, never changed
result.json | failure.json  how it ended, exactly one, written once

Everything a pool knows of an attempt stands here, so an attempt outlives the pool that started it.
"""

import contextlib
import json
import os
import threading
import time
from pathlib import Path

from nas.border import Border
from nas.durable import write_text
from nas.jobs import Assignment, Failure, JobProgress, Measurement, Update

HEARTBEAT_SECONDS = 1.0
_PROGRESS_SECONDS = 0.5


class AttemptFolder:
    """Both ends of the protocol; the worker writes, the pool reads.

    `num_received` is how many measurements news() has told; set it back to 0 to be told all of them again.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.path = Path(assignment.folder)
        self.num_received = 0
        self._progress_read: JobProgress | None = None
        self._progress_written = 0.0

    # --- written by the worker ---

    def start_heartbeat(self) -> None:
        """Shows from now on, as long as this process is not stopped, that it is alive."""
        (self.path / "heartbeat").write_text(str(os.getpid()))
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            # One beat that a file system refuses is no reason to fall silent for good.
            with contextlib.suppress(OSError):
                os.utime(self.path / "heartbeat")

    def report_progress(self, progress: JobProgress) -> None:
        """Cheap to call at every step: all but a few a second are dropped."""
        now = time.monotonic()
        if now - self._progress_written >= _PROGRESS_SECONDS or progress.done >= progress.total:
            self._progress_written = now
            # Not worth a flush: a progress that a power cut takes back is soon replaced.
            partial = self.path / "progress.json.partial"
            partial.write_text(progress.model_dump_json())
            partial.replace(self.path / "progress.json")

    def report_measurement(self, measurement: Measurement) -> None:
        (self.path / "measurements").mkdir(exist_ok=True)
        number = len(list((self.path / "measurements").glob("??????.json")))
        write_text(self.path / "measurements" / f"{number:06d}.json", measurement.model_dump_json())

    def finish(self, outcome: Border) -> None:
        """Ends the attempt with a job result or a Failure."""
        name = "failure.json" if isinstance(outcome, Failure) else "result.json"
        write_text(self.path / name, outcome.model_dump_json())

    def inherit_measurements(self, earlier: Path) -> None:
        """Takes over the points of an earlier attempt, so that none is lost when this one goes on behind them."""
        own = {measurement.tokens for measurement in _measurements_in(self.path)}
        for measurement in _measurements_in(earlier):
            if measurement.tokens not in own:
                self.report_measurement(measurement)

    # --- read by the pool ---

    def last_beat(self) -> int | None:
        """When the worker last showed that it is alive, by the file system's clock; None before it first did."""
        try:
            return (self.path / "heartbeat").stat().st_mtime_ns
        except OSError:
            return None

    @property
    def has_outcome(self) -> bool:
        return any((self.path / name).exists() for name in ("result.json", "failure.json"))

    def news(self) -> Update | None:
        """What was written since the last call; the outcome comes last, with all measurements before it.

        A file that cannot be read ends the attempt as a failure that names it: one bad folder must not stop a pool.
        """
        nothing = Update(job_id=self.assignment.job_id, attempt=self.assignment.attempt)
        try:
            # The order matters: an outcome seen here was written after every measurement that is read next.
            kind = next((kind for kind in ("result", "failure") if (self.path / f"{kind}.json").exists()), None)
            content = {"progress": self._new_progress(), "measurements": self._new_measurements()}
            if kind is not None:
                content[kind] = json.loads((self.path / f"{kind}.json").read_text())
            update = Update.model_validate({**dict(nothing), **content})
        except (OSError, ValueError) as error:
            return nothing.model_copy(update={"failure": Failure(reason=f"{self.path} cannot be read: {error}")})
        return None if update == nothing else update

    def outcome_or(self, failure: Failure) -> Update:
        """The last news of an attempt that runs no more: its outcome, or `failure` where it left none."""
        news = self.news() or Update(job_id=self.assignment.job_id, attempt=self.assignment.attempt)
        if news.result is None and news.failure is None:
            return news.model_copy(update={"failure": failure})
        return news

    def _new_measurements(self) -> list[Measurement]:
        measurements = _measurements_in(self.path, after=self.num_received)
        self.num_received += len(measurements)
        return measurements

    def _new_progress(self) -> JobProgress | None:
        try:
            progress = JobProgress.model_validate_json((self.path / "progress.json").read_text())
        except (FileNotFoundError, ValueError):
            return None  # None yet, or one that a power cut left empty: the next one will do.
        if progress == self._progress_read:
            return None
        self._progress_read = progress
        return progress


def _measurements_in(folder: Path, after: int = 0) -> list[Measurement]:
    files = sorted((folder / "measurements").glob("??????.json"))[after:]
    return [Measurement.model_validate_json(file.read_text()) for file in files]
