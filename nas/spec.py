"""SearchSpec: all that a user submits. A field's description is also what its errors name as accepted."""

from math import ceil
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from nas.border import Border, Count, Number
from nas.budget import Budget
from nas.calibration import CalibrationSpec
from nas.cost import Dtype
from nas.space import SearchSpace

NAME = "[a-z0-9][a-z0-9._-]{0,62}"
NAME_DESCRIPTION = "1 to 63 lower-case letters, digits, dots, dashes, underscores"

MOST_CANDIDATES = 256
"""More than that are retrained only if the spec says how many."""

MOST_SAMPLED = 10_000

MOST_TOKENS = 10**15
"""Of one run; far beyond any, and such that sums over candidates stay countable."""

ComputeDtype = Literal["auto", "float32", "bfloat16"]


class DataSpec(Border):
    """The text to calibrate, retrain and validate on."""

    train: str = Field(description="a .jsonl or .txt file, or a folder of them")
    validation: str | None = Field(
        default=None, description="a .jsonl or .txt file, or a folder of them; left out, a part of train is held out"
    )
    validation_fraction: Number = Field(
        default=0.01, gt=0, lt=1, description="the share of documents held out where validation is left out, 0 to 1"
    )
    validation_sequences: Count = Field(
        default=512, gt=0, description="how many sequences the loss is measured on, at least 1"
    )
    text_field: str = Field(default="text", min_length=1, description="the key of the text in a .jsonl record")
    sequence_length: Count = Field(default=4096, gt=1, description="tokens in a sequence, at least 2")


class TrainingSpec(Border):
    """How a student is retrained with AdamW, a linear warm-up and a cosine over the whole budget."""

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


class TrialSpec(TrainingSpec):
    """The light retraining of every candidate; the paper's 400 steps of 1152 x 4096 tokens by default."""

    tokens: Count = Field(
        default=1_887_436_800, gt=0, description="a number of tokens, at least 1, completed to whole steps"
    )


class PromotionSpec(TrainingSpec):
    """The full distillation of the winners; the paper's 94 billion tokens by default."""

    tokens: Count = Field(
        default=94_000_000_000, gt=0, description="a number of tokens, at least 1, completed to whole steps"
    )
    winners: Count = Field(default=1, ge=0, description="how many candidates are promoted, 0 for none")


class ResourcesSpec(Border):
    """What one job gets. Results are the same bits again only with the same number of CPUs and the same dtype."""

    cpus: Count = Field(default=1, gt=0, description="CPU cores, and torch threads, of one job, at least 1")
    gpus: Number | None = Field(
        default=None,
        ge=0,
        description="GPUs of one job, or a share such as 0.5, at least 0; left out, 1 where the Ray workers have any",
    )
    dtype: ComputeDtype = Field(
        default="auto", description="auto (bfloat16 where the device has it natively), float32 or bfloat16"
    )
    memory_bytes: Count = Field(
        default=0, ge=0, description="bytes of a node's memory that one job reserves on Ray, at least 0, 0 for none"
    )
    accelerator_type: str | None = Field(
        default=None, min_length=1, description="the kind of GPU as Ray names it, such as A100; left out, any"
    )
    custom: dict[str, Number] = Field(
        default_factory=dict,
        description="amounts above 0 of resources that the nodes of a Ray cluster declare, by name",
    )

    @field_validator("custom")
    @classmethod
    def _amounts(cls, value: dict[str, float]) -> dict[str, float]:
        for name, amount in value.items():
            if amount <= 0:
                raise ValueError(f"has {amount:g} of {name}, not an amount above 0")
            if name.upper() in ("CPU", "GPU", "MEMORY", "OBJECT_STORE_MEMORY"):
                raise ValueError(f"has {name}, which has a field of its own")
        return value


class ServingSpec(Border):
    """What costs of serving are stated for."""

    batch_size: Count = Field(default=1, gt=0, description="sequences at once, at least 1")
    context: Count | None = Field(
        default=None, gt=0, description="tokens of a sequence, at least 1; left out, data.sequence_length"
    )
    dtype: Dtype | None = Field(
        default=None, description="float32, bfloat16, float16, float8 or int8; left out, what the teacher is stored in"
    )


class HardwareSpec(Border):
    """One device of those that retrain, for estimates only; nothing is scheduled by it."""

    memory_bytes: Number = Field(default=80e9, gt=0, description="bytes of a device, above 0")
    flops_per_second: Number = Field(
        default=4e14, ge=1, description="FLOPs that a device achieves in training, not its peak, at least 1"
    )
    price_per_hour: Number | None = Field(
        default=None, ge=0, description="what an hour of a device costs, in any currency, at least 0"
    )


class SpendingSpec(Border):
    """What a search may use; reaching any of it ends what runs with a checkpoint, and starts nothing more.

    A device is a GPU, or a share of one as reserved, and the cores of a job that has none.
    """

    tokens: Count | None = Field(
        default=None, gt=0, description="tokens of retraining, promotions included, at least 1; left out, no limit"
    )
    device_hours: Number | None = Field(default=None, gt=0, description="hours of devices, above 0; left out, no limit")
    money: Number | None = Field(
        default=None, gt=0, description="device hours at hardware.price_per_hour, above 0; left out, no limit"
    )
    wall_hours: Number | None = Field(
        default=None, gt=0, description="hours since the search was submitted, above 0; left out, no limit"
    )


class SearchSpec(Border):
    """A search: the teacher, the budget, the space, the data, and how candidates are retrained."""

    name: str = Field(pattern=f"^{NAME}$", description=NAME_DESCRIPTION)
    teacher: str = Field(
        description="a Hugging Face folder with config.json, safetensors weights and tokenizer.json, "
        "or hf://ORG/NAME@COMMIT"
    )
    budget: Budget = Field(
        description="how large and costly a candidate may be: parameters, ranges, memory, flops, latency"
    )
    space: SearchSpace = Field(
        default_factory=SearchSpace,
        description="sizes to try along each axis; an axis left out keeps the teacher's size",
    )
    sample_size: Count | None = Field(
        default=None,
        gt=0,
        le=MOST_SAMPLED,
        description=f"how many of the shapes that fit the budget become candidates, 1 to {MOST_SAMPLED:,}; required "
        f"for more than {MOST_CANDIDATES} shapes",
    )
    data: DataSpec = Field(description="train, and optionally validation and how to read them")
    calibration: CalibrationSpec = Field(
        default_factory=CalibrationSpec, description="how importance is measured and what is cut by it"
    )
    trial: TrialSpec = Field(default_factory=TrialSpec, description="how every candidate is retrained")
    promotion: PromotionSpec = Field(default_factory=PromotionSpec, description="how the winners are distilled")

    @property
    def context(self) -> int:
        """Tokens of a sequence that costs of serving are stated for."""
        return self.serving.context or self.data.sequence_length

    @field_validator("trial", "promotion")
    @classmethod
    def _countable(cls, training: TrainingSpec, info: ValidationInfo) -> TrainingSpec:
        data = info.data.get("data")
        if data is not None and (tokens := training.actual_tokens(data.sequence_length)) > MOST_TOKENS:
            raise ValueError(f"comes to {tokens:.2e} tokens, more than {MOST_TOKENS:.0e}")
        return training

    resources: ResourcesSpec = Field(default_factory=ResourcesSpec, description="what one job gets")
    serving: ServingSpec = Field(
        default_factory=ServingSpec, description="what costs of serving are stated for: batch_size, context, dtype"
    )
    hardware: HardwareSpec = Field(
        default_factory=HardwareSpec, description="one device, for estimates: memory_bytes, flops_per_second, price"
    )
    seed: Count = Field(default=0, ge=0, lt=2**63, description="a whole number from 0, below 2^63")
    max_failures: Count = Field(
        default=3, gt=0, description="how often a job may fail before it is given up, at least 1"
    )
    max_losses: Count = Field(
        default=10,
        gt=0,
        description="how often in a row a job may lose its worker without coming any further before it is given up, "
        "at least 1",
    )
    backoff_seconds: Number = Field(
        default=10,
        ge=0,
        description="seconds before a job that has failed is tried again, at least 0; twice as long each time, up to "
        "an hour",
    )
    spending: SpendingSpec = Field(
        default_factory=SpendingSpec, description="what stops the search: tokens, device_hours, money, wall_hours"
    )

    @field_validator("spending")
    @classmethod
    def _money_has_a_price(cls, value: SpendingSpec, info: ValidationInfo) -> SpendingSpec:
        hardware = info.data.get("hardware")
        if value.money is not None and hardware is not None and hardware.price_per_hour is None:
            raise ValueError("has money, but hardware.price_per_hour is not given")
        return value
