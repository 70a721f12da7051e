"""Every refusal of REST, in the sentences that the command line prints."""

import json
from pathlib import Path

import httpx
import pytest

from tests.api.rest.answers import expected, refusal, tiny
from tests.api.serving import browsing, serving
from tests.nas.test_spec_file import LISTS, MINIMAL, MISSING, OUT_OF_RANGE, UNKNOWN, WRONG_TYPE, with_, without

# --- the sentences of errors --------------------------------------------------------------------------------

MISTAKES: list[object] = [
    *(with_(path, value) for path, value, _ in UNKNOWN),
    *(without(path) for path, _ in MISSING),
    *(with_(path.removesuffix(".0").removesuffix(".1").removesuffix(".2"), value) for path, value, _ in WRONG_TYPE),
    *(with_(path.removesuffix(".0").removesuffix(".1"), value) for path, value, _ in [*OUT_OF_RANGE, *LISTS]),
    {**MINIMAL, "seed": -1, "space": {"hidden_size": [0, 8]}, "colour": "red"},
    {**MINIMAL, "name": "\N{SNOWMAN}\n" * 200, "seed": "x"},
    {**MINIMAL, "trial": {"peak_learning_rate": 1e-4, "min_learning_rate": 1e-3}},
    {**MINIMAL, "trial": 5, "promotion": "long", "data": None},
    {},
    [],
    ["name"],
    None,
    "a search",
    7,
    True,
]


@pytest.mark.parametrize("content", MISTAKES, ids=range(len(MISTAKES)))
@pytest.mark.parametrize("address", ["/v1/searches", "/v1/enumerations"])
def test_a_mistake_is_answered_as_on_the_command_line(http: httpx.Client, address: str, content: object) -> None:
    headers = {"Content-Type": "application/json"}
    error = refusal(http.post(address, content=json.dumps(content), headers=headers), 422)
    sentences = expected(content)
    assert error.kind == "SpecError"
    assert error.message == str(sentences)
    assert [also.message for also in error.also] == [str(also) for also in sentences.also]
    assert error.field == sentences.field
    assert len(error.value or "") <= 200


def test_an_unusable_teacher_and_budget_are_answered_as_on_the_command_line(
    http: httpx.Client, teacher_folder: Path, text_file: Path
) -> None:
    spec = tiny(teacher_folder, text_file, "refused")
    error = refusal(http.post("/v1/searches", json={**spec, "teacher": "/nowhere"}), 422)
    assert (error.kind, error.field) == ("TeacherError", "teacher")
    error = refusal(http.post("/v1/searches", json={**spec, "budget": {"parameters": 1}}), 422)
    assert (error.kind, error.field) == ("BudgetError", "budget.parameters")
    error = refusal(http.post("/v1/searches", json={**spec, "data": {**spec["data"], "train": "/nowhere"}}), 422)
    assert (error.kind, error.field) == ("DataError", "data.train")
    refusal(http.get("/v1/searches/refused"), 404)


@pytest.mark.parametrize(("field", "path"), [("teacher", "models/t"), ("data.train", "~/x"), ("data.validation", "x")])
def test_a_path_that_counts_from_somewhere_is_refused(http: httpx.Client, field: str, path: str) -> None:
    content = with_(field, path)
    error = refusal(http.post("/v1/searches", json=content), 422)
    accepted = "a path on the server that begins with /"
    assert error.message == f"{field}: {path} is not an absolute path; accepted: {accepted}."


BODIES = [
    (b"", "spec: nothing is not an object; "),
    (b"{'name': 1}", "spec: the request cannot be parsed (Expecting property name enclosed in double quotes: line 1 "),
    (b"name: a", "spec: the request cannot be parsed (Expecting value: line 1 column 1 (char 0)); "),
    (b'{"name": "\xff"}', "spec: the request cannot be parsed ('utf-8' codec can't decode byte 0xff "),
    (b"[" * 100_000, "spec: the request cannot be parsed (maximum recursion depth exceeded"),
    (b'{"seed": ' + b"9" * 5000 + b"}", "spec: the request cannot be parsed (Exceeds the limit (4300 digits)"),
]


@pytest.mark.parametrize(("body", "sentence"), BODIES)
def test_a_body_that_is_no_object_is_refused_in_a_sentence(http: httpx.Client, body: bytes, sentence: str) -> None:
    error = refusal(http.post("/v1/searches", content=body, headers={"Content-Type": "application/json"}), 422)
    assert error.message.startswith(sentence)
    assert "accepted: a YAML or JSON file that holds one object" in error.message


@pytest.mark.parametrize("kind", ["text/plain", "application/yaml", "application/x-www-form-urlencoded", None])
def test_a_body_that_does_not_say_it_is_json_is_refused(http: httpx.Client, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    error = refusal(http.post("/v1/searches", content=json.dumps(MINIMAL), headers=headers), 422)
    assert error.message == f"Content-Type: {kind or 'nothing'} is not JSON; accepted: application/json."


PARAMETERS = [
    ("/v1/searches?limit=0", "limit: 0 should be greater than or equal to 1; accepted: how many at most, a whole"),
    ("/v1/searches?limit=x", "limit: x should be a valid integer, unable to parse string as an integer; accepted:"),
    ("/v1/searches?offset=-1", "offset: -1 should be greater than or equal to 0; accepted: how many to leave out"),
    ("/v1/searches/Upper", "name: Upper should match pattern"),
    ("/v1/searches/..%20/spec", "name: ..  should match pattern"),
    ("/v1/searches/a/candidates/x", "candidate_id: x should be a valid integer"),
    ("/v1/events?search=A", "search: A should match pattern"),
    ("/v1/events?after=-1", "after: -1 should be greater than or equal to 0"),
    ("/v1/models/99999999999999999999", "model_id: 99999999999999999999 should be less than or equal to"),
    ("/v1/jobs/1/attempts/1/log?tail=0", "tail: 0 should be greater than or equal to 1; accepted: how many lines"),
]


@pytest.mark.parametrize(("address", "sentence"), PARAMETERS)
def test_a_bad_parameter_is_answered_in_a_sentence(http: httpx.Client, address: str, sentence: str) -> None:
    error = refusal(http.get(address), 422)
    assert error.kind == "SettingError"
    assert error.message.startswith(sentence)


@pytest.mark.parametrize(
    "address",
    ["", "/spec", "/leaderboard", "/leaderboard.csv", "/best", "/candidates/1", "/attempts", "/promotions", "/models"],
)
def test_an_unknown_search_is_not_found_anywhere(http: httpx.Client, address: str) -> None:
    error = refusal(http.get(f"/v1/searches/unknown{address}"), 404)
    assert error.kind == "NotFoundError"
    assert "unknown" in error.message


@pytest.mark.parametrize(
    "address",
    ["/v1/models/9", "/v1/jobs/99/attempts/1/log", "/v1/events?search=unknown", "/v1/x", "/v1/models/9/files/a"],
)
def test_what_is_not_there_is_not_found(http: httpx.Client, address: str) -> None:
    assert refusal(http.get(address), 404).kind == "NotFoundError"


def test_another_method_is_refused_with_those_that_are_possible(http: httpx.Client) -> None:
    answer = http.delete("/v1/health")
    assert refusal(answer, 405).message == "method: DELETE is not possible at /v1/health; accepted: GET."
    assert answer.headers["allow"] == "GET"


def test_browsers_get_a_page_where_they_ask_for_one(http: httpx.Client) -> None:
    headers = {"Accept": "text/html,application/xhtml+xml"}
    answer = http.get("/searches/unknown", headers=headers)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "unknown" in answer.text
    refusal(http.get("/v1/searches/unknown", headers=headers), 404)


def test_a_database_that_is_gone_is_told_apart(tmp_path: Path, teacher_folder: Path, text_file: Path) -> None:
    with serving(tmp_path) as service, browsing(service) as http:
        assert http.get("/v1/health").status_code == 200
        service.database.close()
        for file in tmp_path.glob("topiary.db*"):
            file.unlink()
        (tmp_path / "topiary.db").write_bytes(b"this is no database" * 100)
        service.app.state.database.close()
        for answer in (
            http.get("/v1/health"),
            http.get("/v1/events"),
            http.post("/v1/searches", json=tiny(teacher_folder, text_file, "lost")),
        ):
            error = refusal(answer, 503)
            assert error.kind == "StoreError"
            assert "topiary.db" in error.message
