"""What does a calibration cost beside the forward pass that it listens to? `python -m benchmarks.importance`

A Llama of hidden size 1024 and 12 layers with random weights, in float32: the pass that scores heads, neurons, channels
and, by Block Influence, layers, against the bare decoder on the same tokens in the same batches. Neither runs the head.
The two take turns; what is reported is the median of the ratios of neighbours.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nas.calibration import CalibrationSpec
from nas.compression.data import Batch
from nas.compression.importance import Origin, Plan, Source, calibrate
from nas.compression.layerwise import LayersInMemory
from nas.families.llama import LLAMA

ROUNDS, SEQUENCES, TOKENS, MICRO_BATCH = 9, 8, 512, 4
LIMIT = 1.10
CONFIG: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
}


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    config = LlamaConfig(**CONFIG)
    model: Any = LlamaForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    shape = LLAMA.architecture(config.to_dict())
    tokens = torch.randint(0, shape.vocab_size, (SEQUENCES, TOKENS + 1))
    samples = Batch(tokens[:, :-1], tokens[:, 1:])
    layers = LayersInMemory(model, LLAMA, shape.num_hidden_layers)
    source = Source(layers, model.state_dict().__getitem__, torch.device("cpu"), MICRO_BATCH)
    plan = Plan(shape, CalibrationSpec())

    @torch.no_grad()
    def forward() -> None:
        for batch in samples.split(MICRO_BATCH):
            model.get_decoder()(batch.inputs_BT, use_cache=False)

    def importance() -> None:
        calibrate(plan, source, samples, Origin("", "", "", 0))

    for side in (forward, importance):
        side()  # Warm.
    pairs = [(_seconds(forward), _seconds(importance)) for _ in range(ROUNDS)]
    ratios = sorted(ours / bare for bare, ours in pairs)
    figures = {
        "ratio_to_forward": round(statistics.median(ratios), 3),
        "lowest": round(ratios[0], 3),
        "highest": round(ratios[-1], 3),
        "forward_seconds": round(statistics.median(bare for bare, _ in pairs), 3),
        "importance_seconds": round(statistics.median(ours for _, ours in pairs), 3),
    }
    for name, value in figures.items():
        print(f"{name:<22}{value:10.3f}")
    told = f"{SEQUENCES} x {TOKENS} tokens, {MICRO_BATCH} sequences at once, float32, {torch.get_num_threads()} threads"
    print(
        f"{told}; Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}"
    )
    holds = figures["ratio_to_forward"] <= LIMIT
    targets = {"ratio_to_forward": ["<=", LIMIT]}
    print(json.dumps({"benchmark": "importance", "figures": figures, "targets": targets, "holds": holds}))


def _seconds(side: Callable[[], None]) -> float:
    began = time.perf_counter()
    side()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
