"""One of several runs within an attempt."""

from nas.jobs import JobProgress, JobSpec, Measurement
from workers.attempt import PART, AttemptFolder


class AttemptPart(AttemptFolder):
    """A run in a folder of its own below the attempt's, which goes on from the same part of earlier attempts.

    It is told to end when the whole is, and tells progress as the whole's, of which `behind` of `total` tokens are
    done before it. Measurements stay in its folder, and in `measured`, by tokens. `tokens` is how far it said to be.
    """

    def __init__(self, whole: AttemptFolder, number: int, spec: JobSpec, *, behind: int, total: int) -> None:
        name, of_whole = f"{PART}{number}", whole.assignment
        changes = {
            "spec": spec,
            "folder": f"{of_whole.folder}/{name}",
            "earlier_folders": tuple(f"{earlier}/{name}" for earlier in of_whole.earlier_folders),
        }
        super().__init__(of_whole.model_copy(update=changes), whole.path / name)
        self.path.mkdir(exist_ok=True)
        self.measured: dict[int, Measurement] = {}
        self.tokens = 0
        self._whole, self._behind, self._total = whole, behind, total

    @property
    def told_to_end(self) -> str | None:
        return self._whole.told_to_end

    @told_to_end.setter
    def told_to_end(self, why: str | None) -> None:
        self._whole.told_to_end = why

    def checkpointed(self) -> None:
        self._whole.checkpointed()

    def report_progress(self, progress: JobProgress, *, may_end: bool = True) -> None:
        if progress.unit == "tokens":
            self.tokens, done = progress.done, self._behind + progress.done
            left = (self._total - done) / progress.per_second if progress.per_second else None
            progress = progress.model_copy(update={"done": done, "total": self._total, "seconds_left": left})
        self._whole.report_progress(progress, may_end=may_end)

    def report_measurement(self, measurement: Measurement) -> None:
        super().report_measurement(measurement)
        self.measured[measurement.tokens] = measurement
