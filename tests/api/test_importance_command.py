"""`topiary importance` as a user meets it: the demo's teacher, scored for real by a few sequences."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from api.cli import main
from nas.compression.importance import Statistics
from nas.importance_view import ImportanceView
from nas.model_folder import inspect_model_folder
from nas.spec import SearchSpec
from tests.api.here_pool import HerePool
from tests.api.workers_beside import wait_for_worker
from tests.conftest import tiny_spec

TEACHER = Path(__file__).resolve().parents[2] / "examples" / "demo" / "teacher"
DATA: dict[str, Any] = {"validation_sequences": 4, "validation_fraction": 0.2, "sequence_length": 32}


def demo_spec(folder: Path, text: Path, data: dict[str, Any] | None = None, **calibration: Any) -> str:
    """A spec of the demo's teacher with so few samples that a pass takes no time, in a file of its own."""
    spec = tiny_spec(
        TEACHER,
        text,
        name="demo",
        budget={"total_parameters": {"min": 1}},
        space={"num_hidden_layers": [8, 6, 5]},
        data={**DATA, "train": str(text), **(data or {})},
        calibration={"samples": 6, **calibration},
    )
    path = folder / f"spec-{len(list(folder.glob('spec-*')))}.json"
    path.write_text(spec.model_dump_json())
    return str(path)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of jobs that the commands have run, in this process."""
    kinds: list[str] = []
    monkeypatch.setattr("api.one_job.LocalPool", lambda: HerePool(kinds))
    return kinds


def test_scores_are_kept_and_used_again_by_the_same_calibration_only(
    tmp_path: Path, text_file: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spec, into = demo_spec(tmp_path, text_file), tmp_path / "scores"
    assert main(["importance", spec, "--into", str(into)]) == 0
    told = capsys.readouterr()
    assert ran == ["prepare_data", "calibrate"]
    kept = Statistics.load(into)
    assert kept.architecture == inspect_model_folder(TEACHER).architecture
    shown = f"{kept.scores(tiny_spec(TEACHER, text_file).calibration).layers[7].item():.3g}"
    assert any(line.split()[:2] == ["7", shown] for line in told.out.splitlines())
    for line in ("samples         6 x 32 tokens", "teacher's loss  ", f"scores          {into}", "channels        "):
        assert line in told.out
    assert "units by activation (mean over a sequence, l2 over samples), layers by block_influence" in told.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores", "spec-0.json"], "the jobs' folder is gone"

    before = into.stat()
    assert main(["importance", spec, "--into", str(into), "--json"]) == 0
    told = capsys.readouterr()
    assert f"topiary: {into} is of this calibration already; nothing was measured again\n" in told.err
    answer = json.loads(told.out)
    assert (answer["scores"], answer["loss"]) == (str(into), None)
    assert len(ImportanceView.model_validate(answer["importance"]).layers) == 8
    assert into.stat() == before

    # What only the choice depends on may change.
    assert main(["importance", demo_spec(tmp_path, text_file, over_batch="mean"), "--into", str(into)]) == 0
    assert "(mean over a sequence, mean over samples)" in capsys.readouterr().out

    changes: list[tuple[dict[str, Any], str]] = [
        ({"samples": 5}, "samples (6 there, 5 here)"),
        ({"over_sequence": "l2"}, "over_sequence"),
    ]
    for changed, differs in changes:
        other = demo_spec(tmp_path, text_file, **changed)
        assert main(["importance", other, "--into", str(into)]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"topiary: the calibration failed: --into: {into} holds scores of another calibration")
        assert differs in error
    assert into.stat() == before


def test_shards_come_to_the_same_scores(
    tmp_path: Path, text_file: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a teacher scored for every depth of the space, whatever the budget leaves of them."""
    method: dict[str, Any] = {"depth": "perplexity", "contiguous": True}
    one, three = tmp_path / "one", tmp_path / "three"
    assert main(["importance", demo_spec(tmp_path, text_file, **method), "--into", str(one)]) == 0
    assert ", layers by perplexity, next to one another" in capsys.readouterr().out
    spec = demo_spec(tmp_path, text_file, **method, shards=3)
    assert main(["importance", spec, "--into", str(three), "--json"]) == 0
    told = capsys.readouterr()
    assert ran[2:] == ["prepare_data", *["calibrate"] * 3, "merge_scores"]
    assert ", next to one another, in 3 shards" in told.err
    assert json.loads(told.out)["loss"] > 0
    whole, merged = Statistics.load(one), Statistics.load(three)
    assert whole.identity == merged.identity
    assert whole.identity.lengths == (2, 3), "of 8 layers, for 6 and 5"
    calibration = SearchSpec.model_validate_json(Path(spec).read_text()).calibration
    for name, scores in vars(whole.scores(calibration)).items():
        assert torch.equal(scores.nan_to_num(-1), vars(merged.scores(calibration))[name].nan_to_num(-1)), name
    # Of the same calibration, in however many shards.
    assert main(["importance", spec, "--into", str(one)]) == 0
    assert "nothing was measured again" in capsys.readouterr().err
    assert ran[-1] == "calibrate"


def test_layers_by_questions_are_told_by_stretches_and_drawn(
    tmp_path: Path, text_file: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    questions, figures = tmp_path / "questions.jsonl", tmp_path / "figures.html"
    asked = {"question": "def f(x):\n    return", "choices": [" x", " import"], "answer": 0}
    questions.write_text(json.dumps(asked) + "\n")
    spec = demo_spec(tmp_path, text_file, preset="follow-up", questions=str(questions), shards=2)
    given = ["importance", spec, "--into", str(tmp_path / "scores"), "--figures", str(figures)]
    assert main(given) == 0
    told = capsys.readouterr().out
    assert "layers by accuracy, next to one another" in told
    assert "2 layers        least worth from " in told and "3 layers        least worth from " in told
    assert f"figures         {figures}" in told
    page = figures.read_text()
    assert page.lower().startswith("<!doctype html>") and "<title>demo: importance</title>" in page


@pytest.mark.parametrize(
    ("calibration", "options", "sentence"),
    [
        ({}, ["--into", "{}/none/scores"], "--into: {}/none/scores is in no folder that can be written to; accepted"),
        ({}, ["--into", "{}"], "--into: {} is not a file; accepted: a file of scores, or one that does not exist yet."),
        (
            {},
            ["--into", "{}/scores", "--figures", "{}/spec-0.json"],
            "--figures: {}/spec-0.json exists already; accepted: a file that does not exist yet.",
        ),
        (
            {},
            ["--into", "{}/scores", "--figures", "{}/scores"],
            "--figures: {}/scores is the file of --into; accepted: another file.",
        ),
        (
            {"depth": "accuracy", "questions": "/none.jsonl"},
            ["--into", "{}/scores"],
            "calibration.questions: /none.jsonl does not exist; accepted: ",
        ),
    ],
    ids=["folder", "no file", "figures", "both", "questions"],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    calibration: dict[str, Any],
    options: list[str],
    sentence: str,
    tmp_path: Path,
    text_file: Path,
    ran: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = demo_spec(tmp_path, text_file, **calibration)
    assert main(["importance", spec, *(option.format(tmp_path) for option in options)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"topiary: {sentence.format(tmp_path)}")
    assert error.count("\n") == 1
    assert not ran
    assert [path.name for path in tmp_path.iterdir()] == ["spec-0.json"]


def test_sequences_beyond_the_teachers_positions_are_refused(
    tmp_path: Path, text_file: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = demo_spec(tmp_path, text_file, data={"sequence_length": 100_000})
    assert main(["importance", spec, "--into", str(tmp_path / "scores")]) == 2
    assert "data.sequence_length: 100000 is longer than the teacher's" in capsys.readouterr().err
    assert not ran


def test_too_little_text_is_the_users_own(
    tmp_path: Path, text_file: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = demo_spec(tmp_path, text_file, data={"validation_sequences": 10**6})
    assert main(["importance", spec, "--into", str(tmp_path / "scores")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("topiary: the calibration failed: data.train: ")
    assert ran == ["prepare_data"]


def test_an_interrupted_calibration_leaves_nothing_behind(tmp_path: Path, text_file: Path) -> None:
    """A real worker, as soon as it is there."""
    spec, into = demo_spec(tmp_path, text_file), tmp_path / "scores"
    command = [sys.executable, "-m", "api.cli", "importance", spec, "--into", str(into)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    worker = wait_for_worker(into)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "topiary: interrupted"
    assert not psutil.pid_exists(worker)
    assert [path.name for path in tmp_path.iterdir()] == ["spec-0.json"]
