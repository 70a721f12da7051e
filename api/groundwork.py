"""What all retraining of a search rests on."""

from dataclasses import dataclass

from nas.jobs import Calibrated, DataPrepared, ScoresMerged, Swept, TeacherCorrected
from nas.spec import ResourcesSpec
from nas.training_spec import TrialSpec


@dataclass(frozen=True)
class Groundwork:
    """Text and scores; `calibrated` is the first shard.

    `correction` is there where the teacher was corrected, `swept` where a sweep has chosen the trials' rate.
    """

    data: DataPrepared
    calibrated: Calibrated
    merged: ScoresMerged | None
    correction: TeacherCorrected | None = None
    swept: Swept | None = None

    @property
    def scores_file(self) -> str:
        return (self.merged or self.calibrated).scores_file

    @property
    def corrected(self) -> str | None:
        """The folder of the corrected teacher."""
        return None if self.correction is None else self.correction.folder

    def training(self, of_trial: TrialSpec) -> TrialSpec:
        """The same, at the rate that was chosen."""
        return of_trial if self.swept is None else of_trial.at_rate(self.swept.chosen)

    def resolved(self, resources: ResourcesSpec) -> ResourcesSpec:
        """With `auto` decided once, by the calibration: all candidates of a search are computed in one dtype."""
        return ResourcesSpec.model_validate({**resources.model_dump(), "dtype": self.calibrated.dtype})
