"""The whole product as a user has it: `topiary serve` with a real Ray, used, broken and started again."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from nas.client import Client
from nas.spec import SearchSpec
from nas.states import AttemptState, SearchState
from nas.views import SearchView
from tests.api.service import Service, kill, serving, slowly, wait_for, worker_of


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


def test_a_bad_spec_gets_the_sentence_of_the_command_line(service: Service, whole: SearchSpec, tmp_path: Path) -> None:
    bad = {**whole.model_dump(mode="json"), "name": "bad", "teacher": "/nowhere"}
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    local = topiary("enumerate", str(tmp_path / "bad.json"), code=2).stderr
    assert local.startswith("topiary: teacher: /nowhere does not exist; accepted: a Hugging Face folder")
    assert topiary("submit", str(tmp_path / "bad.json"), "--server", service.url, code=2).stderr == local


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


def test_whatever_is_killed_or_asked_the_search_ends_the_same(
    whole: SearchSpec, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Each in the middle of training, and one after another: so few workers need to start."""
    with serving(tmp_path / "runs") as service, Client(service.url) as client:
        client.submit(whole)
        _cancel(service, client)
        client.submit(whole)

        killed = _next_trained(service.runs)
        kill(worker_of(killed))
        _pause(service, client)
        client.resume("tiny")

        _next_trained(service.runs)
        kill(service.child("http").pid)
        client.wait_until_ready()
        _next_trained(service.runs)
        service.kill()  # The scheduler and its Ray, too.
        service.start()
        *_, ended = client.watch("tiny")
        assert_same(ended, undisturbed)
        attempts = client.attempts("tiny")
    states = Counter(each.state for each in attempts)
    assert states[AttemptState.CANCELLED] >= 1
    assert [each.state for each in attempts if each.folder == str(killed)] == ["lost"]
    assert states[AttemptState.INTERRUPTED] >= 1
    assert states[AttemptState.SUCCEEDED] == 6, "every job ends once"


def _cancel(service: Service, client: Client) -> None:
    """What runs ends at once, and what had ended stays so."""
    slowly(
        worker_of(_next_trained(service.runs)),
        act=lambda: client.cancel("tiny"),
        until=lambda: client.search("tiny").state is SearchState.CANCELLED,
    )
    assert {job.state for job in client.search("tiny").jobs} == {"cancelled"}
    assert {each.state for each in client.attempts("tiny")} == {"succeeded", "cancelled"}


def _pause(service: Service, client: Client) -> None:
    """What runs saves its state in the middle of training and ends."""
    attempt = _next_trained(service.runs)
    slowly(
        worker_of(attempt),
        act=lambda: client.pause("tiny"),
        until=lambda: client.search("tiny").state is SearchState.PAUSED,
    )
    (paused,) = [each for each in client.attempts("tiny") if each.folder == str(attempt)]
    assert paused.state == "interrupted"
    assert re.fullmatch(r"told to end; saved at step \d+", str(paused.reason))


def _next_trained(runs: Path) -> Path:
    """The folder of a running attempt, as soon as it has trained a few steps more, of which many are left."""
    seen = set(runs.glob("jobs/*/attempt-*/checkpoints/step-*"))

    def look() -> Path | None:
        for checkpoint in set(runs.glob("jobs/*/attempt-*/checkpoints/step-?????????")) - seen:
            attempt = checkpoint.parents[1]
            if not any((attempt / name).exists() for name in ("result.json", "failure.json")):
                return attempt
        return None

    return wait_for(look)
