"""`topiary latency` as a user meets it: a table from a config alone by a real worker, a sentence for a refusal."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.cli import main
from api.latency_command import plan_of
from nas.budget import LatencyBudget
from nas.enumeration import enumerate_candidates
from nas.families import family_named
from nas.latency import LatencyTable, blocks_of, read_table
from nas.spec import SearchSpec
from tests.api.workers_beside import wait_for_worker
from tests.conftest import tiny_spec

CONFIG = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "dtype": "float32",
}


def spec_for(folder: Path, config: dict[str, Any] | None = None, **changes: object) -> SearchSpec:
    """A spec whose teacher is a folder with nothing but a config."""
    teacher = folder / "teacher"
    teacher.mkdir()
    (teacher / "config.json").write_text(json.dumps(config or CONFIG))
    return tiny_spec(teacher, folder / "none.txt", **changes)


def written(spec: SearchSpec, folder: Path) -> str:
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json())
    return str(path)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_table_covers_every_candidate_and_the_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a budget of latency as well, whose own table is what is being measured, and of no sample then."""
    budget = {
        "parameters": 43_000,
        "tolerance": 0.14,
        "latency": {"max_milliseconds": 1, "table": str(tmp_path / "table.json")},
    }
    spec = spec_for(tmp_path, budget=budget, sample_size=1, serving={"batch_size": 2, "context": 16})
    into = tmp_path / "table.json"
    assert main(["latency", written(spec, tmp_path), "--into", str(into), "--seconds", "0"]) == 0
    told = capsys.readouterr()
    teacher = family_named("llama").architecture(CONFIG)
    fitting = list(
        enumerate_candidates(spec.space, spec.budget.model_copy(update={"latency": None}), teacher, sequence_length=32)
    )
    table = read_table(into, "llama")
    assert len(fitting) == 4
    assert table.covers([*fitting, teacher])
    assert (table.batch_size, table.context, table.phases) == (2, 16, ("prefill", "decode"))
    assert (table.measured_on.dtype, table.measured_on.threads) == ("float32", 1)
    counts = sorted(family_named("llama").count(shape) for shape in fitting)
    ends = [family_named("llama").count(check.architecture) for check in table.checks("decode")]
    assert ends == [counts[0], counts[-1]]
    assert "timing 4 blocks of 4 candidates and the teacher, 2 x 16 tokens in float32" in told.err
    for shown in ("teacher", "smallest", "3 x 48 x 64 x 4/2", "64,080", f"{table.checks('prefill')[0].ratio:.2f}"):
        assert shown in told.out
    assert files_in(tmp_path) == ["spec.json", "table.json", "teacher"], "the worker's folder is gone"

    # As a budget then reads it: nothing is slower than an hour.
    generous = LatencyBudget(max_milliseconds=3.6e6, table=str(into))
    measured = spec.budget.model_copy(update={"latency": generous})
    assert len(enumerate_candidates(spec.space, measured, teacher, sequence_length=32)) == 4


def test_a_sample_of_one_phase_is_measured_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_for(tmp_path, sample_size=1)
    into = tmp_path / "table.json"
    given = ["latency", written(spec, tmp_path), "--into", str(into), "--phase", "decode", "--seconds", "0", "--json"]
    assert main(given) == 0
    told = capsys.readouterr()
    table = LatencyTable.model_validate_json(told.out)
    assert table == read_table(into)
    assert table.phases == ("decode",)
    assert table.decode is not None
    assert len(table.decode.blocks) == 2, "of the one candidate, and of the teacher"
    assert len(table.checks("decode")) == 1


LEARNED = {"model_type": "gpt2", "vocab_size": 320, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 24}
OWN_WIDTHS = {"space": {"num_hidden_layers": [3, 2]}, "budget": {"total_parameters": {"min": 1}}}


@pytest.mark.parametrize(
    ("config", "changes", "options", "sentence"),
    [
        (
            CONFIG,
            {},
            ["--shapes", "3"],
            "has candidates of more than 3 different blocks, too many to time; accepted: fewer sizes along its axes,",
        ),
        (
            CONFIG,
            {"serving": {"dtype": "int8"}},
            [],
            "serving.dtype: int8 cannot be timed, since nothing here computes in it; accepted: float32, bfloat16,",
        ),
        (
            LEARNED,
            OWN_WIDTHS,
            [],
            "data.sequence_length: 32 is longer than the teacher's 24 learned positions; accepted: up to 24",
        ),
        (
            LEARNED,
            {**OWN_WIDTHS, "serving": {"context": 25}},
            [],
            "serving.context: 25 is longer than the teacher's 24 learned positions; accepted: up to 24",
        ),
    ],
    ids=["blocks", "dtype", "length", "context"],
)
def test_what_cannot_be_timed_is_refused_before_anything_starts(
    config: dict[str, Any],
    changes: dict[str, object],
    options: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = written(spec_for(tmp_path, config, **changes), tmp_path)
    assert main(["latency", spec, "--into", str(tmp_path / "table.json"), *options]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert files_in(tmp_path) == ["spec.json", "teacher"]


def test_no_file_is_overwritten_and_no_folder_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = written(spec_for(tmp_path), tmp_path)
    assert main(["latency", spec, "--into", spec]) == 2
    assert capsys.readouterr().err == (
        f"topiary: --into: {spec} exists already; accepted: a file that does not exist yet.\n"
    )
    assert main(["latency", spec, "--into", str(tmp_path / "none" / "table.json")]) == 2
    assert "is in no folder that can be written to; accepted: a file in such a folder." in capsys.readouterr().err
    assert files_in(tmp_path) == ["spec.json", "teacher"]


def test_a_worker_that_fails_is_told_with_the_end_of_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rotary kind that only transformers knows to be none: the domain does not look at it."""
    spec = spec_for(tmp_path, {**CONFIG, "rope_scaling": {"rope_type": "none such", "factor": 2.0}})
    into = tmp_path / "table.json"
    assert main(["latency", written(spec, tmp_path), "--into", str(into), "--seconds", "0"]) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last):" in error
    assert error.splitlines()[-1] == "topiary: the measurement failed: KeyError: 'none such'"
    assert files_in(tmp_path) == ["spec.json", "teacher"]


def test_an_interrupted_measurement_leaves_nothing_behind(tmp_path: Path) -> None:
    spec = written(spec_for(tmp_path), tmp_path)
    command = [sys.executable, "-m", "api.cli", "latency", spec, "--into", str(tmp_path / "table.json")]
    process = subprocess.Popen([*command, "--seconds", "3600"], stderr=subprocess.PIPE, text=True)
    worker = wait_for_worker(tmp_path / "table.json")
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "topiary: interrupted"
    assert not psutil.pid_exists(worker)
    assert files_in(tmp_path) == ["spec.json", "teacher"]


def test_sliding_blocks_are_planned_beside_the_others(tmp_path: Path) -> None:
    config = {**CONFIG, "model_type": "gemma2", "sliding_window": 8}
    spec = spec_for(tmp_path, config, budget={"total_parameters": {"min": 1}}, space={"num_hidden_layers": [3, 2]})
    plan = plan_of(spec, ("decode",))
    assert set(plan.job.blocks) == set(blocks_of(family_named("gemma2").architecture(config)))
    assert sorted(block.sliding for block in plan.job.blocks) == [False, True]
    assert (plan.num_candidates, plan.smallest.num_hidden_layers, plan.largest) == (2, 2, plan.teacher)


def test_near_duplicates_are_planned_where_the_budget_has_to_know_them(tmp_path: Path) -> None:
    """The budget looks at every shape before near-duplicates are left out."""
    space = {"intermediate_size": [64, 63, 62], "thin": 0.5}
    budget: dict[str, object] = {"total_parameters": {"min": 1}}
    spec = spec_for(tmp_path, budget=budget, space=space)
    assert len(plan_of(spec, ("decode",)).job.blocks) == 1
    latency = {"max_milliseconds": 1, "table": "t"}
    spec = tiny_spec(tmp_path / "teacher", tmp_path, budget={**budget, "latency": latency}, space=space)
    assert len(plan_of(spec, ("decode",)).job.blocks) == 3
    alone = tiny_spec(tmp_path / "teacher", tmp_path, budget={"latency": latency}, space=space)
    assert len(plan_of(alone, ("decode",)).job.blocks) == 3, "a budget of nothing but latency"
