"""How much each axis tells of which candidates do well, by Optuna's PED-ANOVA."""

from collections.abc import Sequence
from functools import lru_cache
from random import Random

from nas.architecture import Axis
from nas.pareto import comparable
from nas.ranking import Standing
from nas.search_figures import AxisImportance
from nas.varied_axes import size_steps, varied_axes

FEWEST = 8
"""Candidates, below which all that could be told is chance."""

_SHUFFLES = 39
"""Of their scores, the second highest is passed by chance in one of twenty cases."""


def axis_importance(leaderboard: Sequence[Standing]) -> tuple[AxisImportance, ...]:
    """Of every axis that varies, the most important first; empty where fewer than FEWEST candidates compare.

    It tells what sets the better half of the candidates at the furthest rung apart from all of them: how far the sizes
    are distributed differently among them. Each is held against what the same losses say when they are shuffled.
    """
    rows = sorted(comparable(leaderboard), key=lambda row: row.candidate_id)
    axes = varied_axes([row.architecture for row in rows])
    sizes = tuple(tuple(getattr(row.architecture, axis) for axis in axes) for row in rows)
    losses = tuple(row.loss for row in rows if row.loss is not None)
    if len(rows) < FEWEST or not axes or _median(losses) == max(losses):
        return ()
    return _importances(axes, sizes, losses)


@lru_cache(maxsize=64)
def _importances(
    axes: tuple[Axis, ...], sizes: tuple[tuple[int, ...], ...], losses: tuple[float, ...]
) -> tuple[AxisImportance, ...]:
    """The same for the same candidates, which pages ask for again and again."""
    scores = _scores(axes, sizes, losses)
    random, shuffled = Random(0), list(losses)
    by_chance: dict[Axis, list[float]] = {axis: [] for axis in axes}
    for _ in range(_SHUFFLES):
        random.shuffle(shuffled)
        for axis, score in _scores(axes, sizes, shuffled).items():
            by_chance[axis].append(score)
    found = [AxisImportance(axis, score, sorted(by_chance[axis])[-2]) for axis, score in scores.items()]
    return tuple(sorted(found, key=lambda each: -each.score))


def _scores(axes: Sequence[Axis], sizes: Sequence[Sequence[int]], losses: Sequence[float]) -> dict[Axis, float]:
    import optuna
    from optuna.distributions import BaseDistribution, IntDistribution
    from optuna.importance import PedAnovaImportanceEvaluator

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Every study would be announced.
    study = optuna.create_study()
    distributions: dict[str, BaseDistribution] = {}
    for axis, own in zip(axes, zip(*sizes, strict=True), strict=True):
        distributions[axis] = IntDistribution(min(own), max(own), step=size_steps(own))
    study.add_trials(
        optuna.trial.create_trial(params=dict(zip(axes, own, strict=True)), distributions=distributions, value=loss)
        for own, loss in zip(sizes, losses, strict=True)
    )
    # Not get_param_importances, which makes shares of the scores: these hide whether there is anything to share.
    found = PedAnovaImportanceEvaluator(target_quantile=0.5).evaluate(study)
    return {axis: found[axis] for axis in axes}


def _median(losses: Sequence[float]) -> float:
    """The highest loss of the better half."""
    return sorted(losses)[(len(losses) - 1) // 2]
