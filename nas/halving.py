"""Successive halving: from each rung the share with the lowest losses goes on."""

from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from statistics import fmean

from nas.strategy import Cohort, Judge


def halving(keep: float, at_least: int = 1) -> Judge:
    """At every rung ceil(keep x candidates) go on, but `at_least` so many, by the mean loss over seeds.

    Of equal ones, the first listed goes on.
    """

    def judge(behind: Cohort, there: Cohort, place: int, full_tokens: int) -> Mapping[int, str]:
        losses = {each: fmean(trial.losses[place] for trial in trials) for each, trials in there.items()}
        order = sorted(losses, key=lambda each: (losses[each], each))
        num_kept = max(num_going_on(len(order), keep), at_least)
        reason = f"not among the {num_kept} of {len(order)} with the lowest loss after {place:,} tokens"
        return {each: reason for each in order[num_kept:] if each in behind}

    return judge


def num_going_on(num_candidates: int, keep: float) -> int:
    """How many of so many go on from a rung."""
    return ceil(Fraction(str(keep)) * num_candidates)  # In floats, 0.07 of 100 would be more than 7.
