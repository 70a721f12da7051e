"""Measured latency against whole models in the same process: sums hold, larger is slower, caches are as they should be.

Bounds are wide, since whoever else runs on the machine is measured too.
"""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.architecture import Architecture
from nas.compression.latency import Bench, measure
from nas.compression.memory import free_bytes, layers_that_fit
from nas.compression.passes import Effort, Passes, random_model, time_passes
from nas.families import family_named
from nas.latency import PHASES, LatencyTable, blocks_of
from nas.model_folder import ModelFolder

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 2000,
    "num_hidden_layers": 6,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **SIZES},
    "gemma2": {"model_type": "gemma2", **SIZES, "sliding_window": 16},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        **SIZES,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
    },
}
CONTEXT = 64


def teacher(model_type: str, **changes: object) -> ModelFolder:
    """The config of one; there is no folder."""
    config = {**CONFIGS[model_type], **changes}
    return ModelFolder(Path("none"), config, family_named(model_type).architecture(config), "float32", files={})


def bench(folder: ModelFolder, **changes: Any) -> Bench:
    return Bench(
        **{
            "teacher": folder,
            "device": CPU,
            "dtype": "float32",
            "batch_size": 1,
            "context": CONTEXT,
            "phases": PHASES,
            "seconds": 0.0,
            "repetitions": 30,
            "rounds": 5,
            **changes,
        }
    )


def measured(folder: ModelFolder, *shapes: Architecture, **changes: Any) -> LatencyTable:
    blocks = {block: None for shape in shapes for block in blocks_of(shape)}
    return measure(bench(folder, **changes), list(blocks), shapes, lambda done, total: None)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_sum_of_blocks_is_near_the_whole_model(model_type: str) -> None:
    """Another try is for what the machine did besides, not for a sum that does not hold."""
    folder = teacher(model_type)
    small = folder.architecture.resized(num_hidden_layers=3, hidden_size=128)
    for _ in range(3):
        table = measured(folder, folder.architecture, small)
        ratios = [check.ratio for phase in PHASES for check in table.checks(phase)]
        if all(0.6 < ratio < 1.6 for ratio in ratios):
            break
    else:
        pytest.fail(f"measured / sum of blocks: {ratios}")
    assert len(ratios) == 4
    assert table.covers([folder.architecture, small])
    assert (table.measured_on.dtype, table.measured_on.threads) == ("float32", 1)
    both = {True, False} if model_type == "gemma2" else {False}
    assert {each.block.sliding for each in table.prefill.blocks} == both  # type: ignore[union-attr]


def test_a_block_with_a_wider_mlp_takes_longer() -> None:
    folder = teacher("llama", intermediate_size=2048)
    wide, narrow = folder.architecture, folder.architecture.resized(intermediate_size=512)
    table = measured(folder, wide, narrow, phases=("prefill",), repetitions=20)
    assert table.prefill is not None
    times = {each.block.intermediate_size: each.timing for each in table.prefill.blocks}
    assert times[2048].median > 1.5 * times[512].median
    assert times[512].lower_quartile <= times[512].median <= times[512].upper_quartile
    assert times[512].repetitions >= 2 * 20, "two equal layers give two samples of each pass"
    assert table.decode is None


def two_layers(model_type: str) -> Any:
    return random_model({**CONFIGS[model_type], "num_hidden_layers": 2}, torch.float32, CPU)


def passes_over(model: Any, phase: Any, context: int = CONTEXT, **changes: int) -> Passes:
    return Passes(model, phase, batch_size=2, context=context, **changes)


def lengths(cache: Any) -> list[int]:
    """Tokens whose keys each layer holds."""
    return [layer.keys.shape[-2] for layer in cache.layers]


@pytest.mark.parametrize(
    ("model_type", "before", "after"),
    [("llama", [CONTEXT] * 2, [CONTEXT + 1] * 2), ("gemma2", [15, CONTEXT], [15, CONTEXT + 1])],
)
def test_decode_goes_on_from_a_full_cache_every_time(model_type: str, before: list[int], after: list[int]) -> None:
    passes = passes_over(two_layers(model_type), "decode")
    for _ in range(3):
        cache = passes.cache_before()
        assert (cache.get_seq_length(), lengths(cache)) == (CONTEXT, before)
        cache = passes(cache)
        assert (cache.get_seq_length(), lengths(cache)) == (CONTEXT + 1, after)
    assert cache.layers[0].keys.shape[:2] == (2, 4), "batch and key-value heads"
    assert all(layer.keys.isfinite().all() for layer in cache.layers)


def test_prefill_begins_with_nothing_in_the_cache_every_time() -> None:
    passes = passes_over(two_layers("llama"), "prefill")
    for _ in range(2):
        assert passes.cache_before() is None
        assert lengths(passes(passes.cache_before())) == [CONTEXT] * 2


def test_learned_positions_may_end_with_the_context() -> None:
    config = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": CONTEXT}
    model = random_model({**config, "eos_token_id": 0}, torch.float32, CPU)
    passes = passes_over(model, "decode", learned_positions=CONTEXT)
    assert lengths(passes(passes.cache_before())) == [CONTEXT + 1]


def test_the_parts_of_a_pass_are_marked_in_order_and_no_mark_stays() -> None:
    model = two_layers("llama")
    passes = passes_over(model, "prefill", context=8)
    effort = Effort(warm_up=1, repetitions=3, seconds=0.0)
    rows = time_passes(passes, effort, list(model.model.layers), CPU)
    assert [len(row) for row in rows] == [5, 5, 5], "before, layer, between, layer, after"
    assert all(milliseconds > 0 for row in rows for milliseconds in row)
    assert [len(row) for row in time_passes(passes, effort, (), CPU)] == [1, 1, 1]
    long = time_passes(passes, Effort(warm_up=0, repetitions=1, seconds=0.3), (), CPU)
    assert 0.15 < sum(sum(row) for row in long) / 1000 < 3


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_model_is_gone_with_the_last_who_knows_it(model_type: str) -> None:
    """By counting references: a large model must not wait for a collection of circles."""
    model = two_layers(model_type)
    passes, gone = passes_over(model, "decode"), weakref.ref(model)
    gc.disable()
    try:
        time_passes(passes, Effort(warm_up=0, repetitions=1, seconds=0.0), list(model.model.layers), CPU)
        del model, passes
        assert gone() is None
    finally:
        gc.enable()


def test_a_check_that_memory_does_not_hold_is_timed_with_the_layers_that_fit() -> None:
    folder = teacher("llama")
    room = 4 * folder.family.count(folder.architecture.resized(num_hidden_layers=5))
    table = measured(folder, folder.architecture, repetitions=1, rounds=1, phases=("decode",), room=room)
    (check,) = table.checks("decode")
    left = check.architecture.num_hidden_layers
    assert 2 <= left < 5
    assert check.layers_left_out == 6 - left
    assert check.predicted_milliseconds == table.milliseconds(check.architecture, "decode")


def test_layers_fit_as_far_as_there_is_room() -> None:
    shape = teacher("llama").architecture

    def fitting(room: float, *, eager: bool = False, context: int = CONTEXT) -> int:
        return layers_that_fit(shape, "float32", room, 1, context, eager=eager)

    assert fitting(1e12) == 6
    assert fitting(0) == 2
    whole = 4 * family_named("llama").count(shape)
    assert 2 < fitting(0.9 * whole) < 6
    assert fitting(1.2 * whole) == 6 > fitting(1.2 * whole, context=20_000)
    assert fitting(1e9, context=4000) == 6 > fitting(1e9, context=4000, eager=True)
    assert layers_that_fit(shape.resized(num_hidden_layers=1), "float32", 0, 1, CONTEXT, eager=False) == 1
    assert 2**20 < free_bytes(CPU) < 2**50


def test_progress_counts_models() -> None:
    folder = teacher("llama", num_hidden_layers=2)
    shapes = [folder.architecture, folder.architecture.resized(intermediate_size=128)]
    told: list[tuple[int, int]] = []
    blocks = [block for shape in shapes for block in blocks_of(shape)]
    measure(
        bench(folder, phases=("decode",), repetitions=2, rounds=2),
        blocks,
        shapes[1:],
        lambda done, total: told.append((done, total)),
    )
    assert told == [(done, 6) for done in range(1, 7)]
