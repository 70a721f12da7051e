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
        # The first step may be a rung of the spec's own as well.
        first_alone = _nobody if rungs.rungs[0] not in _own_rungs(spec) else judge
        judge = screened(judge, first_alone, strategy.reject_behind, rungs.rungs[0])
    return by_rungs(history, rungs, judge)


def finalists(spec: SearchSpec) -> int:
    """How many have to come to the end: as many as are promoted, or are asked at the gate."""
    gate = spec.promotion.gate
    return max(1, spec.promotion.winners, 0 if gate is None else gate.candidates)


def ladder(spec: SearchSpec, ends: Sequence[int]) -> Ladder:
    """The spec's rungs in whole steps; before them, where candidates are screened, a single step."""
    rungs, one_step = _own_rungs(spec), spec.trial.batch_size * spec.data.sequence_length
    if spec.strategy.reject_behind is not None and one_step < ends[0]:
        rungs = rungs | {one_step}
    return Ladder(tuple(sorted(rungs)), tuple(ends))


def _own_rungs(spec: SearchSpec) -> frozenset[int]:
    """The tokens of those that the spec's strategy has."""
    if not spec.strategy.has_rungs:
        return frozenset()
    length = spec.data.sequence_length
    per_step, num_steps = spec.trial.batch_size * length, spec.trial.num_steps(length)
    steps = (round(num_steps * share) for share in spec.strategy.rungs)
    return frozenset(step * per_step for step in steps if 0 < step < num_steps)


def screened(judge: Judge, at_first: Judge, behind_by: float, first: int) -> Judge:
    """`judge`; at the `first` rung `at_first`, of those who were not behind the best right after pruning by more.

    Only gross rejects: the order right after pruning misleads (P1, figure 9).
    """

    def both(behind: Cohort, there: Cohort, place: int, full_tokens: int) -> Mapping[int, str]:
        if place != first:
            return judge(behind, there, place, full_tokens)
        losses = {each: trials[0].losses[0] for each, trials in there.items()}
        best = min(losses.values())
        rejected = {
            each: f"{losses[each] - best:.3f} nats behind the best right after pruning, more than {behind_by:g}"
            for each in sorted(behind)
            if losses[each] - best > behind_by
        }
        return rejected | dict(at_first(_but(behind, rejected), _but(there, rejected), place, full_tokens))

    return both


def _but(cohort: Cohort, leaving: Mapping[int, str]) -> Cohort:
    return {candidate_id: trials for candidate_id, trials in cohort.items() if candidate_id not in leaving}


def _nobody(behind: Cohort, there: Cohort, place: int, full_tokens: int) -> Mapping[int, str]:
    return {}
