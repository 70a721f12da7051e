"""The folder of one attempt: how a worker tells what it did, and how a pool reads it.

assignment.json           what to do
heartbeat                 the worker's process id; touched every second by a thread of its own, whatever the work does
log.txt                   what the worker printed
progress.json             how far it is, replaced again and again
measurements/000000.json  the curve, numbered, never changed
train/  validation/       of preparing the data, the token files of each source
answers/                  of asking the teacher, what it said, in files of so many sequences
checkpoints/              of a run, the newest;  kept.safetensors  what of the teacher its student keeps
run-1/ run-2/ ...         of several runs, each with measurements, checkpoints and kept.safetensors of its own
artifacts.json            of a result, what each file that it names must be
result.json | failure.json  how it ended, exactly one, written once

Everything a pool knows of an attempt stands here, so an attempt outlives the pool that started it. The folder may be in
a store: its worker then keeps one of its node, and mirrors it there (artifacts_attempt.py).
"""

import contextlib
import json
import os
import tempfile
import threading
import time
from pathlib import Path

from nas.addresses import is_url
from nas.durable import is_full, write_text
from nas.errors import Interrupted, SettingError
from nas.jobs import JobProgress, JobResult, Measurement
from nas.pool import Assignment, Failure, Update
from workers import artifacts
from workers.artifacts_manifest import write_manifest

HEARTBEAT_SECONDS = 1.0
_PROGRESS_SECONDS = 0.5
_FULL_SECONDS = 1.0

KEPT = "kept.safetensors"
TRAIN, VALIDATION = "train", "validation"
ANSWERS = "answers"
PART = "run-"
"""What the folders of several runs within an attempt begin with."""


class AttemptFolder:
    """Both ends of the protocol; the worker writes, the pool reads.

    `num_received` is how many measurements news() has told; set it back to 0 to be told all of them again.
    `told_to_end` says why the worker is to end before it is done, once it was told so. `path` is where the folder is on
    this node; without one, a folder in a store can only be asked for its outcome.
    """

    told_to_end: str | None = None

    def __init__(self, assignment: Assignment, path: Path | None = None) -> None:
        self.assignment = assignment
        self.path = path or Path(assignment.folder)
        self._is_elsewhere = path is None and is_url(assignment.folder)
        self.num_received = 0
        self._progress_read: JobProgress | None = None
        self._progress_written = 0.0

    # --- written by the worker ---

    def start_heartbeat(self) -> None:
        """Shows from now on, as long as this process is not stopped, that it is alive."""
        self._write_heartbeat()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            # One beat that a file system refuses is no reason to fall silent for good.
            try:
                os.utime(self.path / "heartbeat")
            except FileNotFoundError:
                self._write_heartbeat()
            except OSError:
                continue

    def _write_heartbeat(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / "heartbeat").write_text(str(os.getpid()))

    def tell_to_end(self, why: str) -> None:
        """From any thread; told again, nothing changes. Whoever does the work looks whether it was told."""
        self.told_to_end = self.told_to_end or why

    def end_if_told(self) -> None:
        """For where there is nothing to save. Raises Interrupted."""
        if self.told_to_end is not None:
            raise Interrupted

    def begin(self) -> None:
        """Makes the folder ready; one that a pool has made is. Raises OSError."""

    def checkpointed(self) -> None:
        """There is a new checkpoint. Raises OSError."""

    def report_progress(self, progress: JobProgress, *, may_end: bool = True) -> None:
        """Cheap to call at every step: all but a few a second are dropped. Raises Interrupted unless it may not end."""
        if may_end:
            self.end_if_told()
        now = time.monotonic()
        if now - self._progress_written >= _PROGRESS_SECONDS or progress.done >= progress.total:
            self._progress_written = now
            # Not worth a flush, nor a failure: a progress that a power cut or a full disk takes is soon replaced.
            partial = self.path / "progress.json.partial"
            with contextlib.suppress(OSError):
                partial.write_text(progress.model_dump_json())
                partial.replace(self.path / "progress.json")

    def report_measurement(self, measurement: Measurement) -> None:
        (self.path / "measurements").mkdir(exist_ok=True)
        number = len(list((self.path / "measurements").glob("??????.json")))
        write_text(self.path / "measurements" / f"{number:06d}.json", measurement.model_dump_json())

    def finish(self, outcome: JobResult | Failure) -> None:
        """Ends the attempt with a job result, whose artifacts are all there, or a Failure. Raises OSError.

        Where the disk is full it waits until it is so no more: what is done by then is not to be lost.
        """
        while True:
            try:
                if not isinstance(outcome, Failure):
                    write_manifest(self.path, outcome)
                write_text(self.path / outcome_name(outcome), outcome.model_dump_json())
                return
            except OSError as error:
                if not is_full(error):
                    raise
            time.sleep(_FULL_SECONDS)

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
        if self._is_elsewhere:
            return self._outcome_in_store(failure)
        news = self.news() or Update(job_id=self.assignment.job_id, attempt=self.assignment.attempt)
        if news.result is None and news.failure is None:
            return news.model_copy(update={"failure": failure})
        return news

    def _outcome_in_store(self, failure: Failure) -> Update:
        with tempfile.TemporaryDirectory() as place:
            try:
                fetch_records(self.assignment.folder, Path(place))
            except (OSError, SettingError) as error:
                failure = Failure(reason=f"{failure.reason}, and what it left cannot be read: {error}", lost=True)
            here = AttemptFolder(self.assignment, Path(place))
            here.num_received = self.num_received
            return here.outcome_or(failure)

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


def make_folder(assignment: Assignment) -> None:
    """Makes an attempt's folder, for a pool; one in a store is made by its worker. Raises OSError."""
    if not is_url(assignment.folder):
        folder = Path(assignment.folder)
        folder.mkdir(parents=True)  # Never one that is there: what another attempt left must not pass for this one's.
        write_text(folder / "assignment.json", assignment.model_dump_json())


def outcome_name(outcome: JobResult | Failure) -> str:
    return "failure.json" if isinstance(outcome, Failure) else "result.json"


def fetch_records(folder: str, into: Path) -> None:
    """Copies measurements and outcome out of a store; one whose upload was cut short is not there. Raises OSError."""
    (into / "measurements").mkdir(parents=True, exist_ok=True)
    for name in sorted(artifacts.files(folder)):
        if Path(name).parent.name == "measurements" or name in ("result.json", "failure.json"):
            content = artifacts.read(f"{folder}/{name}")
            with contextlib.suppress(ValueError):
                json.loads(content)
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                (into / name).write_bytes(content)


def _measurements_in(folder: Path, after: int = 0) -> list[Measurement]:
    files = sorted((folder / "measurements").glob("??????.json"))[after:]
    return [Measurement.model_validate_json(file.read_text()) for file in files]
