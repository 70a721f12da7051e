"""How models are trained: students briefly in trials and in full as winners, and a teacher before them."""

from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from nas.border import Border, Count, Number

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's rates and batch; it prints no warm-up, so the follow-up's serves.
    "paper": {},
    # What the follow-up prints of Llama-3.1-Minitron-4B; batch and warm-up are those of `paper`.
    "follow-up": {"peak_learning_rate": 1e-4, "min_learning_rate": 1e-5},
}

MOST_RATES = 9
"""Of a sweep."""


class RunSpec(Border):
    """One run of the training loop: AdamW, a linear warm-up and a cosine over the whole budget."""

    tokens: Count = Field(gt=0, description="a number of tokens, at least 1, completed to whole steps")
    batch_size: Count = Field(default=1152, gt=0, description="sequences per optimizer step, at least 1")
    micro_batch_size: Count | None = Field(
        default=None,
        gt=0,
        description="sequences per forward pass, at least 1; left out, as many as keep logits within a gigabyte",
    )
    peak_learning_rate: Number = Field(default=2e-4, gt=0, description="a rate above 0")
    min_learning_rate: Number = Field(default=4.5e-7, ge=0, description="the rate at the end, at least 0")
    warmup_steps: Count = Field(default=40, ge=0, description="steps, at least 0, at most half of the steps are used")
    weight_decay: Number = Field(default=0.1, ge=0, description="at least 0; norms and biases are not decayed")
    beta1: Number = Field(default=0.9, ge=0, lt=1, description="0 or more, below 1")
    beta2: Number = Field(default=0.95, ge=0, lt=1, description="0 or more, below 1")
    clip_norm: Number = Field(default=1.0, gt=0, description="the largest norm of a gradient, above 0")
    measurements: Count = Field(
        default=8,
        gt=0,
        le=10_000,
        description="points at equal distances along the run at which the loss is measured, 1 to 10,000",
    )
    checkpoint_seconds: Number = Field(
        default=600, ge=0, description="seconds between checkpoints, 0 for every step; each measurement saves one too"
    )
    checkpoints_kept: Count = Field(
        default=2, gt=0, description="how many of the newest checkpoints are kept, at least 1"
    )
    rollbacks: Count = Field(
        default=2,
        ge=0,
        description="how often a step whose loss or gradient is not finite is come to again from the newest "
        "checkpoint, at least 0",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="false; or true: layers are computed again in the backward pass, not kept"
    )

    def fitting_micro_batch(self, sequence_length: int, vocab_size: int) -> int:
        """Sequences per forward pass: as given, or as many as keep one tensor of float32 logits within a gigabyte."""
        fitting = max(1, 2**30 // (4 * sequence_length * vocab_size))
        return min(self.micro_batch_size or fitting, self.batch_size)

    @field_validator("min_learning_rate")
    @classmethod
    def _below_the_peak(cls, value: float, info: ValidationInfo) -> float:
        peak = info.data.get("peak_learning_rate")
        if peak is not None and value > peak:
            raise ValueError(f"is more than the peak_learning_rate, {peak}")
        return value

    def num_steps(self, sequence_length: int) -> int:
        """Whole optimizer steps; the last one completes the token budget."""
        return ceil(self.tokens / (self.batch_size * sequence_length))

    def actual_tokens(self, sequence_length: int) -> int:
        return self.num_steps(sequence_length) * self.batch_size * sequence_length

    def measuring_steps(self, sequence_length: int) -> frozenset[int]:
        num_steps = self.num_steps(sequence_length)
        return frozenset(max(1, round(num_steps * k / self.measurements)) for k in range(1, self.measurements + 1))


class TrainingSpec(RunSpec):
    """How a student is retrained."""

    preset: Literal["paper", "follow-up"] = Field(
        default="paper", description="paper, or follow-up, whose rates fall from 1e-4 to 1e-5"
    )
    text_samples: Count = Field(
        default=3, ge=0, le=100, description="how many sample texts teacher and student write at the end, 0 to 100"
    )

    @model_validator(mode="before")
    @classmethod
    def _filled_from_the_preset(cls, given: Any) -> Any:
        """What the preset says of the fields that are left out; an unknown preset is refused with its own field."""
        preset = given.get("preset") if isinstance(given, dict) else None
        return {**PRESETS[preset], **given} if isinstance(preset, str) and preset in PRESETS else given

    def at_rate(self, peak: float) -> Self:
        """The same with another peak, above 0; the rate at the end keeps its proportion to it."""
        share = self.min_learning_rate / self.peak_learning_rate
        return self.model_copy(update={"peak_learning_rate": peak, "min_learning_rate": share * peak})


class CorrectionSpec(RunSpec):
    """The light fine-tuning of the teacher on the text, before anything else; as the follow-up prints it by default."""

    tokens: Count = Field(
        default=100_000_000_000, gt=0, description="a number of tokens, at least 1, completed to whole steps"
    )
    peak_learning_rate: Number = Field(
        default=4e-5, gt=0, description="a rate above 0; the default is a fifth of the 2e-4 of trials"
    )
    warmup_steps: Count = Field(default=120, ge=0, description="steps, at least 0, at most half of the steps are used")


class TrialSpec(TrainingSpec):
    """The light retraining of every candidate; the paper's 400 steps of 1152 x 4096 tokens by default."""

    tokens: Count = Field(
        default=1_887_436_800, gt=0, description="a number of tokens, at least 1, completed to whole steps"
    )
    targets: Literal["live", "sampled", "top_k"] = Field(
        default="live",
        description="live: the teacher runs beside every trial; or it runs once for all of them, and what it says is "
        "kept as sampled entries of the vocabulary, or, for comparison, as the top_k",
    )
    targets_per_token: Count = Field(
        default=50, gt=0, le=255, description="how many entries are sampled, or are the top_k, of each token, 1 to 255"
    )
    learning_rates: tuple[Annotated[Number, Field(gt=0)], ...] = Field(
        default=(),
        max_length=MOST_RATES,
        description=f"2 to {MOST_RATES} different rates above 0 that a sweep before the trials chooses their peak "
        "from, or [] for the peak_learning_rate",
    )

    @field_validator("learning_rates")
    @classmethod
    def _several(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) == 1:
            raise ValueError("leaves nothing to choose")
        if len(set(value)) < len(value):
            raise ValueError("has the same rate twice")
        return value


class GateSpec(Border):
    """Questions that the first of the leaderboard answer before any of them is promoted."""

    questions: str = Field(
        description="a .jsonl file with question, choices and answer in each record, as calibration.questions"
    )
    candidates: Count = Field(
        default=3,
        gt=0,
        description="how many of the first of the leaderboard are asked, at least 1 and at least promotion.winners",
    )
    min_accuracy: Number | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the share of right answers below which nobody is promoted, 0 to 1; left out, any will do",
    )


class PromotionSpec(TrainingSpec):
    """The full distillation of the winners; the paper's 94 billion tokens by default."""

    tokens: Count = Field(
        default=94_000_000_000, gt=0, description="a number of tokens, at least 1, completed to whole steps"
    )
    winners: Count = Field(default=1, ge=0, description="how many candidates are promoted, 0 for none")
    gate: GateSpec | None = Field(
        default=None,
        description="questions, and how many candidates they are put to; left out, the loss alone says who is promoted",
    )

    @field_validator("gate")
    @classmethod
    def _enough_are_asked(cls, value: GateSpec | None, info: ValidationInfo) -> GateSpec | None:
        winners = info.data.get("winners")
        if value is not None and winners is not None and value.candidates < winners:
            raise ValueError(f"has fewer candidates, {value.candidates}, than there are winners, {winners}")
        return value
