"""An attempt on artifacts that may lie in a store: jobs read and write local files, and the rest is done here.

What a job reads is verified, and fetched if need be. An attempt whose own folder is in a store works in a folder of its
node, and everything there is mirrored whenever something of worth is added.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nas.addresses import Artifact, is_url, mapped
from nas.durable import write_text
from nas.errors import CheckpointError
from nas.jobs import JobResult, Measurement
from nas.pool import Assignment, Failure
from workers import artifacts
from workers.artifacts_manifest import MANIFEST, digest_of, write_manifest
from workers.artifacts_scratch import OwnFolder, local_copy
from workers.attempt import ANSWERS, KEPT, TRAIN, AttemptFolder, fetch_records, outcome_name

_NOT_MIRRORED = ("heartbeat", "progress.json", "result.json", "failure.json", MANIFEST)
_COMMIT = "state.json"
"""The last file of a checkpoint: with it, the others are all there."""

logger = logging.getLogger(__name__)


class MirroredAttempt(AttemptFolder):
    """An attempt whose folder is in a store. Its path is one on this node, for as long as the process lives."""

    def __init__(self, assignment: Assignment) -> None:
        self._own = OwnFolder(assignment.folder)
        super().__init__(assignment, self._own.path)
        self._address = assignment.folder
        self._mirrored: dict[str, tuple[int, int]] = {}
        self._begun = False

    def begin(self) -> None:
        """Raises FileExistsError where another attempt has left something: it must not pass for this one's."""
        if artifacts.files(self._address):
            raise FileExistsError(f"{self._address} holds files already")
        self._begun = True
        write_text(self.path / "assignment.json", self.assignment.model_dump_json())
        self._mirror()

    def report_measurement(self, measurement: Measurement) -> None:
        super().report_measurement(measurement)
        self._mirror()

    def checkpointed(self) -> None:
        self._mirror()

    def finish(self, outcome: JobResult | Failure) -> None:
        """The outcome goes last, to the store and only then to this node, where the pool looks for it."""
        if not isinstance(outcome, Failure):
            write_manifest(self.path, outcome)
            outcome = mapped(outcome, self._in_store)
            self._finish(outcome)
        elif self._begun:
            try:
                self._finish(outcome)
            except OSError as error:
                logger.warning("%s", error)  # The pool is told all the same, by the process that still runs.
        write_text(self.path / outcome_name(outcome), outcome.model_dump_json())
        self._make_room()

    def _finish(self, outcome: JobResult | Failure) -> None:
        self._mirror()
        if (self.path / MANIFEST).exists():
            artifacts.put(self.path / MANIFEST, f"{self._address}/{MANIFEST}")
        artifacts.write(f"{self._address}/{outcome_name(outcome)}", outcome.model_dump_json().encode())

    def _in_store(self, address: str, mark: Artifact) -> str:
        path = Path(address)
        return f"{self._address}/{path.relative_to(self.path)}" if path.is_relative_to(self.path) else address

    def _mirror(self) -> None:
        """Brings the store's folder to what this one holds: of a checkpoint, the file that commits it last."""
        here: dict[str, tuple[int, int]] = {}
        for file in self.path.rglob("*"):
            name = file.relative_to(self.path).as_posix()
            if file.is_file() and name not in _NOT_MIRRORED and ".partial" not in name:
                here[name] = (file.stat().st_size, file.stat().st_mtime_ns)
        for name in sorted(here, key=lambda name: (name.endswith(_COMMIT), name)):
            if self._mirrored.get(name) != here[name]:
                artifacts.put(self.path / name, f"{self._address}/{name}")
                self._mirrored[name] = here[name]
        for name in sorted(self._mirrored.keys() - here.keys(), key=lambda name: not name.endswith(_COMMIT)):
            artifacts.delete_file(f"{self._address}/{name}")
            del self._mirrored[name]

    def _make_room(self) -> None:
        """Leaves only what the pool still reads."""
        for name in self._mirrored:
            if not name.startswith("measurements/"):
                (self.path / name).unlink(missing_ok=True)


def attempt_at_work(assignment: Assignment) -> AttemptFolder:
    """The worker's end of an attempt, wherever its folder is. Raises OSError."""
    return MirroredAttempt(assignment) if is_url(assignment.folder) else AttemptFolder(assignment)


@contextmanager
def local_artifacts(attempt: AttemptFolder) -> Iterator[None]:
    """Within the block, the attempt's assignment names local files only, each of them what was once written.

    Raises CheckpointError for an artifact that is not, OSError where one cannot be read.
    """
    attempt.begin()
    with ExitStack() as held:

        def local(address: str, mark: Artifact) -> str:
            return str(held.enter_context(local_copy(address, mark)))

        spec = mapped(attempt.assignment.spec, local)
        earlier = attempt.assignment.earlier_folders
        if any(map(is_url, earlier)):
            own = OwnFolder(f"earlier than {attempt.assignment.folder}")
            held.callback(own.remove)
            earlier = _fetch_earlier(earlier, own.path)
        attempt.assignment = attempt.assignment.model_copy(update={"spec": spec, "earlier_folders": earlier})
        yield


def _fetch_earlier(folders: tuple[str, ...], into: Path) -> tuple[str, ...]:
    """The folders with those of a store replaced by local ones, which hold of each what an attempt goes on from."""
    places = {folder: into / str(number) for number, folder in enumerate(folders) if is_url(folder)}
    checkpoints: dict[str, list[tuple[str, str]]] = defaultdict(list)  # Of each run: its steps, and whose they are.
    for folder, place in places.items():
        fetch_records(folder, place)
        names = artifacts.files(folder)
        for name in names:
            if name.startswith((f"{TRAIN}/", f"{ANSWERS}/")) or Path(name).name == KEPT:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                artifacts.get(f"{folder}/{name}", place / name)
            step = Path(name).parent
            if step.parent.name == "checkpoints" and name.endswith(_COMMIT):
                checkpoints[str(step.parent)].append((str(step), folder))
    for of_run in checkpoints.values():
        for path, folder in sorted(of_run, reverse=True):
            if _fetch_checkpoint(f"{folder}/{path}", places[folder] / path):
                break
    return tuple(str(places.get(folder, folder)) for folder in folders)


def _fetch_checkpoint(address: str, place: Path) -> bool:
    """Whether it is what was written; one that is not is as good as none, and the one before it serves."""
    place.mkdir(parents=True)
    try:
        for name in artifacts.files(address):
            artifacts.get(f"{address}/{name}", place / name)
        wanted = json.loads((place / _COMMIT).read_text())["sha256"]
        if digest_of(place / "tensors.safetensors").sha256 == wanted:
            return True
        raise CheckpointError(address, "is not what was written")
    except (OSError, ValueError, KeyError, CheckpointError) as error:
        logger.warning("a checkpoint cannot be used: %s", error)
        return False
