"""What an attempt reports while it lives: the points of its curve, and how far it is."""

from nas.border import Border, Number


class Measurement(Border):
    """Losses after `tokens` tokens of a run, in nats per token: the immutable point of a curve."""

    tokens: int
    loss: Number
    kl_to_teacher: Number
    loss_per_sequence: tuple[float, ...]


class JobProgress(Border):
    """How far a live attempt is; `done` of `total` in `unit`.

    Of retraining also: `flops_per_second` as achieved, what the backward pass computes again left out; `data_wait`, the
    share of time in which it waited for text; `memory_bytes`, the most that was held so far, of a GPU in tensors, on a
    CPU by the process; and `seconds_left` of the attempt.
    """

    done: int
    total: int
    unit: str
    per_second: float = 0.0
    training_loss: float | None = None
    flops_per_second: float | None = None
    data_wait: float | None = None
    memory_bytes: int | None = None
    seconds_left: float | None = None
