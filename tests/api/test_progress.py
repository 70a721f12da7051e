"""How far a search is while a trial is still scoring: what that counts in is no tokens of retraining."""

import re
from pathlib import Path

import pytest

from api.pages.rows import rows
from api.scheduler import Scheduler
from api.services.viewing import view
from api.store.database import Database
from nas.jobs import JobProgress, Trial
from nas.pool import Assignment, Update
from nas.views import SearchView
from tests.api.instant_pool import InstantPool, succeed
from tests.api.test_pages import job
from tests.api.test_scheduler import NOW, database
from tests.nas.test_figures import curves, search

__all__ = ["database"]  # The fixture.


def seen_with(database: Database, progress: JobProgress) -> SearchView:
    """The search while its trials all say so."""

    def outcome(assignment: Assignment) -> Update:
        if isinstance(assignment.spec, Trial):
            return Update(job_id=assignment.job_id, attempt=assignment.attempt, progress=progress)
        return succeed(assignment)

    turns = Scheduler(database, InstantPool(outcome), Path("/run"), clock=lambda: NOW)
    for _ in range(4):
        turns.step()
    with database.reading() as session:
        return view(session, "tiny")


@pytest.mark.parametrize(("unit", "done", "pace"), [("tokens", 4 * 600, 4 * 5.0), ("layer passes", 0, 0.0)])
def test_only_tokens_are_tokens(database: Database, unit: str, done: int, pace: float) -> None:
    seen = seen_with(database, JobProgress(done=600, total=900, unit=unit, per_second=5.0))
    assert [each.progress is not None for each in seen.jobs] == [True] * 4
    assert (seen.tokens_done, seen.tokens_per_second) == (done, pace)


def test_sparklines_are_as_wide_as_tokens_say() -> None:
    """Candidate 1 has 40 of 80 tokens behind it, however many layers candidate 2 has still to be run through."""
    losses = {1: {0: 4.0, 40: 3.0}, 2: {0: 4.0}}

    def widest(*told: JobProgress) -> float:
        jobs = tuple(job(number, progress=each) for number, each in enumerate(told, 1))
        row = next(row for row in rows(search(losses, jobs=jobs), curves(losses)) if row.standing.candidate_id == 1)
        found = re.search(r'<circle cx="([\d.]+)"', row.sparkline)
        assert found is not None
        return float(found[1])

    tokens = JobProgress(done=40, total=80, unit="tokens")
    passes = JobProgress(done=1, total=100_000, unit="layer passes")
    assert widest(tokens, passes) == widest(tokens) == 36.0
