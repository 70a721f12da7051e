"""How much ranks still move: Kendall's tau between successive points of all curves."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from nas.border import Border
from nas.ranking import Point

_FEWEST = 3


class RankMovement(Border):
    """Kendall's tau-b between the orders of `num_candidates` by their losses after `before` and after `after` tokens.

    1 is the same order, 0 none in common, -1 the opposite.
    """

    before: int
    after: int
    tau: float
    num_candidates: int


def rank_movements(curves: Mapping[int, Sequence[Point]]) -> tuple[RankMovement, ...]:
    """Between every two successive token counts, of the candidates that were measured at both, three at least."""
    losses: dict[int, dict[int, float]] = {}
    for candidate_id, curve in curves.items():
        for point in curve:
            losses.setdefault(point.tokens, {})[candidate_id] = point.loss
    found = []
    counts = sorted(tokens for tokens, of_candidates in losses.items() if len(of_candidates) >= _FEWEST)
    for before, after in pairwise(counts):
        both = sorted(losses[before].keys() & losses[after].keys())
        if len(both) >= _FEWEST:
            tau = kendall_tau([losses[before][each] for each in both], [losses[after][each] for each in both])
            found.append(RankMovement(before=before, after=after, tau=tau, num_candidates=len(both)))
    return tuple(found)


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Tau-b, which takes ties into account; 0 where one of them puts nothing in order."""
    # Row by row: the table of all pairs would not fit for thousands of candidates.
    concordant, untied_first, untied_second = 0.0, 0.0, 0.0
    a, b = np.array(first), np.array(second)
    for i in range(len(a) - 1):
        of_first, of_second = np.sign(a[i + 1 :] - a[i]), np.sign(b[i + 1 :] - b[i])
        concordant += float(of_first @ of_second)
        untied_first += float(np.abs(of_first).sum())
        untied_second += float(np.abs(of_second).sum())
    pairs = (untied_first * untied_second) ** 0.5
    return concordant / pairs if pairs else 0.0
