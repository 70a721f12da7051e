"""Plans as they are asked for: on the command line, over REST, from Python, and by what has been measured."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.cli import main
from api.plan_display import plan as shown
from api.scheduler import Scheduler
from api.services.planning import plan_search
from api.services.submission import submit
from api.store.database import Database
from api.store.throughput import ended_runs
from nas.architecture import Architecture
from nas.client import Client
from nas.errors import SettingError, SpecError
from nas.plan import PlanView
from nas.pool import Assignment, Failure, Update
from nas.space import SearchSpace
from nas.spec import SearchSpec
from nas.spec_file import read_spec
from nas.training_cost import flops_per_token
from tests.api.conftest import new_sqlite
from tests.api.instant_pool import InstantPool, succeed
from tests.api.rest.answers import refusal
from tests.api.serving import Service, browsing, serving
from tests.conftest import tiny_spec

EXAMPLES = Path(__file__).parents[2] / "examples"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def spec(teacher_folder: Path, text_file: Path) -> SearchSpec:
    return tiny_spec(teacher_folder, text_file, strategy={"kind": "exhaustive"})


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running


def finish(database: Database, outcome: Any = succeed) -> None:
    """Brings every search to its end, on a clock that every step moves by a second."""
    now = [NOW]
    scheduler = Scheduler(database, InstantPool(outcome), Path("/run"), clock=lambda: now[0])
    for _ in range(100):
        if not scheduler.step():
            return
        now[0] += timedelta(seconds=1)
    raise AssertionError("a search did not end")


def lost_at_first(assignment: Assignment) -> Update:
    """The first attempt at every trial is lost with its worker."""
    if assignment.spec.kind == "trial" and assignment.attempt == 1:
        failure = Failure(reason="its worker was lost", lost=True)
        return Update(job_id=assignment.job_id, attempt=assignment.attempt, failure=failure)
    return succeed(assignment)


# --- what was measured --------------------------------------------------------------------------------------

RUNS = """
SELECT c.architecture, s.teacher, (SELECT max(m.tokens) FROM measurements m WHERE m.{run}_id = r.id) AS tokens,
  (SELECT sum(a.device_seconds) FROM attempts a JOIN jobs j ON j.id = a.job_id
   WHERE j.{run}_id = r.id AND j.kind = '{run}') AS seconds
FROM {run}s r JOIN trials t ON t.id = {trial} JOIN candidates c ON c.id = t.candidate_id
JOIN searches s ON s.id = c.search_id
"""


def shape(content: Any) -> Architecture:
    return Architecture.model_validate(json.loads(content) if isinstance(content, str) else content)


def by_hand(session: Session) -> tuple[float, float, int]:
    """FLOPs and device seconds of all trials and promotions of a store, and how many these are, by plain SQL."""
    flops, seconds, number = 0.0, 0.0, 0
    for run, trial in (("trial", "r.id"), ("promotion", "r.trial_id")):
        for student, teacher, tokens, used in session.execute(text(RUNS.format(run=run, trial=trial))):
            flops += flops_per_token(shape(student), shape(teacher), 32) * tokens
            seconds, number = seconds + used, number + 1
    return flops, seconds, number


def test_a_plan_goes_by_what_trials_and_promotions_have_come_to(database: Database, spec: SearchSpec) -> None:
    before = plan_search(spec, database=database)
    assert (before.throughput_from, before.flops_per_second) == ("spec", spec.hardware.flops_per_second)
    assert before == plan_search(spec)
    submit(database, spec, NOW)
    finish(database, lost_at_first)
    after = plan_search(spec, database=database)
    with database.reading() as session:
        flops, seconds, number = by_hand(session)
    assert (after.throughput_from, after.num_runs) == ("measured", number) == ("measured", 4 + 1)
    assert seconds >= 4 * 2 + 1  # Lost attempts have taken their time too.
    assert after.flops_per_second == pytest.approx(flops / seconds)
    slower = before.flops_per_second / after.flops_per_second
    assert after.trial_device_hours == pytest.approx(before.trial_device_hours * slower)


def test_runs_of_another_size_say_nothing(tmp_path: Path, spec: SearchSpec) -> None:
    """The teacher of 8 billion parameters takes a hundred thousand times the FLOPs per token of what has run."""
    database = Database(new_sqlite(tmp_path))
    submit(database, spec, NOW)
    finish(database)
    assert plan_search(spec, database=database).throughput_from == "measured"
    large = read_spec(EXAMPLES / "llama-3.1-8b" / "width-4b.yaml")
    assert plan_search(large, database=database) == plan_search(large)
    database.close()


def test_a_teacher_that_has_left_its_answers_is_not_counted(tmp_path: Path, spec: SearchSpec) -> None:
    database = Database(new_sqlite(tmp_path))
    trial = {**spec.trial.model_dump(), "targets": "sampled"}
    content = {**spec.model_dump(), "trial": trial, "distillation": {"hidden_states": []}}
    submit(database, SearchSpec.model_validate(content), NOW)
    finish(database)
    with database.reading() as session:
        runs, newest = ended_runs(session, 100), ended_runs(session, 2)
    assert [run.teacher is None for run in runs] == [True] * 4 + [False]
    assert newest == runs[2:]
    assert plan_search(spec, database=database).num_runs == 5
    database.close()


# --- asked for ----------------------------------------------------------------------------------------------


def test_the_command_rest_and_python_answer_alike(
    service: Service, spec: SearchSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "spec.json"
    file.write_text(spec.model_dump_json())
    told = plan_search(spec, devices=3)
    for asked in ([], ["--server", service.url]):
        assert main(["plan", str(file), "--devices", "3", "--json", *asked]) == 0
        assert PlanView.model_validate_json(capsys.readouterr().out) == told
    with browsing(service) as http, Client(service.url) as client:
        answer = http.post("/v1/plans", params={"devices": 3}, json=spec.model_dump(mode="json"))
        assert PlanView.model_validate_json(answer.content) == told
        assert client.plan(spec, devices=3) == told
        assert client.plan(spec) == plan_search(spec)
        assert client.searches() == []


def test_what_cannot_be_planned_is_refused_alike(
    service: Service, spec: SearchSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"memory_bytes": 1e5})})
    with pytest.raises(SpecError) as caught:
        plan_search(small)
    file = tmp_path / "spec.json"
    file.write_text(small.model_dump_json())
    assert main(["plan", str(file)]) == 2
    assert capsys.readouterr().err == f"topiary: {caught.value}\n"
    with browsing(service) as http, Client(service.url) as client:
        error = refusal(http.post("/v1/plans", json=small.model_dump(mode="json")), 422)
        assert (error.field, error.message) == ("hardware.memory_bytes", str(caught.value))
        assert (
            refusal(http.post("/v1/plans", params={"devices": 0}, json=spec.model_dump(mode="json")), 422).field
            == "devices"
        )
        with pytest.raises(SpecError, match="hardware"):
            client.plan(small)


def test_more_shapes_than_a_search_would_retrain_are_refused() -> None:
    large = read_spec(EXAMPLES / "llama-3.1-8b" / "width-4b.yaml")
    space = {"hidden_size": {"min": 1024}, "intermediate_size": {"min": 1024}}
    wide = large.model_copy(update={"space": SearchSpace.model_validate(space)})
    with pytest.raises(SpecError, match=r"sample_size: nothing is given, but [\d,]+ shapes fit"):
        plan_search(wide)
    assert plan_search(wide.model_copy(update={"sample_size": 20})).num_candidates == 20


# --- as it is printed ---------------------------------------------------------------------------------------


def printed(of: SearchSpec, devices: int | None = None) -> str:
    buffer = StringIO()
    Console(width=100, file=buffer).print(shown(plan_search(of, devices=devices), of), highlight=False)
    return buffer.getvalue()


def test_the_papers_search_is_printed_within_a_hundred_columns() -> None:
    spec = read_spec(EXAMPLES / "nemotron-4-15b" / "8b-table-19.yaml")
    priced = spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"price_per_hour": 2.5})})
    lines = [" ".join(line.split()) for line in printed(priced).splitlines()]
    assert lines[0] == "nemotron-4-15b-to-8b-table-19: 15 candidates, 1.89 B tokens a trial"
    cells = "strategy candidates tokens share device-hours price wall time"
    assert cells in lines
    # 15 trials of 197 hours, each on 8 devices of 80 GB.
    assert "exhaustive 15 28.31 B 100 % 2,959 7,396 1 d 2 h" in lines
    assert "halving 15, 8, 4, 2, 1 11.32 B 40 % 1,183 2,959 1 d 2 h" in lines
    assert "at least 8.49 B 30 % 888 2,219 1 d 2 h" in lines
    assert any(line.startswith("> racing 15, about 3 ") for line in lines)
    assert any(line.startswith("in all with racing ") for line in lines)
    assert "\u2026" not in printed(priced)


def test_fewer_devices_take_rounds() -> None:
    spec = read_spec(EXAMPLES / "nemotron-4-15b" / "8b-table-19.yaml")
    assert "Wall time is on 64 devices, in rounds; 120 would run all trials at once." in printed(spec, devices=64)
    with pytest.raises(SettingError, match="devices: 4 hold no job that takes 8"):
        printed(spec, devices=4)
