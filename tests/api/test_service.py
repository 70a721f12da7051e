"""The whole product as a user has it: `topiary serve` with a real Ray, used, broken and started again."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from nas.client import Client
from nas.spec import SearchSpec
from nas.states import SearchState
from nas.views import SearchView
from tests.api.service import Service, kill, serving, wait_for, worker_of


def topiary(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api.cli", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == code, ran.stderr
    return ran


def assert_same(view: SearchView, undisturbed: dict[str, Any]) -> None:
    """Ranks and losses to the last bit; only the running numbers may differ."""
    found = view.model_dump(mode="json")
    assert found["state"] == "finished"

    def without_ids(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key != "candidate_id"} for row in rows]

    assert without_ids(found["leaderboard"]) == without_ids(undisturbed["leaderboard"])
    assert [p["curve"] for p in found["promotions"]] == [p["curve"] for p in undisturbed["promotions"]]


def test_a_search_from_the_command_line_to_the_model(
    service: Service, whole: SearchSpec, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "spec.json").write_text(whole.model_dump_json())
    server = ("--server", service.url)
    submitted = topiary("submit", str(tmp_path / "spec.json"), "--watch", "--json", *server)
    assert_same(SearchView.model_validate_json(submitted.stdout), undisturbed)
    assert "retraining candidates" in submitted.stderr

    again = topiary("submit", str(tmp_path / "spec.json"), *server)
    assert "tiny: finished, 2 candidates" in again.stderr
    assert "tiny" in topiary("searches", *server).stdout
    rows = json.loads(topiary("leaderboard", "tiny", "--json", *server).stdout)
    assert [row["loss"] for row in rows] == [row["loss"] for row in undisturbed["leaderboard"]]
    best = json.loads(topiary("best", "tiny", "--json", *server).stdout)
    assert (best["final"], best["checkpoint"]["kind"]) == (True, "model")
    logs = topiary("logs", "tiny", *server).stdout
    assert logs.count("trial") == 2

    exported = Path(topiary("export", "tiny", "--into", str(tmp_path / "model"), *server).stdout.strip())
    assert json.loads((exported / "config.json").read_text()).items() >= best["config"].items()
    assert AutoModelForCausalLM.from_pretrained(exported).num_parameters() == best["standing"]["parameters"]
    assert topiary("cancel", "tiny", *server, code=2).stderr == (
        "topiary: search: tiny is finished already; accepted: a search that is running, paused or stopped.\n"
    )


def test_a_bad_spec_gets_the_sentence_of_the_command_line(service: Service, whole: SearchSpec, tmp_path: Path) -> None:
    bad = {**whole.model_dump(mode="json"), "name": "bad", "teacher": "/nowhere"}
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    local = topiary("enumerate", str(tmp_path / "bad.json"), code=2).stderr
    assert local.startswith("topiary: teacher: /nowhere does not exist; accepted: a Hugging Face folder")
    assert topiary("submit", str(tmp_path / "bad.json"), "--server", service.url, code=2).stderr == local


def test_a_cancelled_search_ends_at_once_and_goes_on_when_it_is_submitted_again(
    service: Service, whole: SearchSpec
) -> None:
    named = whole.model_copy(update={"name": "cancelled"})
    with Client(service.url) as client:
        client.submit(named)
        wait_for(lambda: client.search("cancelled").tokens_done or None)
        assert client.cancel("cancelled").intent == "cancel"
        *_, ended = client.watch("cancelled")
        assert ended.state is SearchState.CANCELLED
        assert {job.state for job in ended.jobs} == {"cancelled"}
        client.submit(named)
        wait_for(lambda: any(each.number == 2 for each in client.attempts("cancelled")) or None)
        states = {each.state for each in client.attempts("cancelled") if each.number == 1}
        assert states == {"succeeded", "cancelled"}, "what had ended stays so"
        client.cancel("cancelled")  # Where the end of it would be is known by now.


def test_a_paused_search_goes_on_to_the_same_end(
    service: Service, whole: SearchSpec, undisturbed: dict[str, Any]
) -> None:
    """Its workers save their state in the middle of training and end; resumed, not a bit of a loss differs."""
    with Client(service.url) as client:
        client.submit(whole.model_copy(update={"name": "paused"}))
        wait_for(lambda: client.search("paused").tokens_done or None)
        client.pause("paused")
        wait_for(lambda: client.search("paused").state is SearchState.PAUSED or None)
        ended = [each for each in client.attempts("paused") if each.kind == "trial"]
        assert {each.state for each in ended} <= {"interrupted", "succeeded"}
        assert any("saved" in str(each.reason) for each in ended), [each.reason for each in ended]
        client.resume("paused")
        *_, seen = client.watch("paused")
        assert_same(seen, undisturbed)


def test_a_service_that_no_other_machine_may_reach(tmp_path: Path) -> None:
    refused = topiary("serve", "--host", "0.0.0.0", "--runs", str(tmp_path / "runs"), code=2).stderr
    assert refused.startswith("topiary: --host: 0.0.0.0 is not this machine's own address")
    assert not (tmp_path / "runs").exists()


def test_two_services_do_not_share_a_folder_or_a_port(service: Service, tmp_path: Path) -> None:
    second = topiary("serve", "--runs", str(service.runs), "--port", "0", code=2).stderr
    assert "is in use by another service or run" in second
    port = service.url.rsplit(":", 1)[1]
    assert (
        f"--port: {port} cannot be used"
        in topiary("serve", "--runs", str(tmp_path / "r"), "--port", port, code=2).stderr
    )


def test_whatever_is_killed_the_search_ends_the_same(
    whole: SearchSpec, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """A worker, the HTTP server, and everything at once with the scheduler and its Ray, each in the middle of work."""
    with serving(tmp_path / "runs") as service, Client(service.url) as client:
        client.submit(whole)

        def next_checkpoint() -> Path:
            """The folder of a running attempt that has a checkpoint and has not been disturbed."""
            seen = set(service.runs.glob("jobs/*/attempt-*/checkpoints/step-*"))
            return wait_for(lambda: next(iter(set(_checkpoints(service.runs)) - seen), None)).parents[1]

        kill(worker_of(next_checkpoint()))
        next_checkpoint()
        kill(service.child("http").pid)
        client.wait_until_ready()
        next_checkpoint()
        service.kill()
        service.start()
        *_, ended = client.watch("tiny")
        assert_same(ended, undisturbed)
        assert any(service.runs.glob("jobs/*/attempt-2")), "it was disturbed"


def _checkpoints(runs: Path) -> list[Path]:
    """Checkpoints of attempts that have not ended."""
    return [
        each
        for each in runs.glob("jobs/*/attempt-*/checkpoints/step-?????????")
        if not (each.parents[1] / "result.json").exists()
    ]
