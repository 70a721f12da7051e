"""What users see of the training that comes before trials: a correction of the teacher, a sweep of learning rates."""

from nas.architecture import Architecture
from nas.border import Border
from nas.training_record import SweptRate


class SweepView(Border):
    """What a sweep of peak learning rates came to: the losses of one candidate, and the rate `chosen` for all trials.

    Losses are in nats per token after the whole budget of a trial, in the order in which rates were tried.
    """

    candidate_id: int
    architecture: Architecture
    rates: tuple[SweptRate, ...]
    chosen: float
    tokens: int


class CorrectionView(Border):
    """The teacher as it was corrected on the text: losses before and after in nats per token, and its folder."""

    tokens: int
    loss_before: float
    loss: float
    folder: str
