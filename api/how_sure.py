"""The leaderboard of a search with how sure it is, from the losses of sequences and the curves of all."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from api.standing import standings
from api.store.curves import SearchCurves
from api.store.records import CandidateRecord, JobRecord, SearchRecord
from api.store.store import Store
from nas.certainty import MOST_LEADERS, Measured
from nas.racing import Lag, lags
from nas.ranking import Standing, level, told_how_sure
from nas.states import TrialState
from nas.strategy import TrialHistory

Losses = Mapping[int, NDArray[np.float32]]
"""By trial, those of every validation sequence."""


def sure_standings(
    store: Store,
    search: SearchRecord,
    candidates: Sequence[CandidateRecord],
    jobs: Sequence[JobRecord],
    curves: SearchCurves,
) -> list[Standing]:
    """As far as that is told: of the first MOST_LEADERS, and once no other is on its way to where they are."""
    rows = standings(candidates, jobs, curves)
    leaders = level(rows)[:MOST_LEADERS]
    if not leaders:
        return rows
    tokens, trials = leaders[0].tokens, {each.id: [trial.id for trial in each.trials] for each in candidates}
    sequences = store.curves.sequences_at(tokens, [trial for row in leaders for trial in trials[row.candidate_id]])
    measured = {row.candidate_id: _measured(trials[row.candidate_id], curves, tokens, sequences) for row in leaders}
    stopped = [row for row in rows[:MOST_LEADERS] if row.state is TrialState.STOPPED and row not in leaders]
    behind: dict[int, Lag] = {}
    for place in sorted({row.tokens for row in stopped}):
        there = _there(trials, curves, place)
        if leaders[0].candidate_id in there:
            run_to_run, leader = search.spec.strategy.run_to_run, leaders[0].candidate_id
            found = lags(there, place, search.trial_ends[0], run_to_run, leader)
            mine = {row.candidate_id for row in stopped if row.tokens == place}
            behind |= {each: lag for each, lag in found.items() if each in mine}
    return told_how_sure(rows, measured, behind, search.spec.strategy.run_to_run)


def _measured(trial_ids: Sequence[int], curves: SearchCurves, tokens: int, sequences: Losses) -> Measured:
    """A candidate's losses after so many tokens, of the trials that were measured there."""
    newest = [(each, curves.of_trial[each][-1]) for each in trial_ids if curves.of_trial.get(each)]
    there = [(each, point.loss) for each, point in newest if point.tokens == tokens]
    found = [sequences[each] for each, _ in there if each in sequences]
    return Measured(tuple(loss for _, loss in there), tuple(found) if len(found) == len(there) else ())


def _there(trials: Mapping[int, Sequence[int]], curves: SearchCurves, place: int) -> dict[int, list[TrialHistory]]:
    """By candidate, the curves of those that were measured after so many tokens, up to there."""
    found: dict[int, list[TrialHistory]] = {}
    for candidate_id, trial_ids in trials.items():
        for trial_id in trial_ids:
            losses = {point.tokens: point.loss for point in curves.of_trial.get(trial_id, ())}
            if place in losses:
                found.setdefault(candidate_id, []).append(
                    TrialHistory(trial_id, candidate_id, told_tokens=place, tokens=place, losses=losses)
                )
    return found
