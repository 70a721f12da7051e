"""The loss on each of several sources, on every surface, against the losses that a worker told."""

from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

import pytest

from api.pages import render
from api.scheduler import Scheduler
from api.services import viewing
from api.services.submission import submit
from api.store.database import Database
from nas.jobs import PrepareData, SourcePrepared
from nas.pool import Assignment, Update
from tests.api.instant_pool import InstantPool, succeed
from tests.conftest import tiny_spec

NOW = datetime(2027, 1, 1, tzinfo=UTC)
COUNTS = {"code": 5, "prose": 3}


def with_sources(assignment: Assignment) -> Update:
    """As a real job's: losses of all sequences, those of the first source first; other seeds have other losses."""
    update = succeed(assignment)
    content = update.model_dump()
    if isinstance(assignment.spec, PrepareData):
        content["result"]["sources"] = [
            SourcePrepared(
                name=name,
                per_block=500,
                documents=9,
                tokens=99,
                validation_documents=1,
                validation_tokens=9,
                validation_sequences=count,
            ).model_dump()
            for name, count in COUNTS.items()
        ]
    for point in content["measurements"]:
        point["loss_per_sequence"] = tuple(point["loss"] + number / 16 for number in range(8))
    return Update.model_validate(content)


@pytest.mark.parametrize("outcome", [with_sources, succeed])
def test_a_candidate_has_a_loss_on_each_of_several_sources(
    database: Database, teacher_folder: Path, text_file: Path, tmp_path: Path, outcome: type
) -> None:
    submit(database, tiny_spec(teacher_folder, text_file), NOW)
    scheduler = Scheduler(database, InstantPool(outcome), tmp_path, clock=lambda: NOW)
    while scheduler.step():
        pass
    scheduler.stop()
    with database.reading() as session:
        view = viewing.view(session, "tiny")
        details = viewing.candidate(session, "tiny", view.leaderboard[0].candidate_id)
    html = render.candidate_page(details, view, None)
    assert details.promotion is not None
    if outcome is succeed:
        assert details.sources == ()
        assert "<h2>Sources</h2>" not in html
        return
    code, prose = details.sources
    assert {code.name: code.validation_sequences, prose.name: prose.validation_sequences} == COUNTS
    for run, curve in (("trial", details.curve), ("promotion", details.promotion.curve)):
        for source, numbers in ((code, range(5)), (prose, range(5, 8))):
            wanted = {point.tokens: fmean(point.loss + number / 16 for number in numbers) for point in curve}
            assert {point.tokens: point.loss for point in getattr(source, run)} == pytest.approx(wanted, rel=1e-6)
    assert (
        f'<td>code</td><td class="n">5</td><td>promotion</td><td class="n">{details.promotion.curve[-1].tokens:,}</td>'
        in html
    )
    assert f"{prose.promotion[-1].loss:.4f}</td>" in html
