"""How importance is measured and what is cut by it: the paper's choices by default, and all that compare with them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from nas.architecture import Architecture
from nas.border import Border, Count
from nas.errors import SpecError

Aggregation = Literal["mean", "l2", "var"]
"""Of a unit's values over a sequence, and of the sequences' results over all samples (P1, section 2.2)."""

WidthMethod = Literal["activation", "wanda", "magnitude", "random"]
NeuronTap = Literal["up_output", "gate_output", "down_input"]
DepthMethod = Literal[
    "block_influence", "perplexity", "logit_mse", "accuracy", "uniform", "magnitude", "random"
]  # fmt: skip
HeadResidual = Literal["off", "query", "query_and_output"]

REMOVING: tuple[DepthMethod, ...] = ("perplexity", "logit_mse", "accuracy")
"""The depth methods that run the teacher without some of its layers, many times."""

PRESETS: dict[str, dict[str, Any]] = {
    # Section 4 of the paper: mean over a sequence, L2 over samples, single layers by Block Influence.
    "paper": {},
    # The follow-up: the layers that go lie next to one another, and a downstream task says where (its section 4.2).
    "follow-up": {"depth": "accuracy", "contiguous": True},
}


@dataclass(frozen=True)
class LayerChoice:
    """Which layers may go together.

    `contiguous`: those next to one another; `uniform`: spread evenly, whatever they score. The first
    `protect_first` and the last `protect_last` always stay.
    """

    contiguous: bool = False
    uniform: bool = False
    protect_first: int = 0
    protect_last: int = 0


class CalibrationSpec(Border):
    """How layers, heads, neurons, experts and channels are scored, and how what stays follows from the scores."""

    preset: Literal["paper", "follow-up"] = Field(
        default="paper", description="paper, or follow-up, which needs questions"
    )
    samples: Count = Field(default=1024, gt=0, description="how many sequences are drawn from train, at least 1")
    width: WidthMethod = Field(
        default="activation", description="activation; or, for comparison, wanda, magnitude or random"
    )
    over_sequence: Aggregation = Field(
        default="mean", description="mean (of absolute values), l2 or var of a unit's values over a sequence"
    )
    over_batch: Aggregation = Field(default="l2", description="mean, l2 or var of that over the samples")
    neurons: NeuronTap | None = Field(
        default=None,
        description="where neurons are listened to: up_output, gate_output or down_input; left out, down_input with a "
        "gate and up_output (before the activation) without; with width magnitude or random, nothing",
    )
    depth: DepthMethod = Field(
        default="block_influence",
        description="block_influence, perplexity, logit_mse, accuracy; or, for comparison, uniform, magnitude, random",
    )
    contiguous: bool = Field(default=False, description="false; or, unless depth is uniform, magnitude or random, true")
    protect_first_layers: Count = Field(
        default=0, ge=0, description="how many of the first layers always stay, at least 0; with depth uniform, 0"
    )
    protect_last_layers: Count = Field(
        default=0, ge=0, description="how many of the last layers always stay, at least 0; with depth uniform, 0"
    )
    depth_samples: Count | None = Field(
        default=None,
        gt=0,
        description="with depth perplexity or logit_mse, how many of the samples they see, at least 1, left out all; "
        "else nothing",
    )
    questions: str | None = Field(
        default=None,
        validate_default=True,
        description="with depth accuracy, a .jsonl file with question, choices and answer in each record; else nothing",
    )
    head_residual: HeadResidual = Field(
        default="off",
        description="off, query or query_and_output: which matrices of a head that stays take in what another that "
        "goes differs by",
    )
    rounds: Count = Field(
        default=1,
        gt=0,
        le=64,
        description="in how many steps a student is cut, each with scores of its own, 1 to 64; with depth uniform, 1",
    )
    layer_by_layer: bool = Field(
        default=False, description="false; or, where rounds is 1, true: one layer of the teacher in memory at a time"
    )
    shards: Count = Field(
        default=1,
        gt=0,
        le=1024,
        description="among how many jobs the samples are divided, 1 to 1,024 and at most one for each sample; with "
        "depth logit_mse, 1 unless contiguous",
    )

    @model_validator(mode="before")
    @classmethod
    def _filled_from_the_preset(cls, given: Any) -> Any:
        """What the preset says of the fields that are left out; an unknown preset is refused with its own field."""
        preset = given.get("preset") if isinstance(given, dict) else None
        return {**PRESETS[preset], **given} if isinstance(preset, str) and preset in PRESETS else given

    @field_validator("head_residual", mode="before")
    @classmethod
    def _off_is_a_word(cls, given: Any) -> Any:
        """YAML reads `off` as false."""
        return "off" if given is False else given

    # What one field can only be beside others is asked of the later one, so that the error names a field.

    @field_validator("neurons")
    @classmethod
    def _neurons_are_listened_to(cls, value: NeuronTap | None, info: ValidationInfo) -> NeuronTap | None:
        width = info.data.get("width")
        if value is not None and width in ("magnitude", "random"):
            raise ValueError(f"is not possible with width {width}, which listens to nothing")
        return value

    @field_validator("depth_samples")
    @classmethod
    def _samples_are_seen_without_layers(cls, value: int | None, info: ValidationInfo) -> int | None:
        depth = info.data.get("depth")
        if value is not None and depth not in (None, "perplexity", "logit_mse"):
            raise ValueError(f"is not possible with depth {depth}")
        return value

    @field_validator("rounds")
    @classmethod
    def _rounds_measure(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and info.data.get("depth") == "uniform":
            raise ValueError("is not possible with depth uniform, whose layers do not depend on what is left")
        return value

    @field_validator("contiguous")
    @classmethod
    def _stretches_are_measured(cls, value: bool, info: ValidationInfo) -> bool:
        depth = info.data.get("depth")
        if value and depth in ("uniform", "magnitude", "random"):
            raise ValueError(f"is not possible with depth {depth}")
        return value

    @field_validator("protect_first_layers", "protect_last_layers")
    @classmethod
    def _protected_is_heeded(cls, value: int, info: ValidationInfo) -> int:
        if value and info.data.get("depth") == "uniform":
            raise ValueError("is not possible with depth uniform, which looks at nothing but the number of layers")
        return value

    @field_validator("questions")
    @classmethod
    def _questions_go_with_accuracy(cls, value: str | None, info: ValidationInfo) -> str | None:
        depth = info.data.get("depth")
        if value is None and depth == "accuracy":
            raise PydanticKnownError("missing")
        if value is not None and depth not in (None, "accuracy"):
            raise ValueError(f"is not asked by depth {depth}")
        return value

    @field_validator("layer_by_layer")
    @classmethod
    def _rounds_are_in_memory(cls, value: bool, info: ValidationInfo) -> bool:
        rounds = info.data.get("rounds", 1)
        if value and rounds > 1:
            raise ValueError(f"is not possible with rounds {rounds}, each of which needs a whole model in memory")
        return value

    @field_validator("shards")
    @classmethod
    def _samples_can_be_divided(cls, value: int, info: ValidationInfo) -> int:
        samples = info.data.get("samples", value)
        if value > samples:
            raise ValueError(f"is more than the {samples} samples")
        if value > 1 and info.data.get("depth") == "logit_mse" and not info.data.get("contiguous", True):
            raise ValueError(
                "is not possible with depth logit_mse, which removes one layer after another by all samples"
            )
        return value

    @property
    def one_by_one(self) -> bool:
        """Whether layers are removed one after another, each time the one whose loss changes the logits least."""
        return self.depth == "logit_mse" and not self.contiguous

    @property
    def layer_choice(self) -> LayerChoice:
        return LayerChoice(
            contiguous=self.contiguous,
            uniform=self.depth == "uniform",
            protect_first=self.protect_first_layers,
            protect_last=self.protect_last_layers,
        )


def check_protected(calibration: CalibrationSpec, teacher: Architecture, depths: Iterable[int]) -> None:
    """Raises SpecError where a student of one of these numbers of layers cannot keep all that are protected."""
    first, last = calibration.protect_first_layers, calibration.protect_last_layers
    protected = min(first + last, teacher.num_hidden_layers)
    shallowest = min(depths, default=protected)
    if shallowest < protected:
        name, value = ("first", first) if first >= last else ("last", last)
        problem = f"leaves {protected} layers protected where a student has {shallowest}"
        raise SpecError(
            f"calibration.protect_{name}_layers", value, problem, "fewer protected layers, or no student so shallow"
        )
