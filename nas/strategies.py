"""The strategy that a spec names, asked for its decisions."""

from collections.abc import Mapping, Sequence

from nas.halving import halving
from nas.racing import racing
from nas.spec import SearchSpec
from nas.strategy import Cohort, Decision, Judge, Ladder, TrialHistory, by_rungs, exhaustive


def decide(spec: SearchSpec, ends: Sequence[int], history: Sequence[TrialHistory]) -> list[Decision]:
    """What each trial should do next; none when there is nothing new to say.

    `ends` are the tokens behind a trial at the end of the spec's budget, and of every extension.
    """
    strategy = spec.strategy
    judge: Judge
    match strategy.kind:
        case "halving":
            judge = halving(strategy.keep, finalists(spec))
        case "racing":
            judge = racing(strategy.confidence, strategy.run_to_run, finalists(spec))
        case "exhaustive" | "tpe":
            if strategy.reject_behind is None:
                return exhaustive(history, ends[-1])
            judge = _nobody
    rungs = ladder(spec, ends)
    if strategy.reject_behind is not None and rungs.rungs:
        judge = screened(judge, strategy.reject_behind, rungs.rungs[0])
    return by_rungs(history, rungs, judge)


def finalists(spec: SearchSpec) -> int:
    """How many have to come to the end: as many as are promoted, or are asked at the gate."""
    gate = spec.promotion.gate
    return max(1, spec.promotion.winners, 0 if gate is None else gate.candidates)


def ladder(spec: SearchSpec, ends: Sequence[int]) -> Ladder:
    """The spec's rungs in whole steps; before them, where candidates are screened, a single step."""
    length = spec.data.sequence_length
    per_step, num_steps = spec.trial.batch_size * length, spec.trial.num_steps(length)
    steps = {round(num_steps * share) for share in spec.strategy.rungs} if spec.strategy.has_rungs else set()
    if spec.strategy.reject_behind is not None:
        steps.add(1)
    return Ladder(tuple(step * per_step for step in sorted(steps) if 0 < step < num_steps), tuple(ends))


def screened(judge: Judge, behind_by: float, first: int) -> Judge:
    """`judge`, and before it, at the `first` rung, whoever was behind the best right after pruning by more than that.

    Only gross rejects: the order right after pruning misleads (P1, figure 9).
    """

    def both(behind: Cohort, there: Cohort, place: int, full_tokens: int) -> Mapping[int, str]:
        if place != first:
            return judge(behind, there, place, full_tokens)
        losses = {each: trials[0].losses[0] for each, trials in there.items()}
        best = min(losses.values())
        return {
            each: f"{losses[each] - best:.3f} nats behind the best right after pruning, more than {behind_by:g}"
            for each in sorted(behind)
            if losses[each] - best > behind_by
        }

    return both


def _nobody(behind: Cohort, there: Cohort, place: int, full_tokens: int) -> Mapping[int, str]:
    return {}
