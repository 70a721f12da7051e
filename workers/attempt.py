"""The folder of one attempt: how a worker tells what it did, and how a pool reads it.

assignment.json           what to do
log.txt                   what the worker printed
progress.json             how far it is, replaced again and again
measurements/000000.json  the curve, numbered, never changed
result.json | failure.json  how it ended, exactly one, written once

Everything a pool knows of an attempt stands here, so an attempt outlives the pool that started it.
"""

import json
import time
from pathlib import Path

from pydantic import ValidationError

from nas.border import Border
from nas.errors import CheckpointError
from nas.jobs import Assignment, Failure, JobProgress, Measurement, Update

_PROGRESS_SECONDS = 0.5


class AttemptFolder:
    """Both ends of the protocol; the worker writes, the pool reads."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.path = Path(assignment.folder)
        self._num_read = 0
        self._progress_read: JobProgress | None = None
        self._progress_written = 0.0

    # --- written by the worker ---

    def report_progress(self, progress: JobProgress) -> None:
        """Cheap to call at every step: all but a few a second are dropped."""
        now = time.monotonic()
        if now - self._progress_written >= _PROGRESS_SECONDS or progress.done >= progress.total:
            self._progress_written = now
            self._write("progress.json", progress)

    def report_measurement(self, measurement: Measurement) -> None:
        (self.path / "measurements").mkdir(exist_ok=True)
        number = len(list((self.path / "measurements").glob("??????.json")))
        self._write(f"measurements/{number:06d}.json", measurement)

    def finish(self, outcome: Border) -> None:
        """Ends the attempt with a job result or a Failure."""
        self._write("failure.json" if isinstance(outcome, Failure) else "result.json", outcome)

    def _write(self, name: str, content: Border) -> None:
        partial = self.path / (name + ".partial")
        partial.write_text(content.model_dump_json())
        partial.replace(self.path / name)

    # --- read by the pool ---

    @property
    def ended(self) -> bool:
        return (self.path / "result.json").exists() or (self.path / "failure.json").exists()

    def news(self) -> Update | None:
        """What was written since the last call; the outcome comes last, with all measurements before it."""
        # The order matters: an outcome seen here was written after every measurement that is read next.
        ended = self.ended
        update: dict[str, object] = {"job_id": self.assignment.job_id, "attempt": self.assignment.attempt}
        if measurements := self._new_measurements():
            update["measurements"] = measurements
        if (progress := self._new_progress()) is not None:
            update["progress"] = progress
        if ended:
            kind = "result" if (self.path / "result.json").exists() else "failure"
            update[kind] = self._json(f"{kind}.json")
        if len(update) == 2:
            return None
        try:
            return Update.model_validate(update)
        except ValidationError as error:
            raise CheckpointError(self.path, f"holds what no worker of this version writes ({error})") from error

    def outcome_or(self, failure: Failure) -> Update:
        """The last news of an attempt that runs no more: its outcome, or `failure` where it left none."""
        news = self.news() or Update(job_id=self.assignment.job_id, attempt=self.assignment.attempt)
        if news.result is None and news.failure is None:
            return news.model_copy(update={"failure": failure})
        return news

    def _new_measurements(self) -> list[object]:
        files = sorted((self.path / "measurements").glob("??????.json"))[self._num_read :]
        self._num_read += len(files)
        return [Measurement.model_validate_json(file.read_text()).model_dump() for file in files]

    def _new_progress(self) -> object | None:
        try:
            progress = JobProgress.model_validate_json((self.path / "progress.json").read_text())
        except FileNotFoundError:
            return None
        if progress == self._progress_read:
            return None
        self._progress_read = progress
        return progress.model_dump()

    def _json(self, name: str) -> object:
        return json.loads((self.path / name).read_text())
