"""How long does counting a billion shapes take? `python -m benchmarks.enumeration`

On one core, in a process of its own that imports nothing but nas: how many of over a billion shapes of Nemotron-4 15B
are within 5 % of 4 billion parameters, the first hundred of them, and a sample of two hundred, each
from the spec on, so that counting is part of it. Then the
same for other teachers under combined budgets, for comparison. What is counted and listed of a smaller space is held
against a plain loop.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.budget import Budget
from nas.enumeration import Enumeration, enumerate_candidates
from nas.families import family_named
from nas.space import SearchSpace

EXAMPLES = Path(__file__).parents[1] / "examples"
ROUNDS, FIRST, SAMPLE, LENGTH = 5, 100, 200, 4096
LIMITS = {"count_seconds": 1.0, "first_candidates_seconds": 0.2, "sample_seconds": 2.0, "peak_bytes": 500e6}


@dataclass(frozen=True)
class Case:
    """A teacher, by the folder of an example or by its config, and what is asked of it."""

    teacher: str | dict[str, Any]
    space: dict[str, Any]
    budget: dict[str, Any] = field(default_factory=lambda: {"parameters": 4e9, "tolerance": 0.05})

    @property
    def architecture(self) -> Architecture:
        config = self.teacher
        if isinstance(config, str):
            config = json.loads((EXAMPLES / config / "config.json").read_text())
        return family_named(config["model_type"]).architecture(config)

    def enumerate(self) -> Enumeration:
        """What fits, counted."""
        space, budget = SearchSpace.model_validate(self.space), Budget.model_validate(self.budget)
        return enumerate_candidates(space, budget, self.architecture, sequence_length=LENGTH)


def every(step: int) -> dict[str, int]:
    return {"min": step, "step": step}


NEMOTRON = "nemotron-4-15b"
PAIRS = {"num_attention_heads": every(1), "num_key_value_heads": every(1)}
MAIN = Case(
    NEMOTRON,
    {"num_hidden_layers": every(1), "hidden_size": every(16), "intermediate_size": every(8), **PAIRS},
)
GEMMA_2_9B = {
    "model_type": "gemma2",
    "vocab_size": 256_000,
    "num_hidden_layers": 42,
    "hidden_size": 3584,
    "intermediate_size": 14_336,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "sliding_window": 4096,
}
QWEN3_30B = {
    "model_type": "qwen3_moe",
    "vocab_size": 151_936,
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
OTHERS = {
    "Llama-3.1-8B, parameters, memory and FLOPs": Case(
        "llama-3.1-8b",
        {"num_hidden_layers": every(1), "hidden_size": every(32), "intermediate_size": every(8), **PAIRS},
        {
            "parameters": 4.5e9,
            "memory": {"max_bytes": 12e9, "batch_size": 8, "context": 8192},
            "flops": {"max_per_token": 9e9, "context": 8192},
        },
    ),
    "Llama-3.1-8B, a window that few shapes hit": Case(
        "llama-3.1-8b",
        {"num_hidden_layers": every(1), "hidden_size": every(32), "intermediate_size": every(8), **PAIRS},
        {"parameters": 1e9, "tolerance": 1e-6},
    ),
    "Gemma-2-9B with its windows, likewise": Case(
        GEMMA_2_9B,
        {"num_hidden_layers": every(1), "hidden_size": every(16), "intermediate_size": every(8), **PAIRS},
        {
            "parameters": 4e9,
            "memory": {"max_bytes": 12e9, "batch_size": 4, "context": 16_384},
            "flops": {"max_per_token": 10e9, "context": 16_384},
        },
    ),
    "Qwen3-30B-A3B, total, active, memory and FLOPs": Case(
        QWEN3_30B,
        {
            "num_hidden_layers": every(1),
            "hidden_size": every(128),
            "intermediate_size": every(2),
            "num_experts": {"min": 8},
            **PAIRS,
        },
        {
            "total_parameters": {"max": 20e9},
            "active_parameters": {"min": 1e9, "max": 2e9},
            "memory": {"max_bytes": 40e9},
            "flops": {"max_per_token": 4e9, "phase": "decode"},
        },
    ),
    "Nemotron-4 15B, along the layers": Case(
        NEMOTRON,
        {
            "num_hidden_layers": every(1),
            "hidden_size": every(2),
            "intermediate_size": {**every(768), "max": 31 * 768},
            **PAIRS,
        },
        {"parameters": 4e9, "memory": {"max_bytes": 9e9}, "flops": {"max_per_token": 8e9}},
    ),
}
SMALL = Case(
    NEMOTRON,
    {
        "num_hidden_layers": {"min": 17},
        "hidden_size": every(384),
        "intermediate_size": every(384),
        "num_attention_heads": every(6),
        "num_key_value_heads": every(1),
    },
)
"""A million shapes."""


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name is not None:
        print(json.dumps(_measured(MAIN if name == "main" else OTHERS[name])))
        return
    figures = _in_a_process("main")
    print(_sizes("Nemotron-4 15B", figures))
    for measured in LIMITS:
        print(f"{measured:<26}{figures[measured]:16,.3f}")
    print("\nfor comparison, seconds to count, to the first and to a sample:")
    for other in OTHERS:
        found = _in_a_process(other)
        print("".join(f"{found[key]:8.3f}" for key in list(LIMITS)[:3]), "", _sizes(other, found))
    _check()
    targets = {name: ["<=", limit] for name, limit in LIMITS.items()}
    holds = all(figures[name] <= limit for name, limit in LIMITS.items()) and figures["legal"] >= 1e9
    print(f"Python {platform.python_version()}, numpy {version('numpy')}, pydantic {version('pydantic')}")
    print(json.dumps({"benchmark": "enumeration", "figures": figures, "targets": targets, "holds": holds}))


def _sizes(name: str, found: dict[str, float]) -> str:
    return f"{name}: {found['shapes']:,} shapes, {found['legal']:,} legal, {found['fitting']:,} within the budget"


def _in_a_process(name: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.enumeration", name]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: dict[str, float] = json.loads(output)
    return figures


def _measured(case: Case) -> dict[str, float]:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    times = {
        "count_seconds": _median(lambda: len(case.enumerate())),
        "first_candidates_seconds": _median(lambda: case.enumerate().first(FIRST)),
        "sample_seconds": _median(lambda: case.enumerate().sample(SAMPLE, seed=0)),
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = case.enumerate()
    counts = {"shapes": found.num_shapes, "legal": found.counted.within[0], "fitting": len(found)}
    return {**times, "peak_bytes": peak, **counts}


def _median(action: Callable[[], object]) -> float:
    """Seconds, over a few rounds, from a spec to the answer."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return round(statistics.median(times), 3)


def _check() -> None:
    """Raises RuntimeError where a plain loop finds other shapes."""
    began = time.perf_counter()
    expected, number = list(islice(_fitting(), FIRST)), sum(1 for _ in _fitting())
    took, found = time.perf_counter() - began, SMALL.enumerate()
    listed = [shape.axes[:5] for shape in SMALL.enumerate().first(FIRST)]
    if (len(found), listed) != (number, expected):
        raise RuntimeError(f"{len(found):,} shapes counted, {number:,} by a plain loop, or others than its first")
    print(
        f"\nas by a plain loop over {found.num_shapes:,} shapes ({took:.1f} s): {number:,}, and the same first {FIRST}"
    )


def _fitting() -> Iterator[tuple[int, ...]]:
    """SMALL by hand: Nemotron-4 has two matrices per MLP, LayerNorms with biases, and embedding and head apart."""
    for layers in range(32, 16, -1):
        for hidden in range(6144, 0, -384):
            for ffn in range(24_576, 0, -384):
                for heads in range(48, 0, -6):
                    for groups in range(8, 0, -1):
                        attention = 2 * hidden * heads * 128 + 2 * hidden * groups * 128
                        of_layers = layers * (attention + 2 * hidden * ffn + 4 * hidden)
                        legal = heads % groups == 0 and heads <= 6 * groups
                        if legal and 3_800_000_000 <= of_layers + 2 * 256_000 * hidden + 2 * hidden <= 4_200_000_000:
                            yield layers, hidden, ffn, heads, groups


if __name__ == "__main__":
    main()
