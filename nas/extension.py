"""Extensions: what a user adds to a search, or to a promotion, after it was submitted."""

from collections.abc import Sequence

from pydantic import Field

from nas.border import Border, Count
from nas.spec import MOST_TOKENS, SearchSpec, SpendingSpec
from nas.training_spec import PromotionSpec, TrialSpec

MOST_SEEDS = 100


class Extension(Border):
    """What is added to a search; its spec stays what it was submitted as."""

    candidates: Count = Field(
        default=0, ge=0, description="more shapes that fit the budget, drawn besides those that are there, at least 0"
    )
    tokens: Count = Field(
        default=0,
        ge=0,
        le=MOST_TOKENS,
        description="more tokens for every trial, from its final weights on with a schedule of their own, at least 0",
    )
    seeds: Count = Field(
        default=0,
        ge=0,
        le=MOST_SEEDS,
        description=f"more trials of every candidate, with other seeds, 0 to {MOST_SEEDS}",
    )
    spending: SpendingSpec | None = Field(
        default=None, description="what stops the search from now on, in place of the spec's; left out, as it was"
    )


class PromotionExtension(Border):
    """What is added to a promotion."""

    tokens: Count = Field(
        gt=0,
        le=MOST_TOKENS,
        description="more tokens, from its final weights on with a schedule of their own, at least 1",
    )


def trial_segments(spec: SearchSpec, extensions: Sequence[Extension]) -> tuple[TrialSpec, ...]:
    """How a trial is retrained: as the spec says, then once more for every extension by tokens."""
    added = [spec.trial.model_copy(update={"tokens": each.tokens}) for each in extensions if each.tokens]
    return (spec.trial, *added)


def promotion_segments(spec: SearchSpec, added_tokens: Sequence[int]) -> tuple[PromotionSpec, ...]:
    """How a promotion is distilled: as the spec says, then once more for every extension."""
    return (spec.promotion, *(spec.promotion.model_copy(update={"tokens": tokens}) for tokens in added_tokens))


def segment_ends(segments: Sequence[TrialSpec] | Sequence[PromotionSpec], sequence_length: int) -> tuple[int, ...]:
    """The tokens behind a run at the end of each of its segments, completed to whole steps."""
    ends, end = [], 0
    for segment in segments:
        end += segment.actual_tokens(sequence_length)
        ends.append(end)
    return tuple(ends)


def spending(spec: SearchSpec, extensions: Sequence[Extension]) -> SpendingSpec:
    """What stops the search now: as the newest extension that says so has it, else as the spec has."""
    return next((each.spending for each in reversed(extensions) if each.spending is not None), spec.spending)
