"""The best under constraints, over REST, from Python and on the command line, and the page that shows the front."""

import json
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from api.cli import main
from nas.client import Client
from nas.cost import cost
from nas.enumeration import enumerate_candidates
from nas.errors import BudgetError, SettingError
from nas.hub import inspect_teacher
from nas.latency import (
    BlockTiming,
    LatencyTable,
    MeasuredOn,
    OutsideTiming,
    PhaseTable,
    Timing,
    blocks_of,
    write_table,
)
from nas.spec_file import parse_spec
from tests.api.rest.answers import refusal, tiny
from tests.api.serving import Service
from tests.api.test_pages import Page


def timing(milliseconds: float) -> Timing:
    return Timing(median=milliseconds, lower_quartile=milliseconds, upper_quartile=milliseconds, repetitions=12)


@pytest.fixture(scope="module")
def timed(service: Service, teacher_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of the search `timed`, by which a layer takes as many milliseconds as it has thousands of weights."""
    file = tmp_path_factory.mktemp("times") / "times.json"
    spec = parse_spec(tiny(teacher_folder, text_file, "timed"), relative_to=Path("/"))
    teacher = inspect_teacher(spec.teacher, whole=False).architecture
    shapes = list(enumerate_candidates(spec.space, spec.budget, teacher, sequence_length=32))
    blocks = {block for shape in [*shapes, teacher] for block in blocks_of(shape)}
    at = datetime(2026, 1, 2, tzinfo=UTC)
    table = LatencyTable(
        teacher=teacher,
        measured_on=MeasuredOn(device="cpu", dtype="float32", threads=1, torch="2", transformers="5", at=at),
        batch_size=1,
        context=32,
        prefill=PhaseTable(
            outside=tuple(
                OutsideTiming(hidden_size=size, timing=timing(1)) for size in {b.hidden_size for b in blocks}
            ),
            blocks=tuple(
                BlockTiming(block=block, timing=timing(block.hidden_size * block.intermediate_size / 1000))
                for block in blocks
            ),
        ),
    )
    write_table(file, table)
    budget = {**spec.budget.model_dump(exclude_none=True), "latency": {"table": str(file), "max_milliseconds": 1000}}
    with Client(service.url) as client:
        client.submit(tiny(teacher_folder, text_file, "timed", budget=budget))
    service.finish()
    return file


def test_the_best_is_the_first_of_the_leaderboard_within_the_constraints(http: httpx.Client, finished: str) -> None:
    rows = http.get(f"/v1/searches/{finished}/leaderboard").json()
    for row in rows:
        smaller = [each for each in rows if each["parameters"] <= row["parameters"]]
        where = [f"parameters<={row['parameters']}", "memory_bytes>=1"]
        best = http.get(f"/v1/searches/{finished}/best", params={"where": where}).json()
        assert best["standing"]["candidate_id"] == smaller[0]["candidate_id"]
        assert best["config"]["hidden_size"] == smaller[0]["architecture"]["hidden_size"]
    assert len({row["parameters"] for row in rows}) > 2


def test_costs_are_those_that_the_candidate_is_shown_with(service: Service, finished: str) -> None:
    with Client(service.url) as client:
        best = client.best(finished)
        shown = client.candidate(finished, best.standing.candidate_id).cost
    assert shown is not None
    assert shown == cost(
        best.standing.architecture, dtype=shown.dtype, batch_size=shown.batch_size, context=shown.context
    )
    assert best.costs.pop("memory_bytes") == shown.weight_bytes + shown.kv_cache_bytes
    assert best.costs == {name: getattr(shown, name) for name in best.costs}
    assert len(best.costs) == 7


def test_measured_latency_is_a_cost_where_the_budget_has_a_table(service: Service, timed: Path) -> None:
    with Client(service.url) as client:
        rows = client.leaderboard("timed")
        shapes = [row.architecture for row in rows]
        times = [1 + s.num_hidden_layers * s.hidden_size * s.intermediate_size / 1000 for s in shapes]
        fastest = client.best("timed", where=[f"milliseconds<={min(times)}"])
        assert fastest.standing.candidate_id == rows[times.index(min(times))].candidate_id
        assert fastest.costs["milliseconds"] == pytest.approx(min(times))
        with pytest.raises(BudgetError, match=r"closest: .* with milliseconds"):
            client.best("timed", where=["milliseconds<=0.5"])


def test_bad_constraints_are_told_alike_everywhere(
    http: httpx.Client, service: Service, finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(http.get(f"/v1/searches/{finished}/best", params={"where": "milliseconds<=1"}), 422)
    assert (error.kind, error.field, error.value) == ("SettingError", "where", "milliseconds<=1")
    assert "memory_bytes" in (error.accepted or "") and "milliseconds" not in (error.accepted or "")
    with Client(service.url) as client, pytest.raises(SettingError) as caught:
        client.best(finished, where=["milliseconds<=1"])
    assert str(caught.value) == error.message
    assert main(["best", finished, "--where", "milliseconds<=1", "--server", service.url]) == 2
    assert capsys.readouterr().err == f"topiary: {error.message}\n"
    none = refusal(http.get(f"/v1/searches/{finished}/best", params={"where": ["parameters<=1", "parameters>=1"]}), 422)
    assert none.kind == "BudgetError" and "leaves none of 4 measured candidates (closest: " in none.message


def test_the_command_says_what_the_constraints_are_held_against(
    service: Service, finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["best", finished, "--where", "parameters <= 1e9", "--where", "memory_bytes>1", "--server", service.url]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)["costs"]
    assert f"within          parameters<=1,000,000,000: {costs['parameters']:,.0f}\n" in shown
    assert f"within          memory_bytes>1: {costs['memory_bytes']:,.0f}\n" in shown


def test_the_figures_page_shows_the_front_and_does_without_a_table_that_is_gone(
    http: httpx.Client, finished: str, timed: Path
) -> None:
    assert f"/searches/{finished}/figures" in Page(http.get(f"/searches/{finished}").text).addresses
    answer = http.get("/searches/timed/figures")
    page = Page(answer.text)
    assert "Pareto front" in page.text and "latency ms, measured" in page.text
    names = ("parallel-axes", "loss-against-parameters", "loss-against-latency", "axis-importance", "rank-over-tokens")
    assert {f"figure-{name}" for name in names} <= set(page.ids)
    # Pages compile nothing, this one neither.
    assert "unsafe-eval" not in answer.headers["content-security-policy"] and page.inline == []
    content = timed.read_bytes()
    timed.unlink()
    try:
        without = http.get("/searches/timed/figures")
        assert without.status_code == 200 and "latency" not in Page(without.text).text
        gone = refusal(http.get("/v1/searches/timed/best", params={"where": "milliseconds<=9"}), 422)
        assert gone.field == "budget.latency.table"
    finally:
        timed.write_bytes(content)
    assert "latency" not in Page(http.get(f"/searches/{finished}/figures").text).text
    assert http.get("/searches/nowhere/figures").status_code == 404
