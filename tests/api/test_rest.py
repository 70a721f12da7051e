"""REST against the real service: every address, every refusal, and the sentences that the command line prints."""

import csv
import io
import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from api.app import create_app
from api.routes import events, models, searches
from api.settings import Settings
from nas.errors import SpecError
from nas.jobs import Assignment, Export, Exported, Update
from nas.spec_file import parse_spec
from nas.views import EnumerationView, ErrorView, HealthView, ModelView, SearchSummary, SearchView
from tests.api.instant_pool import succeed
from tests.api.serving import Service, browsing, serving
from tests.conftest import tiny_spec
from tests.nas.test_spec_file import LISTS, MINIMAL, MISSING, OUT_OF_RANGE, UNKNOWN, WRONG_TYPE, with_, without


def export(assignment: Assignment) -> Update:
    """Like `succeed`, with a folder behind the export and a log in it."""
    Path(assignment.folder).mkdir(parents=True, exist_ok=True)
    (Path(assignment.folder) / "log.txt").write_text("one\ntwo\nthr\N{LATIN SMALL LETTER E WITH ACUTE}e\n")
    if not isinstance(assignment.spec, Export):
        return succeed(assignment)
    folder = Path(assignment.folder) / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4000)
    result = Exported(folder=str(folder), parameters=42_000, loss=4.5)
    return Update(job_id=assignment.job_id, attempt=assignment.attempt, result=result)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service"), export) as running:
        yield running


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with browsing(service) as client:
        yield client


@pytest.fixture(scope="module")
def finished(service: Service, teacher_folder: Path, text_file: Path) -> str:
    """The name of a search that has ended in a model."""
    with browsing(service) as client:
        client.post("/v1/searches", json=tiny(teacher_folder, text_file, "finished")).raise_for_status()
    service.finish()
    return "finished"


def tiny(teacher: Path, text: Path, name: str, **changes: object) -> dict[str, Any]:
    content: dict[str, Any] = tiny_spec(teacher, text, name=name, **changes).model_dump(mode="json")
    return content


def refusal(response: httpx.Response, status: int) -> ErrorView:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    return ErrorView.model_validate_json(response.content)


def expected(content: object) -> SpecError:
    """What the command line says of this spec."""
    with pytest.raises(SpecError) as caught:
        parse_spec(content, relative_to=Path("/"))
    return caught.value


# --- what a spec would try, and starting it -----------------------------------------------------------------


def test_an_enumeration_pages_through_its_candidates_and_starts_nothing(
    http: httpx.Client, teacher_folder: Path, text_file: Path
) -> None:
    spec = tiny(teacher_folder, text_file, "dry")
    whole = EnumerationView.model_validate_json(http.post("/v1/enumerations", json=spec).content)
    part = EnumerationView.model_validate_json(
        http.post("/v1/enumerations", json=spec, params={"limit": 2, "offset": 1}).content
    )
    assert len(whole.candidates) == whole.num_fitting == 4
    assert part.candidates == whole.candidates[1:3]
    assert part.num_fitting == 4
    refusal(http.get("/v1/searches/dry"), 404)


def test_a_search_is_created_once(http: httpx.Client, teacher_folder: Path, text_file: Path) -> None:
    spec = tiny(teacher_folder, text_file, "once")
    first, second = (http.post("/v1/searches", json=spec) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.headers["location"] == second.headers["location"] == "/v1/searches/once"
    assert SearchView.model_validate_json(http.get(first.headers["location"]).content).name == "once"
    assert http.get("/v1/searches/once/spec").json() == spec


def test_another_spec_of_the_same_name_is_a_conflict(
    http: httpx.Client, finished: str, teacher_folder: Path, text_file: Path
) -> None:
    error = refusal(http.post("/v1/searches", json=tiny(teacher_folder, text_file, finished, seed=1)), 409)
    assert (error.kind, error.field, error.value) == ("ConflictError", "name", finished)
    assert error.message.startswith("name: finished names a search that was begun with another seed; accepted: ")


def test_a_search_is_cancelled_once(
    service: Service, http: httpx.Client, teacher_folder: Path, text_file: Path
) -> None:
    http.post("/v1/searches", json=tiny(teacher_folder, text_file, "cancelled")).raise_for_status()
    answer = http.post("/v1/searches/cancelled/cancel")
    assert answer.status_code == 202
    assert SearchView.model_validate_json(answer.content).cancelling
    service.finish()
    assert http.get("/v1/searches/cancelled").json()["state"] == "cancelled"
    assert refusal(http.post("/v1/searches/cancelled/cancel"), 409).kind == "ConflictError"


# --- looking ------------------------------------------------------------------------------------------------


def test_searches_are_listed_newest_first_in_pages(
    http: httpx.Client, finished: str, teacher_folder: Path, text_file: Path
) -> None:
    http.post("/v1/searches", json=tiny(teacher_folder, text_file, "newest")).raise_for_status()
    found = [SearchSummary.model_validate(row) for row in http.get("/v1/searches").json()]
    assert found[0].name == "newest"
    assert finished in [summary.name for summary in found]
    page = http.get("/v1/searches", params={"limit": 1, "offset": 1}).json()
    assert [row["name"] for row in page] == [found[1].name]


def test_a_finished_search_is_told_in_full(http: httpx.Client, finished: str) -> None:
    view = SearchView.model_validate_json(http.get(f"/v1/searches/{finished}").content)
    assert view.state == "finished"
    rows = http.get(f"/v1/searches/{finished}/leaderboard").json()
    assert rows == [row.model_dump(mode="json") for row in view.leaderboard]
    best = http.get(f"/v1/searches/{finished}/best").json()
    assert (best["final"], best["standing"], best["checkpoint"]["kind"]) == (True, rows[0], "model")
    assert best["config"]["hidden_size"] == rows[0]["architecture"]["hidden_size"]
    details = http.get(f"/v1/searches/{finished}/candidates/{rows[0]['candidate_id']}").json()
    assert [point["tokens"] for point in details["curve"]] == [0, 1280]
    attempts = http.get(f"/v1/searches/{finished}/attempts").json()
    assert [attempt for attempt in attempts if attempt in details["attempts"]] == details["attempts"]
    assert {attempt["kind"] for attempt in attempts} == {"prepare_data", "calibrate", "trial", "promotion", "export"}
    (promotion,) = http.get(f"/v1/searches/{finished}/promotions").json()
    assert (promotion["state"], promotion["candidate_id"]) == ("finished", rows[0]["candidate_id"])


def test_the_leaderboard_is_a_table_too(http: httpx.Client, finished: str) -> None:
    answer = http.get(f"/v1/searches/{finished}/leaderboard.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="finished.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    view = SearchView.model_validate_json(http.get(f"/v1/searches/{finished}").content)
    assert [int(row["candidate_id"]) for row in rows] == [row.candidate_id for row in view.leaderboard]
    assert [float(row["loss"]) for row in rows] == [row.loss for row in view.leaderboard]
    assert [int(row["hidden_size"]) for row in rows] == [row.architecture.hidden_size for row in view.leaderboard]


def test_health_names_the_version_and_the_scheduler(http: httpx.Client, finished: str) -> None:
    health = HealthView.model_validate_json(http.get("/v1/health").content)
    assert health.version
    assert health.scheduler_seen_at is not None


# --- models and logs ----------------------------------------------------------------------------------------


def only_model(http: httpx.Client, name: str) -> ModelView:
    (model,) = http.get(f"/v1/searches/{name}/models").json()
    return ModelView.model_validate(model)


def test_a_model_is_listed_with_its_files_and_downloaded(http: httpx.Client, finished: str) -> None:
    model = only_model(http, finished)
    assert [file.name for file in model.files] == ["config.json", "model.safetensors"]
    assert model.model_dump(mode="json") in http.get("/v1/models").json()
    assert ModelView.model_validate_json(http.get(f"/v1/models/{model.id}").content) == model
    for file in model.files:
        content = http.get(f"/v1/models/{model.id}/files/{file.name}").content
        assert content == (Path(model.folder) / file.name).read_bytes()
        assert len(content) == file.size


def test_a_part_of_a_file_can_be_had(http: httpx.Client, finished: str) -> None:
    model = only_model(http, finished)
    answer = http.get(f"/v1/models/{model.id}/files/model.safetensors", headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, bytes([2, 3, 4]))


@pytest.mark.parametrize(
    "name", ["log.txt", "..%2Flog.txt", "%2e%2e%2flog.txt", "%2Fetc%2Fpasswd", "..%5Clog.txt", "config.json%00", "."]
)
def test_only_listed_files_are_given(service: Service, http: httpx.Client, finished: str, name: str) -> None:
    status, body = raw(service, "GET", f"/v1/models/{only_model(http, finished).id}/files/{name}")
    assert status == 404
    assert ErrorView.model_validate_json(body).kind == "NotFoundError"


def test_a_link_out_of_the_folder_is_not_followed(http: httpx.Client, finished: str) -> None:
    model = only_model(http, finished)
    link = Path(model.folder) / "secret.json"
    link.symlink_to("/etc/hostname")
    try:
        error = refusal(http.get(f"/v1/models/{model.id}/files/secret.json"), 404)
    finally:
        link.unlink()
    assert error.message.startswith(f"file: secret.json is not a file of model {model.id}; accepted: config.json")


def test_a_log_is_told_from_its_end(service: Service, http: httpx.Client, finished: str) -> None:
    job = http.get(f"/v1/searches/{finished}/candidates/{best_id(http, finished)}").json()["attempts"][0]
    address = f"/v1/jobs/{job['job_id']}/attempts/{job['number']}/log"
    assert http.get(address).text == "one\ntwo\nthr\N{LATIN SMALL LETTER E WITH ACUTE}e\n"
    assert http.get(address, params={"tail": 1}).text == "thr\N{LATIN SMALL LETTER E WITH ACUTE}e\n"
    log = Path(job["folder"]) / "log.txt"
    log.rename(log.with_name("gone.txt"))
    assert (http.get(address).status_code, http.get(address).text) == (200, "")
    log.with_name("gone.txt").rename(log)
    assert refusal(http.get(f"/v1/jobs/{job['job_id']}/attempts/99/log"), 404).kind == "NotFoundError"


def best_id(http: httpx.Client, name: str) -> int:
    found: int = http.get(f"/v1/searches/{name}/leaderboard").json()[0]["candidate_id"]
    return found


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


# --- who may ask --------------------------------------------------------------------------------------------


def raw(service: Service, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """A request as it is, without what a client library would mend."""
    connection = HTTPConnection("127.0.0.1", service.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": f"127.0.0.1:{service.port}", **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("host", ["localhost", "localhost:1234", "127.0.0.1", "[::1]", "[::1]:8460", "LOCALHOST:80"])
def test_this_machines_own_names_are_answered(service: Service, host: str) -> None:
    assert raw(service, "GET", "/v1/health", {"Host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8460", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "::1", ""],
)
def test_a_name_that_leads_here_from_elsewhere_is_refused(service: Service, host: str) -> None:
    status, body = raw(service, "GET", "/v1/health", {"Host": host})
    assert status == 400
    if body.startswith(b"{"):
        assert ErrorView.model_validate_json(body).field == "Host"


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "file://"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_another_sites_page_may_change_nothing(http: httpx.Client, finished: str, headers: dict[str, str]) -> None:
    for address in ("/v1/searches", f"/v1/searches/{finished}/cancel", f"/searches/{finished}/cancel"):
        error = refusal(http.post(address, json=MINIMAL, headers=headers), 403)
        assert error.field == "Origin"
    answer = http.get("/v1/health", headers=headers)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers, "it may ask, and its browser keeps the answer from it"


def test_the_services_own_pages_and_programs_may_change_something(
    service: Service, http: httpx.Client, finished: str
) -> None:
    for headers in ({}, {"Origin": service.url, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert refusal(http.post(f"/v1/searches/{finished}/cancel", headers=headers), 409).kind == "ConflictError"


@pytest.mark.parametrize("address", ["/", "/v1/health", "/v1/nothing", "/docs", "/static/style.css"])
def test_every_answer_has_the_security_headers(http: httpx.Client, address: str) -> None:
    headers = http.get(address).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_a_bug_of_ours_is_told_without_its_details(
    service: Service, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.app.state, "database", None)
    answer = http.get("/v1/health")
    error = refusal(answer, 500)
    assert (error.kind, error.message) == ("ServiceError", "the service met a bug of its own; its log says more")
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_body_larger_than_any_spec_is_refused(http: httpx.Client) -> None:
    large = {**MINIMAL, "teacher": "/" + "x" * 1_000_000}
    sentence = "spec: the request is too large; accepted: up to 1,000,000 bytes."
    headers = {"Content-Type": "application/json"}
    assert refusal(http.post("/v1/searches", json=large), 413).message == sentence
    pieces = (json.dumps(large).encode()[start : start + 50_000] for start in range(0, 1_000_100, 50_000))
    assert refusal(http.post("/v1/searches", content=pieces, headers=headers), 413).message == sentence


# --- what is documented -------------------------------------------------------------------------------------


def test_openapi_describes_every_address(tmp_path: Path) -> None:
    app = create_app(Settings(runs_folder=tmp_path))
    document = app.openapi()
    app.state.database.close()
    listed = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    ours = {
        (method, route.path)
        for module in (events, models, searches)
        for route in module.router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert listed == ours
    assert len(ours) > 15
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            assert operation["operationId"].islower(), path
            assert all(parameter["description"] for parameter in operation.get("parameters", [])), path
            for status in ("422", "503", *(["404"] if "{" in path else [])):
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorView"}, (path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_the_docs_load_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    for path in http.get("/openapi.json").json()["paths"]:
        assert path in page.text
