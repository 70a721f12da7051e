"""Pausing, stopping, retrying, extending, cloning, archiving and deleting over real HTTP, to the ends they come to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nas.pool import Assignment, Update
from nas.states import Intent
from nas.views import PromotionView, SearchView
from tests.api.instant_pool import fail
from tests.api.rest.answers import export, refusal, tiny
from tests.api.serving import browsing
from tests.api.stepped import Stepped, stepped


class Outcomes:
    """How jobs end: kinds of which one is to fail fail, until that is taken back."""

    def __init__(self) -> None:
        self.failing: set[str] = set()

    def __call__(self, assignment: Assignment) -> Update:
        return fail(assignment) if assignment.spec.kind in self.failing else export(assignment)


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, outcomes: Outcomes) -> Iterator[Stepped]:
    with stepped(tmp_path_factory.mktemp("lifecycle"), outcomes) as stage:
        yield stage


@pytest.fixture
def http(stage: Stepped) -> Iterator[httpx.Client]:
    with browsing(stage.service) as client:
        yield client


@pytest.fixture
def spec(teacher_folder: Path, text_file: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of a search for this test alone, two of whose four candidates are tried."""
    name = request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:60].strip("-")
    return tiny(teacher_folder, text_file, name, sample_size=2, max_failures=1)


def begin(http: httpx.Client, spec: dict[str, Any]) -> str:
    """The address of the search, begun."""
    address: str = http.post("/v1/searches", json=spec).raise_for_status().headers["location"]
    return address


def asked(http: httpx.Client, address: str, body: object = None, *, status: int = 202) -> SearchView:
    answer = http.post(address, json=body)
    assert answer.status_code == status, answer.text
    return SearchView.model_validate_json(answer.content)


def asked_of_promotion(http: httpx.Client, address: str, body: object = None) -> PromotionView:
    answer = http.post(address, json=body)
    assert answer.status_code == 202, answer.text
    return PromotionView.model_validate_json(answer.content)


def kinds(http: httpx.Client, address: str) -> list[str]:
    """What was begun of a search, by job; every try counts."""
    return [attempt["kind"] for attempt in http.get(f"{address}/attempts").json()]


def test_a_paused_search_ends_as_one_that_nobody_paused(
    stage: Stepped, http: httpx.Client, spec: dict[str, Any]
) -> None:
    address = begin(http, spec)
    stage.hold(spec["name"], "trial")
    assert asked(http, f"{address}/pause").intent is Intent.PAUSE
    stage.step()
    stage.let_go()
    paused = stage.finish(spec["name"])
    assert (paused.state, {job.state for job in paused.jobs}) == ("paused", {"queued"})
    begun = kinds(http, address)
    stage.step(3)
    assert kinds(http, address) == begun, "nothing is started of a search that is paused"
    assert asked(http, f"{address}/resume").state == "running"
    ended = stage.finish(spec["name"])
    assert ended.state == "finished"
    attempts = http.get(f"{address}/attempts").json()
    assert [each["state"] for each in attempts if each["kind"] == "trial"] == ["interrupted", "succeeded"] * 2
    undisturbed = begin(http, {**spec, "name": "undisturbed"})
    losses = [(row.architecture, row.loss) for row in stage.finish("undisturbed").leaderboard]
    assert [(row.architecture, row.loss) for row in ended.leaderboard] == losses
    assert refusal(http.post(f"{undisturbed}/pause"), 409).problem == "is finished already"


def test_a_stopped_search_ends_what_runs_and_begins_nothing(
    stage: Stepped, http: httpx.Client, spec: dict[str, Any]
) -> None:
    address = begin(http, spec)
    stage.hold(spec["name"], "trial")
    assert asked(http, f"{address}/stop").intent is Intent.STOP
    stage.step()
    stage.let_go()
    stopped = stage.finish(spec["name"])
    assert (stopped.state, stopped.reason) == ("stopped", None)
    assert [row.tokens for row in stopped.leaderboard] == [1280, 1280]
    assert "promotion" not in kinds(http, address)
    asked(http, f"{address}/cancel")
    assert stage.finish(spec["name"]).state == "cancelled"
    asked(http, f"{address}/resume")
    assert stage.finish(spec["name"]).state == "finished"


def test_what_may_not_spend_more_is_extended_before_it_is_resumed(
    stage: Stepped, http: httpx.Client, spec: dict[str, Any]
) -> None:
    address = begin(http, {**spec, "spending": {"tokens": 2000}})
    stopped = stage.finish(spec["name"])
    assert (stopped.state, stopped.reason) == ("stopped", stopped.reason)
    assert (stopped.reason or "").startswith("spending.tokens: 2,560 of 2,000 ")
    error = refusal(http.post(f"{address}/resume"), 409)
    assert error.problem == f"may not go on: {stopped.reason}"
    extended = asked(http, f"{address}/extend", {"spending": {"tokens": 5000}})
    assert (extended.state, extended.spending.tokens) == ("stopped", 5000)
    asked(http, f"{address}/resume")
    assert stage.finish(spec["name"]).state == "finished"


def test_what_failed_is_tried_again_of_one_candidate_or_of_all(
    stage: Stepped, http: httpx.Client, spec: dict[str, Any], outcomes: Outcomes
) -> None:
    address = begin(http, spec)
    outcomes.failing = {"trial"}
    failed = stage.finish(spec["name"])
    assert failed.state == "failed"
    assert "`retry` tries its failed jobs again" in refusal(http.post(f"{address}/resume"), 409).message
    outcomes.failing = {"promotion"}
    one, other = (row.candidate_id for row in failed.leaderboard)
    asked(http, f"{address}/retry?candidate_id={one}")
    failed = stage.finish(spec["name"])
    assert (failed.state, [row.candidate_id for row in failed.leaderboard if row.rank]) == ("failed", [one])
    error = refusal(http.post(f"{address}/retry", params={"candidate_id": 10**6}), 404)
    assert (error.field, error.value) == ("candidate", "1000000")
    assert refusal(http.post(f"{address}/retry", params={"candidate_id": "x"}), 422).field == "candidate_id"
    outcomes.failing = set()
    (promotion,) = failed.promotions
    assert asked_of_promotion(http, f"{address}/promotions/{promotion.id}/retry").state == "distilling"
    assert stage.finish(spec["name"]).state == "finished"
    asked(http, f"{address}/retry")
    retried = stage.finish(spec["name"])
    assert (retried.state, {row.candidate_id for row in retried.leaderboard if row.rank}) == ("finished", {one, other})
    assert refusal(http.post(f"{address}/retry"), 409).problem == "has no job that failed"


def test_a_search_gets_more_candidates_seeds_and_tokens(
    stage: Stepped, http: httpx.Client, spec: dict[str, Any]
) -> None:
    address = begin(http, spec)
    assert stage.finish(spec["name"]).state == "finished"
    extended = asked(http, f"{address}/extend", {"candidates": 1, "seeds": 1, "tokens": "1e3"})
    assert (extended.state, len(extended.leaderboard), extended.extensions[0].tokens) == ("running", 3, 1000)
    ended = stage.finish(spec["name"])
    assert [(row.num_seeds, row.tokens) for row in ended.leaderboard] == [(2, 2304)] * 3
    details = http.get(f"{address}/candidates/{ended.leaderboard[0].candidate_id}").json()
    assert [(trial["seed"], trial["state"]) for trial in details["trials"]] == [(0, "succeeded"), (1, "succeeded")]
    assert http.get(f"{address}/spec").json() == {**spec, "name": spec["name"]}, "the spec stays what it was"


MISTAKEN: list[tuple[object, str]] = [
    ({}, "extension: nothing is added; accepted: at least one of candidates, tokens, seeds, spending."),
    (None, "request: nothing is not an object; accepted: an object with the fields candidates, tokens,"),
    ({"candidates": -1}, "candidates: -1 should be greater than or equal to 0; accepted: more shapes that fit"),
    ({"hours": 1}, "hours: 1 is not a field of a request; accepted: an object with the fields candidates,"),
    ({"spending": {"hours": 1}}, "spending.hours: 1 is not a field of a request; accepted: an object with the fields"),
    ({"candidates": 3}, "candidates: 3 is more than the 2 shapes that fit the budget besides; accepted: fewer, or"),
    ({"tokens": 10**15}, "tokens: 1000000000000000 comes to 1.00e+15 tokens of a trial; accepted: at most 1e+15."),
]


@pytest.fixture(scope="module")
def finished(stage: Stepped, teacher_folder: Path, text_file: Path) -> str:
    with browsing(stage.service) as http:
        address = begin(http, tiny(teacher_folder, text_file, "finished", sample_size=2))
    stage.finish("finished")
    return address


@pytest.mark.parametrize(("body", "sentence"), MISTAKEN, ids=range(len(MISTAKEN)))
def test_a_mistaken_extension_is_refused_in_words_of_its_own(
    http: httpx.Client, finished: str, body: object, sentence: str
) -> None:
    before = http.get(finished).json()
    assert refusal(http.post(f"{finished}/extend", json=body), 422).message.startswith(sentence)
    assert http.get(finished).json() == before


def test_what_is_no_json_is_refused_with_the_fields_that_are_wanted(http: httpx.Client, finished: str) -> None:
    answer = http.post(f"{finished}/extend", content="{", headers={"Content-Type": "application/json"})
    error = refusal(answer, 422)
    assert (error.field, error.accepted) == (
        "request", "an object with the fields candidates, tokens, seeds, spending"
    )  # fmt: skip


def test_a_clone_differs_by_its_changes(http: httpx.Client, finished: str) -> None:
    body = {"name": "cloned", "changes": {"trial": {"tokens": 2560}, "sample_size": None}}
    answer = http.post(f"{finished}/clone", json=body)
    assert (answer.status_code, answer.headers["location"]) == (201, "/v1/searches/cloned")
    assert SearchView.model_validate_json(answer.content).name == "cloned"
    original, found = (http.get(f"{address}/spec").json() for address in (finished, "/v1/searches/cloned"))
    changed = {key: found[key] for key in found if found[key] != original[key]}
    assert changed == {"name": "cloned", "sample_size": None, "trial": {**original["trial"], "tokens": 2560}}
    assert refusal(http.post(f"{finished}/clone", json=body), 409).field == "name"
    wrong = {"name": "wrong", "changes": {"trial": {"tokens": -1}}}
    assert refusal(http.post(f"{finished}/clone", json=wrong), 422).field == "trial.tokens"
    assert refusal(http.post(f"{finished}/clone", json={"changes": {}}), 422).field == "name"
    refusal(http.get("/v1/searches/wrong"), 404)


def test_an_archived_search_is_in_a_list_of_its_own(http: httpx.Client, spec: dict[str, Any], finished: str) -> None:
    def listed(**params: bool) -> list[str]:
        return [row["name"] for row in http.get("/v1/searches", params=params).json()]

    assert refusal(http.post(f"{begin(http, spec)}/archive"), 409).problem == "is running"
    assert "finished" in listed() and listed(archived=True) == []
    assert asked(http, f"{finished}/archive", status=200).archived_at is not None
    assert "finished" not in listed() and listed(archived=True) == ["finished"]
    assert http.get(finished).json()["state"] == "finished", "it is there as before"
    assert asked(http, f"{finished}/unarchive", status=200).archived_at is None
    assert "finished" in listed()
    assert refusal(http.get("/v1/searches", params={"archived": "perhaps"}), 422).field == "archived"


def test_a_deleted_search_leaves_its_events_alone(stage: Stepped, http: httpx.Client, spec: dict[str, Any]) -> None:
    address = begin(http, spec)
    assert refusal(http.delete(address), 409).problem == "is running"
    stage.finish(spec["name"])
    folders = [Path(attempt["folder"]) for attempt in http.get(f"{address}/attempts").json()]
    assert all(folder.exists() for folder in folders)
    model = http.get(f"{address}/models").json()[0]["id"]
    answer = http.delete(address)
    assert (answer.status_code, answer.content) == (204, b"")
    assert not any(folder.parent.exists() for folder in folders)
    for gone in (address, f"/v1/models/{model}"):
        refusal(http.get(gone), 404)
    refusal(http.delete(address), 404)
    told = (event for event in stage.client.events(after=0) if event.search == spec["name"])
    assert next(event.kind for event in told if event.kind.startswith("search_d")) == "search_deleted"
    assert begin(http, spec) == address, "its name is free again"


def test_a_promotion_is_paused_cancelled_and_extended_by_itself(
    stage: Stepped, http: httpx.Client, spec: dict[str, Any]
) -> None:
    address = begin(http, spec)
    (promotion,) = stage.hold(spec["name"], "promotion").promotions
    own = f"{address}/promotions/{promotion.id}"
    assert asked_of_promotion(http, f"{own}/pause").intent is Intent.PAUSE
    stage.step()
    stage.let_go()
    stage.step(3)
    view = stage.client.search(spec["name"])
    assert (view.state, view.promotions[0].state) == ("running", "paused"), "its search goes on beside it"
    assert asked_of_promotion(http, f"{own}/cancel").intent is Intent.CANCEL
    assert stage.finish(spec["name"]).state == "finished"
    assert http.get(f"{address}/models").json() == []
    assert refusal(http.post(f"{own}/cancel"), 409).problem == "is cancelled already"
    assert refusal(http.post(f"{own}/extend", json={"tokens": 9}), 409).problem == "is cancelled"
    asked_of_promotion(http, f"{own}/resume")
    (promotion,) = stage.finish(spec["name"]).promotions
    assert (promotion.state, promotion.curve[-1].tokens) == ("finished", 1280)
    assert asked_of_promotion(http, f"{own}/extend", {"tokens": 100}).extensions == (100,)
    (further,) = stage.finish(spec["name"]).promotions
    assert (further.state, further.curve[-1].tokens) == ("finished", 1408)
    assert further.folder != promotion.folder, "it was exported anew"
    assert refusal(http.post(f"{own}/extend", json={"tokens": 0}), 422).field == "tokens"


SEARCH_VERBS = ("pause", "stop", "cancel", "resume", "retry", "extend", "clone", "archive", "unarchive")
PROMOTION_VERBS = ("pause", "cancel", "resume", "retry", "extend")
VERBS = [f"/{verb}" for verb in SEARCH_VERBS] + [f"/promotions/1/{verb}" for verb in PROMOTION_VERBS]
BODIES = {"extend": {"tokens": 1}, "clone": {"name": "new"}}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_wants_a_search_that_is_there_and_a_page_of_ours(
    http: httpx.Client, finished: str, verb: str
) -> None:
    body = BODIES.get(verb.rpartition("/")[2])
    assert refusal(http.post(f"/v1/searches/unknown{verb}", json=body), 404).kind == "NotFoundError"
    if "promotions" in verb:
        assert refusal(http.post(f"{finished}{verb}".replace("/1/", "/1000000/"), json=body), 404).value == "1000000"
    foreign = http.post(f"{finished}{verb}", json=body, headers={"Origin": "https://evil.example"})
    assert refusal(foreign, 403).field == "Origin"


def test_another_sites_page_deletes_nothing(http: httpx.Client, finished: str) -> None:
    assert refusal(http.delete(finished, headers={"Sec-Fetch-Site": "cross-site"}), 403).field == "Origin"
    assert http.get(finished).status_code == 200
