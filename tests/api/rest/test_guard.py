"""Who may ask a service without keys, and what its answers give away."""

import json

import httpx
import pytest

from nas.views import ErrorView
from tests.api.rest.answers import raw, refusal
from tests.api.serving import Service
from tests.nas.test_spec_file import MINIMAL

# --- who may ask --------------------------------------------------------------------------------------------


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


def test_a_bug_of_ours_is_told_without_its_details(service: Service, http: httpx.Client) -> None:
    database, service.app.state.database = service.app.state.database, None
    try:
        answer = http.get("/v1/health")
    finally:
        service.app.state.database = database
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
