"""Every address of REST against the real service."""

import csv
import io
from pathlib import Path

import httpx
import pytest

from api.cli import main
from nas.importance_view import ImportanceView
from nas.spec_file import read_spec
from nas.states import Intent
from nas.views import EnumerationView, ErrorView, HealthView, ModelView, SearchSummary, SearchView
from tests.api.instant_pool import SAMPLE
from tests.api.rest.answers import raw, refusal, tiny
from tests.api.serving import Service
from tests.nas.test_importance_figures import scores

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


@pytest.mark.parametrize("example", ["nemotron-4-15b/4b.yaml", "qwen3-8b/6b.yaml"])
def test_rest_enumerates_what_the_command_enumerates(
    http: httpx.Client, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parents[3] / "examples" / example
    assert main(["enumerate", str(path), "--json"]) == 0
    told = EnumerationView.model_validate_json(capsys.readouterr().out)
    spec = read_spec(path).model_dump(mode="json")
    assert EnumerationView.model_validate_json(http.post("/v1/enumerations", json=spec).content) == told
    assert told.num_shapes - sum(each.shapes for each in told.removed) == told.num_fitting == len(told.candidates)


def test_nothing_that_fits_is_answered_with_what_nearly_does(
    http: httpx.Client, teacher_folder: Path, text_file: Path
) -> None:
    spec = {**tiny(teacher_folder, text_file, "none"), "budget": {"memory": {"max_bytes": 1000}}}
    error = refusal(http.post("/v1/enumerations", json=spec), 422)
    assert error.field == "budget.memory"
    assert "leaves none of 8 shapes (nearest: 2 x 36 x 32 x 4/2 with " in error.message


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
    assert SearchView.model_validate_json(answer.content).intent is Intent.CANCEL
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
    written = [(run["kind"], run["rollbacks"], run["samples"]) for run in details["retrainings"]]
    assert written == [(kind, [], [SAMPLE.model_dump()]) for kind in ("trial", "promotion")]
    attempts = http.get(f"/v1/searches/{finished}/attempts").json()
    assert [attempt for attempt in attempts if attempt in details["attempts"]] == details["attempts"]
    assert {attempt["kind"] for attempt in attempts} == {"prepare_data", "calibrate", "trial", "promotion", "export"}
    (promotion,) = http.get(f"/v1/searches/{finished}/promotions").json()
    assert (promotion["state"], promotion["candidate_id"]) == ("finished", rows[0]["candidate_id"])


def test_the_scores_are_told_as_long_as_they_are_on_record(
    service: Service, http: httpx.Client, finished: str, teacher_folder: Path, text_file: Path
) -> None:
    address = f"/v1/searches/{finished}/importance"
    assert ImportanceView.model_validate_json(http.get(address).content) == scores()
    (job,) = [each for each in http.get(f"/v1/searches/{finished}/attempts").json() if each["kind"] == "calibrate"]
    file = Path(job["folder"]) / "importance.json"
    content = file.read_bytes()
    try:
        for spoil in (lambda: file.write_bytes(content[:-1]), file.unlink):
            spoil()
            assert "has scores that cannot be read any more" in refusal(http.get(address), 404).message
    finally:
        file.write_bytes(content)
    http.post("/v1/searches", json=tiny(teacher_folder, text_file, "unscored")).raise_for_status()
    error = refusal(http.get("/v1/searches/unscored/importance"), 404)
    assert error.message == "search: unscored has no scores yet; accepted: a search whose calibration has ended."
    assert refusal(http.get("/v1/searches/nowhere/importance"), 404).value == "nowhere"


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
