"""What a retraining leaves on record besides its curve: where it had to go back, and what its student writes."""

from typing import Literal

from nas.border import Border, Number


class Rollback(Border):
    """A loss or norm that was not finite at `step` (from 0), and the step that the run went back to before it went on.

    `first_sequence` is the place of that step's batch in the training text. The value is kept as text, since JSON has
    no such numbers and they do not equal themselves.
    """

    step: int
    first_sequence: int
    quantity: str
    value: Literal["nan", "inf", "-inf"]
    to_step: int


class TextSample(Border):
    """How teacher and student go on from the same prompt, each always with the likeliest token."""

    prompt: str
    teacher: str
    student: str


class SweptRate(Border):
    """What a peak learning rate came to: the loss at the end of the run, in nats per token, or why it has none."""

    rate: Number
    loss: Number | None = None
    problem: str | None = None
