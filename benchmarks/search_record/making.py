"""One run of the record, in a process that makes many."""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.demo_runs import Demo
from benchmarks.search_record.kept import KeptRun
from nas.architecture import Architecture
from nas.compression.evaluate import Evaluation

RUNS = Path(__file__).parents[2] / "runs" / "benchmarks" / "search_record"
SEEDS, TOKENS, MEASUREMENTS = (0, 1, 2), 131_072, 8


class _Worker:
    """The demo, made once in each process."""

    demo: Demo


def prepare() -> None:
    """What every process does first."""
    os.nice(10)
    torch.set_num_threads(1)
    disable_progress_bar()
    _Worker.demo = Demo(Path(tempfile.mkdtemp(prefix="search_record")))


def run(candidate: Architecture, seed: int) -> str:
    """Makes one run and its file; returns a line about it."""
    demo, points = _Worker.demo, list[tuple[int, Evaluation]]()
    wanted = demo.wanted(candidate, seed, tokens=TOKENS, measurements=MEASUREMENTS)
    ended = demo.run(wanted, lambda tokens, found: points.append((tokens, found)))
    KeptRun(
        np.array([tokens for tokens, _ in points]),
        np.array([found.loss_per_sequence for _, found in points]),
        np.array([found.kl_to_teacher for _, found in points], dtype=np.float32),
    ).write(file_of(candidate, seed))
    return f"{candidate.label}, seed {seed}, loss {ended.loss:.4f}, {ended.seconds:.0f} s"


def file_of(candidate: Architecture, seed: int) -> Path:
    return RUNS / f"{candidate.label.replace(' ', '').replace('/', '-')}-{seed}.npz"
