"""Every error that Topiary raises on purpose.

TopiaryError
├── UserError              something the user gave is wrong; names the field, the value and what is accepted
│   ├── SpecError          the spec itself
│   ├── BudgetError        no candidate fits, or none can
│   ├── TeacherError       the teacher's folder
│   ├── DataError          the text to train or validate on
│   ├── ConflictError      something of this name is there already, and is not the same
│   ├── NotFoundError      nothing of this name or number is there
│   ├── FolderError        a run folder or an output folder
│   └── SettingError       an option of the command or an environment variable
├── StoreError             the database, or the store of artifacts, cannot be read or written
├── ServiceError           the service cannot be reached, or fails
├── CheckpointError        a file of ours is damaged or is not what it claims to be
├── TrainingDiverged       a loss or gradient is not finite
├── Interrupted            work was told to end, and did so in order
└── IllegalMove            a state was asked to change in a way its table does not allow
"""


class TopiaryError(Exception):
    """Base of all of them."""


class UserError(TopiaryError):
    """Something the user gave is wrong; its message is one sentence, the same on every surface.

    Attributes: `field` (dotted path in the spec, or an option), `value`, `problem`, `accepted`, and `also`,
    further errors found in the same input.
    """

    also: "tuple[UserError, ...]" = ()

    def __init__(self, field: str, value: object, problem: str, accepted: str) -> None:
        self.field = field
        self.value = value
        self.problem = problem
        self.accepted = accepted
        super().__init__(field, value, problem, accepted)

    def __str__(self) -> str:
        shown = " ".join(str(self.value).splitlines()) or "''"
        shown = shown if len(shown) <= 200 else shown[:197] + "..."
        return f"{self.field}: {shown} {self.problem}; accepted: {self.accepted}."


class SpecError(UserError):
    """A field of the spec is unknown, missing, or out of range."""


class BudgetError(UserError):
    """The budget leaves no candidate."""


class TeacherError(UserError):
    """The teacher cannot be used: not there, not safetensors, not a supported family, not the shape it claims."""


class DataError(UserError):
    """The text cannot be read, or there is too little of it."""


class ConflictError(UserError):
    """Something of this name is there already, and is not the same."""


class NotFoundError(UserError):
    """Nothing of this name or number is there."""


class FolderError(UserError):
    """A folder holds something else, or is in use."""


class SettingError(UserError):
    """An option of the command or an environment variable cannot be used."""


class StoreError(TopiaryError):
    """The database, or the store of artifacts, cannot be used: a full disk, a lock not given back, a lost server."""


class ServiceError(TopiaryError):
    """The service cannot be reached, or fails."""


class CheckpointError(TopiaryError):
    """A file of ours is damaged or is not what it claims to be."""

    def __init__(self, path: object, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(path, problem)

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class TrainingDiverged(TopiaryError):
    """A loss or a gradient is not finite; raised before the optimizer could step on it, or a measurement kept.

    `tries` is how often the run has tried to come further.
    """

    def __init__(self, quantity: str, value: float, step: int, first_sequence: int, tries: int = 1) -> None:
        self.quantity = quantity
        self.value = value
        self.step = step
        self.first_sequence = first_sequence
        self.tries = tries
        super().__init__(quantity, value, step, first_sequence, tries)

    def __str__(self) -> str:
        tried = f", tried {self.tries} times" if self.tries > 1 else ""
        return f"{self.quantity} is {self.value} at step {self.step} (batch from sequence {self.first_sequence}){tried}"


class Interrupted(TopiaryError):
    """Work was told to end and did so in order. `step` is the one whose state it saved, None if it had none."""

    def __init__(self, step: int | None = None) -> None:
        self.step = step
        super().__init__(step)

    def __str__(self) -> str:
        return "nothing was saved" if self.step is None else f"saved at step {self.step}"


class IllegalMove(TopiaryError):
    """A state was asked to change in a way its table does not allow."""
