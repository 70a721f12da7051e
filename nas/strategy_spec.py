"""How the tokens of a search are shared out among its candidates."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from nas.border import Border, Count, Number

StrategyKind = Literal["exhaustive", "halving", "racing", "tpe"]


def _ascending(value: tuple[float, ...]) -> tuple[float, ...]:
    if any(not 0 < rung < 1 for rung in value) or any(before >= after for before, after in pairwise(value)):
        raise ValueError("are not shares between 0 and 1, each more than the one before")
    return value


Rungs = Annotated[tuple[Number, ...], AfterValidator(_ascending)]


class StrategySpec(Border):
    """Which candidates are retrained to the end, and which are given up at a rung: a share of a trial's tokens."""

    kind: StrategyKind = Field(
        default="racing",
        description="exhaustive (all to the end, as in the paper), halving (a share goes on from each rung), racing "
        "(what is surely behind leaves), or tpe (for spaces too large to retrain: candidates are proposed)",
    )
    rungs: Rungs = Field(
        default=(0.25, 0.375, 0.5, 0.75),
        description="shares of trial.tokens after which candidates may leave, ascending, above 0 and below 1",
    )
    keep: Number = Field(
        default=0.5, gt=0, lt=1, description="of halving: the share that goes on from each rung, above 0 and below 1"
    )
    confidence: Number = Field(
        default=0.95, gt=0.5, lt=1, description="of racing: how surely behind is far enough, above 0.5 and below 1"
    )
    run_to_run: Number = Field(
        default=0.004,
        ge=0,
        le=10,
        description="the standard deviation, in nats per token, of a trial's loss over seeds where there is only one "
        "seed to go by, 0 to 10",
    )
    reject_behind: Number | None = Field(
        default=None,
        gt=0,
        description="nats per token, above 0: candidates whose loss right after pruning is further behind the best "
        "than that are not retrained; left out, all are",
    )
    startup: Count = Field(
        default=8, gt=0, description="of tpe: how many candidates are drawn before any is proposed, at least 1"
    )
    batch: Count = Field(default=4, gt=0, description="of tpe: how many candidates are proposed at a time, at least 1")

    @property
    def has_rungs(self) -> bool:
        """Whether trials wait for each other on the way."""
        return self.kind in ("halving", "racing")
