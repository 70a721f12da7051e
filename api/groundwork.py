"""What all retraining of a search rests on."""

from dataclasses import dataclass

from nas.jobs import Calibrated, DataPrepared, ScoresMerged
from nas.spec import ResourcesSpec


@dataclass(frozen=True)
class Groundwork:
    """Text and scores; `calibrated` is the first shard."""

    data: DataPrepared
    calibrated: Calibrated
    merged: ScoresMerged | None

    @property
    def scores_file(self) -> str:
        return (self.merged or self.calibrated).scores_file

    def resolved(self, resources: ResourcesSpec) -> ResourcesSpec:
        """With `auto` decided once, by the calibration: all candidates of a search are computed in one dtype."""
        return ResourcesSpec.model_validate({**resources.model_dump(), "dtype": self.calibrated.dtype})
