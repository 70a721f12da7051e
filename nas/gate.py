"""Who is promoted of those who have answered questions: accuracy first, and the loss where it does not tell."""

from collections.abc import Sequence
from math import sqrt


def passing(accuracies: Sequence[float], num_questions: int, min_accuracy: float | None) -> list[int]:
    """Who may be promoted, first those who go first, by their places in `accuracies`, the order of their losses.

    Below `min_accuracy` nobody is. Those within one standard error of the best's accuracy are as good as it is, and
    keep the order of their losses; the others follow by their accuracies.
    """
    enough = [place for place, accuracy in enumerate(accuracies) if min_accuracy is None or accuracy >= min_accuracy]
    best = max((accuracies[place] for place in enough), default=0.0)
    error = sqrt(best * (1 - best) / num_questions)
    level = [place for place in enough if accuracies[place] >= best - error]
    behind = [place for place in enough if place not in level]
    return level + sorted(behind, key=lambda place: -accuracies[place])
