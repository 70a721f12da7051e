"""The claims on order and on shapes, from the kept record of an exhaustive search."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import kendalltau

from benchmarks.demo_runs import mean_and_error
from benchmarks.paper_claims.claim import Claim, below, differences
from benchmarks.search_record.kept import Kept
from nas.architecture import Architecture

# Table 1: KL to the teacher right after the cut, and loss after 1.8 billion tokens, of four cuts of one teacher.
TABLE_1 = {"MLP, heads": (5.07, 2.101), "all": (5.35, 2.062), "MLP, heads, embedding": (6.33, 2.049),
           "depth": (8.35, 2.155)}  # fmt: skip
SETTLED = 0.75
"""Of its 400 steps, when the paper's ranks are stable: from about step 300 on (figure 9)."""

WIDTH = {"hidden_size": 168, "intermediate_size": 256, "num_attention_heads": 4}
DEPTH = {"num_hidden_layers": 4}
"""Both leave about half of the parameters that are not embeddings."""


@dataclass(frozen=True)
class _Losses:
    """Of one candidate, by seed: right after the cut and at the end."""

    start: list[float]
    end: list[float]

    @property
    def told(self) -> str:
        return f"{self.start[0]:.3f} -> {mean_and_error(self.end)}"


class Curves:
    """C candidates, S seeds, M measurements: mean losses, and how far orders agree, by Kendall's tau."""

    def __init__(self, kept: Kept, teacher: Architecture) -> None:
        self._kept, self._teacher = kept, teacher
        self._losses_CSM: NDArray[np.float64] = kept.losses_CSMQ.mean(-1, dtype=np.float64)
        self.tokens = int(kept.tokens_M[-1])

    def claims(self) -> Iterator[Claim]:
        yield self._order_changes()
        yield self._ranks_settle()
        yield self._width_beats_depth()

    def table(self) -> Table:
        """Every measurement: how far its order agrees with the next one's, and with the last."""
        table = Table("tokens", "tau with the next", "tau with the last", title="order over tokens", box=None)
        last = len(self._kept.tokens_M) - 1
        for number, tokens in enumerate(self._kept.tokens_M[:-1]):
            told = (mean_and_error(self._taus(number, other)) for other in (number + 1, last))
            table.add_row(f"{tokens:,}", *told)
        table.add_row("of a seed's last with the other seeds'", "", mean_and_error(self._of_seeds()))
        return table

    def _order_changes(self) -> Claim:
        after_cut, of_seeds = self._taus(0, -1), self._of_seeds()
        ranks_CSM = self._losses_CSM.argsort(axis=0).argsort(axis=0)
        moved = np.abs(ranks_CSM[:, :, 0] - ranks_CSM[:, :, -1]).mean(axis=0).tolist()
        means_CM = self._losses_CSM.mean(axis=1)
        first, best = int(means_CM[:, 0].argmin()), int(means_CM[:, -1].argmin())
        regret = differences(self._losses_CSM[first, :, -1].tolist(), self._losses_CSM[best, :, -1].tolist())
        rank = int((means_CM[:, -1] < means_CM[first, -1]).sum()) + 1
        was = int((means_CM[:, 0] < means_CM[best, 0]).sum()) + 1
        changed, num_pairs = self._changed_pairs()
        theirs = float(kendalltau(*zip(*TABLE_1.values(), strict=True)).statistic)
        return Claim(
            says="the order after pruning is not the order after retraining",
            paper=f"table 1, 4 cuts: tau {theirs:.2f}\nthe first ends third, and the best was third",
            ours=f"{len(means_CM)} candidates: tau {mean_and_error(after_cut)}, of seeds {mean_and_error(of_seeds)}\n"
            f"{changed} of {num_pairs} pairs change places, ranks move by {statistics.fmean(moved):.1f} in the mean\n"
            f"the first ends as number {rank}, {mean_and_error(regret)} above the best, which was number {was}",
            parts=(below(after_cut, of_seeds),),
            figures={
                "tau_after_pruning": statistics.fmean(after_cut),
                "tau_of_seeds": statistics.fmean(of_seeds),
                "pairs_that_change_places": changed / num_pairs,
                "mean_rank_change": statistics.fmean(moved),
                "regret_of_first_after_pruning": statistics.fmean(regret),
            },
        )

    def _changed_pairs(self) -> tuple[int, int]:
        """Pairs whose order at the end is the other way round by more than two standard errors, of how many."""
        losses = [self._losses(each) for each in self._kept.candidates]
        pairs = [
            (one, other) if one.start[0] < other.start[0] else (other, one) for one, other in combinations(losses, 2)
        ]
        return sum(below(second.end, first.end) for first, second in pairs), len(pairs)

    def _ranks_settle(self) -> Claim:
        tokens, of_seeds = self._kept.tokens_M, self._of_seeds()
        late = int(np.searchsorted(tokens, SETTLED * self.tokens))
        taus = [self._taus(number, -1) for number in range(len(tokens))]
        as_seeds = [not below(each, of_seeds) for each in taus]
        settled = next(number for number in range(len(taus)) if all(as_seeds[number:]))
        return Claim(
            says="ranks settle with tokens",
            paper="figure 9, 15 candidates: significant changes up to step 300 of 400, then stable\nno numbers",
            ours=f"tau with the last order {mean_and_error(taus[1])} after {tokens[1] / self.tokens:.1%} of the "
            f"tokens, {mean_and_error(taus[late])} after {tokens[late] / self.tokens:.1%}\n"
            f"as near to it as another seed's from {tokens[settled] / self.tokens:.1%} on",
            parts=(below(taus[1], taus[late]), as_seeds[late]),
            figures={
                "tau_early": statistics.fmean(taus[1]),
                "tau_at_three_quarters": statistics.fmean(taus[late]),
                "settled_at": float(tokens[settled] / self.tokens),
            },
        )

    def _width_beats_depth(self) -> Claim:
        teacher = self._teacher
        width, depth = (self._losses(teacher.resized(**sizes)) for sizes in (WIDTH, DEPTH))
        all_in_width = [each for each in self._kept.candidates if each.num_hidden_layers == teacher.num_hidden_layers]
        over = [statistics.fmean(differences(depth.end, self._losses(each).end)) for each in all_in_width]
        pairs = {
            each.hidden_size: (self._losses(each), self._losses(other)) for each, other in self._a_layer_for_neurons()
        }
        fewer = {size: differences(other.end, each.end) for size, (each, other) in pairs.items()}
        told = (
            f"hidden size {size}: both {other.told}, width {each.told}, difference {mean_and_error(fewer[size])}"
            for size, (each, other) in pairs.items()
        )
        return Claim(
            says="width beats depth; some depth beside width is better after pruning, and worse after retraining",
            paper="table 10: width 2.049, depth 2.155\ntable 1, KL -> loss: both 5.35 -> 2.062, width 6.33 -> 2.049\n"
            "figure 6: they change places before step 200",
            ours=f"width {width.told}, depth {depth.told}\n"
            f"depth ends {min(over):.3f} to {max(over):.3f} above all {len(over)} cuts in width alone\n"
            + "\n".join(told),
            parts=(
                below(width.end, depth.end),
                *(below(other.start, each.start) and below(each.end, other.end) for each, other in pairs.values()),
            ),
            figures={
                "depth_over_width": statistics.fmean(differences(depth.end, width.end)),
                "depth_over_worst_in_width": min(over),
                "most_that_both_is_over_width": max(map(statistics.fmean, fewer.values())),
                "least_that_both_is_over_width": min(map(statistics.fmean, fewer.values())),
            },
        )

    def _a_layer_for_neurons(self) -> Iterator[tuple[Architecture, Architecture]]:
        """All pairs of a cut in width alone and one with a layer less, a wider MLP, and else the same sizes.

        An eighth of the layers goes, as in the paper, where it is 4 of 32.
        """
        layers = self._teacher.num_hidden_layers
        for each in self._kept.candidates:
            for other in self._kept.candidates:
                shorter = each.resized(num_hidden_layers=layers - 1, intermediate_size=other.intermediate_size)
                if each.num_hidden_layers == layers and other == shorter:
                    yield each, other

    def _losses(self, shape: Architecture) -> "_Losses":
        losses_SM = self._losses_CSM[self._kept.candidates.index(shape)]
        return _Losses(losses_SM[:, 0].tolist(), losses_SM[:, -1].tolist())

    def _taus(self, measurement: int, other: int) -> list[float]:
        """By seed."""
        losses_SCM = self._losses_CSM.swapaxes(0, 1)
        return [_tau(losses_CM[:, measurement], losses_CM[:, other]) for losses_CM in losses_SCM]

    def _of_seeds(self) -> list[float]:
        """Each seed's last order and that by the mean of the others: nothing can be asked to agree better."""
        last_SC = self._losses_CSM[:, :, -1].T
        return [_tau(own_C, np.delete(last_SC, seed, axis=0).mean(axis=0)) for seed, own_C in enumerate(last_SC)]


def _tau(values: Sequence[float] | NDArray[np.float64], others: Sequence[float] | NDArray[np.float64]) -> float:
    return float(kendalltau(values, others).statistic)
