"""What the rows of a leaderboard say beyond their standings."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from api import words
from api.pages.glyph import glyph
from api.pages.sparkline import common_scale, sparkline
from nas.figures import Curves, colours
from nas.ranking import Standing, level
from nas.states import JobState, TrialState
from nas.views import JobView, SearchView


@dataclass(frozen=True)
class Row:
    """`position` counts rows from the top; `is_level`: as far as the furthest, so that its loss compares with theirs.

    `move` is how many places better (or, negative, worse) it stands among these than right after pruning. `remark`
    says why its trial failed, or why it waits, `pace` how fast one that runs is.
    """

    standing: Standing
    position: int
    is_level: bool
    move: int | None
    glyph: Markup
    sparkline: Markup
    trial: str
    pace: str
    remark: str | None

    @property
    def rank(self) -> str:
        return words.rank(self.standing)

    @property
    def tie(self) -> str:
        return words.tie(self.standing)

    @property
    def behind(self) -> str:
        return words.behind(self.standing)

    @property
    def probability(self) -> str:
        return words.probability(self.standing)

    @property
    def is_retrained(self) -> bool:
        """Until then its loss is the one after pruning."""
        return self.standing.tokens > 0

    @property
    def has_failed(self) -> bool:
        return self.standing.state is TrialState.FAILED


def rows(view: SearchView, curves: Curves | None) -> list[Row]:
    """The leaderboard from the top; without curves, a row's is the line from its first loss to its last."""
    points = {row.candidate_id: _points(row, curves) for row in view.leaderboard}
    trials = [job for job in view.jobs if job.kind == "trial"]
    # Of several trials of a candidate, one that runs is told of.
    jobs = {job.candidate_id: job for job in sorted(trials, key=lambda job: job.state is JobState.RUNNING)}
    told = [job.progress for job in jobs.values() if job.progress is not None and job.progress.unit == "tokens"]
    furthest = max((progress.total for progress in told), default=0)
    scale = common_scale(list(points.values()), least_tokens=furthest)
    colour_of = colours(view.leaderboard)
    there = level(view.leaderboard)
    move_of = _moves(there)
    return [
        Row(
            standing=row,
            position=position,
            is_level=row in there,
            move=move_of.get(row.candidate_id),
            glyph=glyph(row.architecture, view.teacher),
            sparkline=sparkline(points[row.candidate_id], scale, colour_of.get(row.candidate_id)),
            trial=words.trial(row, jobs.get(row.candidate_id)),
            pace=_pace(row, jobs.get(row.candidate_id)),
            remark=_remark(row, jobs.get(row.candidate_id)),
        )
        for position, row in enumerate(view.leaderboard)
    ]


def _moves(there: Sequence[Standing]) -> dict[int, int]:
    """By candidate id; both orders are among the same candidates, so none moves because another is missing."""
    now = [row for row in there if row.rank_after_pruning is not None]
    before = sorted(now, key=lambda row: row.rank_after_pruning or 0)
    return {row.candidate_id: before.index(row) - place for place, row in enumerate(now)}


def _points(row: Standing, curves: Curves | None) -> list[tuple[int, float]]:
    if curves is not None:
        return [(point.tokens, point.loss) for point in curves.get(row.candidate_id, ())]
    ends = [(0, row.loss_after_pruning)] if row.tokens else []
    return [(tokens, loss) for tokens, loss in [*ends, (row.tokens, row.loss)] if loss is not None]


def _pace(row: Standing, job: JobView | None) -> str:
    if row.state is not TrialState.RUNNING or job is None or job.progress is None:
        return ""
    return words.telemetry([job.progress])


def _remark(row: Standing, job: JobView | None) -> str | None:
    if row.state in (TrialState.FAILED, TrialState.STOPPED):
        return row.reason
    return None if job is None else words.waiting(job)
