"""SearchSpec: all that a user submits. A field's description is also what its errors name as accepted."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from nas.border import Border, Count, Number
from nas.budget import Budget
from nas.calibration import CalibrationSpec
from nas.cost import Dtype
from nas.data_spec import DataSpec
from nas.distillation_spec import DistillationSpec
from nas.space import SearchSpace
from nas.strategy_spec import StrategySpec
from nas.training_spec import CorrectionSpec, PromotionSpec, RunSpec, TrialSpec

NAME = "[a-z0-9][a-z0-9._-]{0,62}"
NAME_DESCRIPTION = "1 to 63 lower-case letters, digits, dots, dashes, underscores"

MOST_CANDIDATES = 256
"""More than that are retrained only if the spec says how many."""

MOST_SAMPLED = 10_000

MOST_TOKENS = 10**15
"""Of one run; far beyond any, and such that sums over candidates stay countable."""

ComputeDtype = Literal["auto", "float32", "bfloat16"]


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
        default=2e14, ge=1, description="FLOPs that a device achieves in training, not its peak, at least 1"
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
    correction: CorrectionSpec | None = Field(
        default=None,
        description="how the teacher is fine-tuned on the text before it is scored; left out, it stays as it is",
    )
    calibration: CalibrationSpec = Field(
        default_factory=CalibrationSpec, description="how importance is measured and what is cut by it"
    )
    trial: TrialSpec = Field(default_factory=TrialSpec, description="how every candidate is retrained")
    strategy: StrategySpec = Field(
        default_factory=StrategySpec,
        description="how the tokens of trials are shared out: kind, rungs, and their settings",
    )
    promotion: PromotionSpec = Field(default_factory=PromotionSpec, description="how the winners are distilled")
    distillation: DistillationSpec = Field(
        default_factory=DistillationSpec, description="what trials and promotions are taught by: losses and their terms"
    )

    @property
    def context(self) -> int:
        """Tokens of a sequence that costs of serving are stated for."""
        return self.serving.context or self.data.sequence_length

    @field_validator("correction", "trial", "promotion")
    @classmethod
    def _countable(cls, training: RunSpec | None, info: ValidationInfo) -> RunSpec | None:
        data = info.data.get("data")
        if training is None or data is None:
            return training
        if (tokens := training.actual_tokens(data.sequence_length)) > MOST_TOKENS:
            raise ValueError(f"comes to {tokens:.2e} tokens, more than {MOST_TOKENS:.0e}")
        return training

    @field_validator("distillation")
    @classmethod
    def _kept_by_what_is_cached(cls, value: DistillationSpec, info: ValidationInfo) -> DistillationSpec:
        trial = info.data.get("trial")
        if trial is not None and trial.targets != "live" and (problem := value.not_cached()):
            raise ValueError(f"{problem}, which needs trial.targets live")
        return value

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
