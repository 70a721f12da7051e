"""The job that puts questions to a candidate, and what comes of it."""

from typing import Literal

from nas.addresses import Address
from nas.architecture import Architecture
from nas.border import Border
from nas.spec import ResourcesSpec


class Evaluate(Border):
    """Let the final weights of a trial answer the multiple-choice questions of a file."""

    kind: Literal["evaluate"] = "evaluate"
    teacher: str
    corrected: Address | None = None
    teacher_sha256: str
    weights: Address
    architecture: Architecture
    kept_layers: tuple[int, ...] = ()
    questions: str
    micro_batch_size: int
    resources: ResourcesSpec


class Evaluated(Border):
    """How many of the questions were answered rightly; `questions_sha256` is of the file as it was then."""

    kind: Literal["evaluate"] = "evaluate"
    num_right: int
    num_questions: int
    questions_sha256: str

    @property
    def accuracy(self) -> float:
        """The share of right answers, 0 to 1."""
        return self.num_right / self.num_questions
