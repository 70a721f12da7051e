"""The leaderboard: candidates in the order of their losses, compared only at equal tokens."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from statistics import fmean
from typing import Protocol

from nas.architecture import Architecture
from nas.border import Border
from nas.certainty import Measured, certainty, size_adjusted
from nas.racing import Lag
from nas.states import TrialState


class Point(Protocol):
    """What a ranking needs of a measurement, or of the mean of several."""

    @property
    def tokens(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def kl_to_teacher(self) -> float: ...
    @property
    def num_seeds(self) -> int: ...


class CurvePoint(Border):
    """Losses in nats per token after `tokens` tokens: the mean over the trials, one for each seed, measured there."""

    tokens: int
    loss: float
    kl_to_teacher: float
    num_seeds: int = 1


def mean_curve(curves: Sequence[Sequence[CurvePoint]]) -> tuple[CurvePoint, ...]:
    """The mean over the trials of one candidate, at every token count over those that were measured there."""
    if len(curves) == 1:
        return tuple(curves[0])
    at: dict[int, list[CurvePoint]] = defaultdict(list)
    for curve in curves:
        for point in curve:
            at[point.tokens].append(point)
    return tuple(
        CurvePoint(
            tokens=tokens,
            loss=fmean(point.loss for point in points),
            kl_to_teacher=fmean(point.kl_to_teacher for point in points),
            num_seeds=len(points),
        )
        for tokens, points in sorted(at.items())
    )


@dataclass(frozen=True)
class Contender:
    """A candidate and its curve, points in the order of tokens."""

    candidate_id: int
    architecture: Architecture
    parameters: int
    non_embedding_parameters: int
    curve: Sequence[Point]
    state: TrialState
    reason: str | None = None


class Standing(Border):
    """One row of the leaderboard. Losses are validation cross-entropies in nats per token.

    `rank_after_pruning` orders all candidates by their loss before any retraining. `num_seeds` is over how many trials
    losses are means. `state` is the trials', derived from their jobs; a candidate whose trials failed has no rank.

    How sure the rank is, is told of the first among those with the most tokens of retraining: `error` is the standard
    error of the difference to the best's loss; `ties` are the first and the last of the ranks that this one shares, in
    truth, with those that it cannot be told apart from; `probability_best` is the one of being the best, and
    `size_adjusted_loss` the loss less what its number of parameters alone explains among these.
    """

    rank: int | None
    rank_after_pruning: int | None
    candidate_id: int
    architecture: Architecture
    parameters: int
    non_embedding_parameters: int
    tokens: int
    num_seeds: int
    loss: float | None
    loss_after_pruning: float | None
    kl_to_teacher: float | None
    state: TrialState
    reason: str | None
    error: float | None = None
    ties: tuple[int, int] | None = None
    probability_best: float | None = None
    size_adjusted_loss: float | None = None


def leaderboard(contenders: Sequence[Contender]) -> list[Standing]:
    """Candidates by furthest measurement, then by the loss there; ties by the order of enumeration.

    Those not measured yet come last, without a rank.
    """
    measured = [contender for contender in contenders if contender.curve and contender.state is not TrialState.FAILED]
    others = [contender for contender in contenders if not contender.curve or contender.state is TrialState.FAILED]
    measured.sort(key=lambda c: (-c.curve[-1].tokens, c.curve[-1].loss, c.candidate_id))
    pruned = [c for c in contenders if c.curve and c.curve[0].tokens == 0]
    pruned.sort(key=lambda c: (c.curve[0].loss, c.candidate_id))
    pruned_ranks = {contender.candidate_id: rank for rank, contender in enumerate(pruned, start=1)}
    ranks = {contender.candidate_id: rank for rank, contender in enumerate(measured, start=1)}
    return [_standing(c, ranks.get(c.candidate_id), pruned_ranks.get(c.candidate_id)) for c in [*measured, *others]]


_ON_THE_WAY = (TrialState.RUNNING, TrialState.QUEUED, TrialState.WAITING)


def level(rows: Sequence[Standing]) -> list[Standing]:
    """Those with the most tokens of retraining, best first: only their losses compare."""
    furthest = max((row.tokens for row in rows if row.rank is not None), default=0)
    return [row for row in rows if row.rank is not None and row.tokens == furthest > 0]


def at_common_tokens(rows: Sequence[Standing], curves: Mapping[int, Sequence[Point]]) -> list[Standing]:
    """The rows in their order, with the losses after the most tokens that at least half of those ranked have come to.

    Where candidates were stopped on the way, few are at the end, and what all of them say is said further back.
    `curves` are by candidate. Rows that were not measured there stay as they are.
    """
    points = {row.candidate_id: {each.tokens: each for each in curves.get(row.candidate_id, ())} for row in rows}
    ranked = [points[row.candidate_id] for row in rows if row.rank is not None]
    counts = Counter(tokens for own in ranked for tokens in own if tokens > 0)
    common = max((tokens for tokens, count in counts.items() if 2 * count >= len(ranked)), default=None)
    if common is None:
        return list(rows)
    return [
        row.model_copy(update={"tokens": common, "loss": point.loss, "kl_to_teacher": point.kl_to_teacher})
        if row.rank is not None and (point := points[row.candidate_id].get(common)) is not None
        else row
        for row in rows
    ]


def told_how_sure(
    rows: Sequence[Standing], measured: Mapping[int, Measured], stopped: Mapping[int, Lag], run_to_run: float
) -> list[Standing]:
    """The leaderboard `rows` with how sure its upper part is; unchanged while any that still runs has not come as far.

    `measured` are the losses, by candidate, at the tokens of the first, of as many of the first as are to be told of;
    `stopped`, of those given up on the way, how far behind the first they were heading; `run_to_run` as in
    StrategySpec.
    """
    there = level(rows)
    if any(row.state in _ON_THE_WAY for row in rows[len(there) :]):
        return list(rows)
    known = list(takewhile(lambda row: row.candidate_id in measured, there))
    found, of_stopped = certainty([measured[row.candidate_id] for row in known], run_to_run, list(stopped.values()))
    probabilities = dict(zip(stopped, of_stopped, strict=False))
    adjusted = size_adjusted([row.loss or 0.0 for row in there], [row.parameters for row in there])
    told = [
        {"size_adjusted_loss": None if adjusted is None else adjusted[place]}
        | ({} if place >= len(found) else asdict(found[place]))
        for place in range(len(there))
    ]
    return [row.model_copy(update=each) for row, each in zip(there, told, strict=True)] + [
        row.model_copy(update={"probability_best": probabilities.get(row.candidate_id)}) for row in rows[len(there) :]
    ]


def _standing(contender: Contender, rank: int | None, rank_after_pruning: int | None) -> Standing:
    curve = contender.curve
    return Standing(
        rank=rank,
        rank_after_pruning=rank_after_pruning,
        candidate_id=contender.candidate_id,
        architecture=contender.architecture,
        parameters=contender.parameters,
        non_embedding_parameters=contender.non_embedding_parameters,
        tokens=curve[-1].tokens if curve else 0,
        num_seeds=curve[-1].num_seeds if curve else 0,
        loss=curve[-1].loss if curve else None,
        loss_after_pruning=curve[0].loss if curve and curve[0].tokens == 0 else None,
        kl_to_teacher=curve[-1].kl_to_teacher if curve else None,
        state=contender.state,
        reason=contender.reason,
    )
