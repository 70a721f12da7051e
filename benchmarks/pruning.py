"""How much longer than a copy does a cut take, and how much memory? `python -m benchmarks.pruning`

Writes a Llama of 2.4 GB to the temporary folder and cuts it to a folder again, every axis of it, in a process of its
own. In turn with that, another process copies: it reads as many bytes as the cut reads of the teacher's files, the rows
that stay, and writes as many as the student has, in pieces, and flushes them. Before each the teacher's files are read
whole and what is not on disk yet is written, so that neither finds more in the page cache than the other. The copy
keeps one core busy and the cut all of them, so what else the machine does counts against the cut.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import safetensors
import torch

from nas.compression.choose import Kept
from nas.compression.prune import cut_folder
from nas.compression.weight_files import write_tensors
from nas.families.llama import LLAMA
from nas.model_folder import inspect_model_folder

ROUNDS, PIECE, RATIO = 5, 2**20, 1.5
CONFIG = {
    "model_type": "llama",
    "vocab_size": 64_000,
    "num_hidden_layers": 24,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
TEACHER = LLAMA.architecture(CONFIG)
STUDENT = TEACHER.resized(num_hidden_layers=20, hidden_size=1536, intermediate_size=4096, num_attention_heads=24)
BYTES = 2
"""Of an entry."""


@dataclass(frozen=True)
class Measured:
    """`peak_extra_bytes` is anonymous memory: files that are mapped are not in it."""

    seconds: float
    peak_extra_bytes: int


def main() -> None:
    if len(sys.argv) > 1:
        action, folder = {"cut": _cut, "copy": _copy}[sys.argv[1]], Path(sys.argv[2])
        print(json.dumps(vars(_measured(lambda: action(folder)))))
        return
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        _make_teacher(folder / "teacher")
        print(f"a teacher of {_bytes_of(folder / 'teacher') / 1e9:.2f} GB made in {time.monotonic() - began:.0f} s")
        cuts, copies = [], []
        for number in range(1, ROUNDS + 1):
            copies.append(_in_a_process("copy", folder))
            cuts.append(_in_a_process("cut", folder))
            print(f"round {number} of {ROUNDS}: copy {copies[-1].seconds:.2f} s, cut {cuts[-1].seconds:.2f} s")
    _report(cuts, copies)


def _report(cuts: list[Measured], copies: list[Measured]) -> None:
    cut_seconds, copy_seconds = (statistics.median(each.seconds for each in rounds) for rounds in (cuts, copies))
    largest = sorted((prod(shape) * BYTES for _, shape in LLAMA.tensors(TEACHER)), reverse=True)[:2]
    figures = {
        "ratio_to_copy": round(cut_seconds / copy_seconds, 3),
        "peak_extra_bytes": max(each.peak_extra_bytes for each in cuts),
        "cut_seconds": round(cut_seconds, 3),
        "copy_seconds": round(copy_seconds, 3),
        "read_bytes": _read_bytes(),
        "written_bytes": LLAMA.count(STUDENT) * BYTES,
        "rounds": ROUNDS,
    }
    for name, value in figures.items():
        print(f"{name:<20}{value:16,.10g}")
    limits = {"ratio_to_copy": ["<=", RATIO], "peak_extra_bytes": ["<", sum(largest) + 300 * 2**20]}
    holds = figures["ratio_to_copy"] <= RATIO and figures["peak_extra_bytes"] < sum(largest) + 300 * 2**20
    versions = f"torch {torch.__version__}, safetensors {safetensors.__version__}"
    print(f"Python {platform.python_version()}, {versions}")
    print(json.dumps({"benchmark": "pruning", "figures": figures, "targets": limits, "holds": holds}))


def _make_teacher(folder: Path) -> None:
    """In shards of a gigabyte."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    shapes = dict(LLAMA.tensors(TEACHER))
    tensors = ((name, torch.randn(shape, generator=generator).bfloat16()) for name, shape in shapes.items())
    write_tensors(folder, shapes, torch.bfloat16, tensors, shard_bytes=10**9)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))


def _in_a_process(action: str, folder: Path) -> Measured:
    """One round; what it wrote is removed again."""
    for file in (folder / "teacher").glob("*.safetensors"):
        _read(file)
    os.sync()
    command = [sys.executable, "-m", "benchmarks.pruning", action, str(folder)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    written = _bytes_of(folder / "written")
    if written < LLAMA.count(STUDENT) * BYTES:
        raise RuntimeError(f"{action} wrote {written:,} bytes only")
    shutil.rmtree(folder / "written")
    return Measured(**json.loads(output))


def _cut(folder: Path) -> None:
    """As a job does: the teacher is inspected, a folder with tokenizer and config comes out."""
    cut_folder(inspect_model_folder(folder / "teacher"), STUDENT, _kept(), folder / "written", {})


def _kept() -> Kept:
    """Any, since no weight is more important than another here; the same number of heads in each group."""
    generator, layers = torch.Generator().manual_seed(0), range(TEACHER.num_hidden_layers)

    def some(count: int, of: int) -> torch.Tensor:
        return torch.randperm(of, generator=generator)[:count].sort().values

    def heads() -> torch.Tensor:
        groups = TEACHER.num_key_value_heads
        stay, size = STUDENT.num_attention_heads // groups, TEACHER.num_attention_heads // groups
        return torch.cat([group * size + some(stay, size) for group in range(groups)])

    return Kept(
        layers=tuple(some(STUDENT.num_hidden_layers, TEACHER.num_hidden_layers).tolist()),
        channels=some(STUDENT.hidden_size, TEACHER.hidden_size),
        heads=tuple(heads() for _ in layers),
        groups=tuple(torch.arange(TEACHER.num_key_value_heads) for _ in layers),
        neurons=tuple(some(STUDENT.intermediate_size, TEACHER.intermediate_size) for _ in layers),
        experts=tuple(torch.arange(0) for _ in layers),
    )


def _copy(folder: Path) -> None:
    """Reads and writes in turn, piece by piece, each as much as the cut does."""
    buffer = memoryview(bytearray(PIECE))
    to_read, to_write = _read_bytes(), LLAMA.count(STUDENT) * BYTES
    share, remaining = to_write / to_read, to_write
    (folder / "written").mkdir()
    with (folder / "written" / "model.safetensors").open("wb", buffering=0) as out:
        for file in sorted((folder / "teacher").glob("*.safetensors")):
            with file.open("rb", buffering=0) as opened:
                while got := opened.readinto(buffer[: min(PIECE, to_read)]):
                    to_read -= got
                    remaining -= out.write(buffer[: min(round(got * share), remaining)])
        out.write(buffer[:remaining])  # What rounding left.
        os.fsync(out.fileno())


def _read(file: Path) -> None:
    buffer = bytearray(PIECE)
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass


def _read_bytes() -> int:
    """Of a layer that stays, the rows that stay are read."""
    whole = TEACHER.resized(num_hidden_layers=STUDENT.num_hidden_layers)
    return sum(
        student[0] * prod(teacher[1:]) * BYTES
        for (_, teacher), (_, student) in zip(LLAMA.tensors(whole), LLAMA.tensors(STUDENT), strict=True)
    )


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _measured(action: Callable[[], None]) -> Measured:
    """Runs it, while another thread looks how much memory there is."""
    ended, sampled = threading.Event(), [_anonymous()]

    def sample() -> None:
        while not ended.wait(0.005):
            sampled.append(_anonymous())

    sampler = threading.Thread(target=sample)
    sampler.start()
    began = time.perf_counter()
    action()
    seconds = time.perf_counter() - began
    ended.set()
    sampler.join()
    return Measured(seconds, max(sampled) - sampled[0])


def _anonymous() -> int:
    """Bytes of this process in memory that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
