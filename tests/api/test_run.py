"""Whole small searches by the command itself, in processes of their own: left alone, killed, and interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nas.spec import SearchSpec

LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
assert not {"nas", "workers", "api"} & set(sys.modules)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
prompt = tokenizer("def main(", return_tensors="pt")
text = tokenizer.decode(model.generate(**prompt, max_new_tokens=8, do_sample=False)[0])
assert text.startswith("def main(") and len(text) > len("def main("), text
print(model.num_parameters(), model.dtype)
"""


PROMOTION = "jobs/000005/attempt-1/checkpoints"


def start(spec: Path, into: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "api.cli", "run", str(spec), "--into", str(into), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory, whole: SearchSpec) -> Path:
    path = tmp_path_factory.mktemp("spec") / "tiny.json"
    path.write_text(whole.model_dump_json())
    return path


def test_every_candidate_is_ranked_before_and_after_retraining(undisturbed: dict[str, Any]) -> None:
    rows = undisturbed["leaderboard"]
    assert undisturbed["state"] == "finished"
    assert [row["rank"] for row in rows] == [1, 2]
    assert sorted(row["rank_after_pruning"] for row in rows) == [1, 2]
    assert all(row["tokens"] == 7680 for row in rows)
    assert all(row["loss"] < row["loss_after_pruning"] for row in rows)
    (promotion,) = undisturbed["promotions"]
    assert promotion["candidate_id"] == rows[0]["candidate_id"]
    assert [point["tokens"] for point in promotion["curve"]] == [0, 3840, 7680]
    assert promotion["curve"][0]["loss"] == rows[0]["loss"], "a promotion goes on from the trial's final weights"


def test_export_loads_without_topiary_and_has_the_promised_size(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    (promotion,) = undisturbed["promotions"]
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, promotion["folder"]], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    promised = next(r["parameters"] for r in undisturbed["leaderboard"] if r["rank"] == 1)
    assert loaded.stdout.split() == [str(promised), "torch.bfloat16"]
    provenance = json.loads((Path(promotion["folder"]) / "provenance.json").read_text())
    assert provenance["parameters"] == promised
    assert [point["tokens"] for point in provenance["trial_curve"]] == [0, 3840, 7680]


def test_killed_again_and_again_it_ends_with_the_same_leaderboard(
    spec_file: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Killed once while it prepares, once as soon as a trial, and once as soon as the promotion, has a checkpoint."""
    run = tmp_path / "run"
    for sign in (
        "jobs/000001/attempt-1/log.txt",
        "jobs/00000[3-4]/*/checkpoints/step-?????????",
        PROMOTION + "/step-?????????",
    ):
        process = start(spec_file, run)
        deadline = time.monotonic() + 120
        while not list(run.glob(sign)) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_until_gone(tmp_path)
    found = finish(start(spec_file, run))
    assert found["leaderboard"] == undisturbed["leaderboard"]
    assert [p["curve"] for p in found["promotions"]] == [p["curve"] for p in undisturbed["promotions"]]
    again = {int(folder.parent.name) for folder in run.glob("jobs/*/attempt-2")}
    assert 1 in again
    assert again & {3, 4}
    assert 5 in again


def test_interrupting_leaves_no_process_and_says_how_to_go_on(spec_file: Path, tmp_path: Path) -> None:
    process = start(spec_file, tmp_path / "run")
    deadline = time.monotonic() + 60
    while not workers_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers_in(tmp_path)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert not workers_in(tmp_path)


def test_two_runs_in_one_folder_are_refused(spec_file: Path, tmp_path: Path) -> None:
    first = start(spec_file, tmp_path / "run")
    deadline = time.monotonic() + 60
    while not workers_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    second = start(spec_file, tmp_path / "run")
    _, err = second.communicate(timeout=60)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)
    assert second.returncode == 2
    assert "is in use by another service or run; accepted: a folder of its own for each search" in err
    assert not workers_in(tmp_path)


def wait_until_gone(folder: Path) -> None:
    """The workers of a killed run end by themselves."""
    deadline = time.monotonic() + 20
    while (left := workers_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left


def workers_in(folder: Path) -> list[int]:
    """Process ids of the attempts below `folder`."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if f"workers.run_attempt {folder}" in line]
