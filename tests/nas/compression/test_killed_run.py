"""kill -9 at any step, and at any point of writing a checkpoint: the rest of the curve is the same, bit for bit."""

import multiprocessing
import signal
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from nas.compression.data import PackedTokens, write_token_file
from nas.compression.train import train
from nas.training_spec import TrainingSpec
from tests.nas.compression.small_run import SPEC, curve_into, new_run, run_until_killed, weights

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["workers.tasks"])  # As the tests of the service do: there is one server for all.

OFTEN, SELDOM = SPEC, SPEC.model_copy(update={"checkpoint_seconds": 10_000})


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, text_file: Path) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "t.bin"
    write_token_file(path, iter([text_file.read_text()]), tokenizer, 0, max_tokens=2000)
    return path


@pytest.fixture(scope="module")
def undisturbed(token_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, float], torch.Tensor]:
    run, curve = new_run(PackedTokens(token_file, sequence_length=8)), dict[int, float]()
    folder = tmp_path_factory.mktemp("undisturbed")
    train(run, checkpoints=folder, measure=curve_into(run, curve), progress=lambda _: None)
    return curve, weights(run)


CASES: list[tuple[TrainingSpec, int | None, int | None]] = [
    *((spec, step, None) for spec in (OFTEN, SELDOM) for step in range(10)),
    *((OFTEN, None, flush) for flush in (1, 2, 3, 4, 21, 22, 23, 24)),
]


@pytest.mark.parametrize(("spec", "at_step", "at_flush"), CASES)
def test_the_rest_of_the_curve_is_the_same(
    spec: TrainingSpec,
    at_step: int | None,
    at_flush: int | None,
    token_file: Path,
    undisturbed: tuple[dict[int, float], torch.Tensor],
    tmp_path: Path,
) -> None:
    killed = _FORKS.Process(
        target=run_until_killed, args=(token_file, tmp_path / "killed", spec, at_step, at_flush), daemon=True
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    run, rest = new_run(PackedTokens(token_file, sequence_length=8), spec), dict[int, float]()
    train(
        run,
        checkpoints=tmp_path / "next",
        earlier_checkpoints=[tmp_path / "killed"],
        measure=curve_into(run, rest),
        progress=lambda _: None,
    )
    curve, expected = undisturbed
    assert rest.items() <= curve.items()
    assert set(rest) >= {tokens for tokens in curve if at_step is not None and tokens > 32 * at_step}
    assert torch.equal(weights(run), expected)
