"""Layers that are tried without: against the model itself, run by transformers with those layers passed by."""

from collections.abc import Collection
from contextlib import ExitStack
from itertools import combinations
from typing import Any

import pytest
import torch

from nas.calibration import CalibrationSpec
from nas.compression.checkpoint import own_tensors
from nas.compression.choose import choose
from nas.compression.data import Batch
from nas.compression.importance import Origin, Plan, Source, Statistics, calibrate
from nas.compression.importance.removal import Damage, num_passes, without
from nas.compression.layerwise import LayersInMemory
from tests.nas.families.small import ALL, Variant, built

TOKENS = torch.randint(0, 40, (5, 9), generator=torch.Generator().manual_seed(7))
INPUTS, TARGETS = TOKENS[:, :-1], TOKENS[:, 1:]
SOME = [variant for variant in ALL if str(variant) in ("llama-0", "gemma2-0", "gpt2-0", "mixtral-0", "gpt_neox-0")]
WITH_TYPES = [variant for variant in ALL if variant.architecture.has_layer_types]


@torch.no_grad()
def logits_without(variant: Variant, model: Any, gone: Collection[int]) -> torch.Tensor:
    with ExitStack() as stack:
        for i in gone:
            block = model.get_submodule(variant.family.taps.block.format(i=i))
            stack.callback(block.register_forward_hook(lambda _, inputs, __: inputs[0]).remove)
        logits: torch.Tensor = model(INPUTS, use_cache=False).logits
    return logits


def loss_of(logits: torch.Tensor) -> float:
    chances = logits.float().double().log_softmax(-1)
    return -chances.gather(-1, TARGETS[..., None]).mean().item()


def change_of(logits: torch.Tensor, full: torch.Tensor) -> float:
    return ((logits - full).square().sum() / full.square().sum()).item()


def sliding_of(variant: Variant) -> tuple[bool, ...]:
    return variant.family.rules.sliding_layers(variant.config, variant.architecture.num_hidden_layers)


def measured(variant: Variant, model: Any, depths: tuple[int, ...], **spec: Any) -> Statistics:
    plan = Plan(variant.architecture, CalibrationSpec.model_validate(spec), depths, sliding_of(variant))
    layers = LayersInMemory(model, variant.family, variant.architecture.num_hidden_layers)
    source = Source(layers, own_tensors(model).__getitem__, torch.device("cpu"), micro_batch_size=2)
    told: list[tuple[int, int]] = []
    found = calibrate(
        plan, source, Batch(INPUTS, TARGETS), Origin("", "", "", 0), progress=lambda *now: told.append(now)
    )
    assert told[-1][0] == told[-1][1]
    assert told == sorted(told)
    return found


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_the_loss_without_each_layer_is_that_of_the_model_without_it(variant: Variant) -> None:
    model = built(variant.config)
    scores = measured(variant, model, (3,), depth="perplexity").scores(CalibrationSpec(depth="perplexity"))
    expected = [loss_of(logits_without(variant, model, [i])) for i in range(4)]
    assert scores.layers.tolist() == pytest.approx(expected, rel=1e-6)
    assert len(set(expected)) == 4


@pytest.mark.parametrize("variant", SOME, ids=str)
@pytest.mark.parametrize("depth", ["perplexity", "logit_mse"])
def test_stretches_are_tried_without_all_of_their_layers(variant: Variant, depth: Any) -> None:
    model = built(variant.config)
    spec = CalibrationSpec(depth=depth, contiguous=True)
    scores = measured(variant, model, (1, 2), depth=depth, contiguous=True).scores(spec)
    full = logits_without(variant, model, [])
    for length in (2, 3):
        for first in range(4 - length + 1):
            logits = logits_without(variant, model, range(first, first + length))
            expected = loss_of(logits) if depth == "perplexity" else change_of(logits, full)
            assert scores.stretches[length - 1, first].item() == pytest.approx(expected, rel=1e-6)
    assert scores.stretches[0].isnan().all()


@pytest.mark.parametrize("variant", [*SOME, *WITH_TYPES[1:]], ids=str)
def test_layers_go_one_by_one_in_the_order_of_plain_search(variant: Variant) -> None:
    model, gone = built(variant.config), list[int]()
    full = logits_without(variant, model, [])
    slides, whole = sliding_of(variant), variant.architecture
    stays_sliding = whole.resized(num_hidden_layers=1).num_sliding_layers == 1
    while len(gone) < 3:
        others = [i for i in range(4) if i not in gone]
        if whole.has_layer_types and sum(slides[i] == stays_sliding for i in others) == 1:
            # The last of the type that the one layer of the student is of has to stay.
            others = [i for i in others if slides[i] != stays_sliding]
        gone.append(min(others, key=lambda i: change_of(logits_without(variant, model, [*gone, i]), full)))
    scores = measured(variant, model, (1, 3), depth="logit_mse").scores(CalibrationSpec(depth="logit_mse"))
    assert scores.layers.nan_to_num(9).argsort().tolist()[:3] == gone
    for depth in (1, 2, 3):
        student = whole.resized(num_hidden_layers=depth)
        assert len(choose(scores, whole, student, slides).layers) == depth


def test_protected_layers_never_go() -> None:
    variant = ALL[0]
    spec = CalibrationSpec(depth="logit_mse", protect_first_layers=1, protect_last_layers=1)
    asked = {"depth": "logit_mse", "protect_first_layers": 1, "protect_last_layers": 1}
    scores = measured(variant, built(variant.config), (1,), **asked).scores(spec)
    assert scores.layers.isnan().tolist() == [True, False, False, True]


def test_depth_samples_bound_what_removal_is_tried_on() -> None:
    variant = ALL[0]
    model = built(variant.config)
    found = measured(variant, model, (3,), depth="perplexity", depth_samples=2)
    assert float(found.tried.value) == 2 * INPUTS.shape[1]
    first_two = logits_without(variant, model, [1])[:2].float().double().log_softmax(-1)
    expected = -first_two.gather(-1, TARGETS[:2, :, None]).mean().item()
    assert found.scores(CalibrationSpec(depth="perplexity")).layers[1].item() == pytest.approx(expected, rel=1e-6)


def test_what_removals_share_is_computed_once() -> None:
    variant = ALL[0]
    layers = LayersInMemory(built(variant.config), variant.family, 4)
    removals = [frozenset(some) for n in (1, 2) for some in combinations(range(4), n)]
    passed: list[int] = []
    states = list(without(layers, [INPUTS], removals, passed.append))
    assert len(states) == len(removals)
    assert sum(passed) == num_passes(4, removals) * len(INPUTS)
    # 1 full prefix of each length up to 3, and each of the others once.
    assert num_passes(4, [frozenset({3}), frozenset({2, 3})]) == 3
    assert num_passes(4, [frozenset({0}), frozenset()]) == 4 + 3


def test_no_layer_removed_is_the_models_own_loss() -> None:
    variant = ALL[0]
    model = built(variant.config)
    damage = Damage("perplexity", [frozenset()])
    damage.measure(LayersInMemory(model, variant.family, 4), Batch(INPUTS, TARGETS), 2, lambda passed: None)
    assert damage.of(frozenset()) == pytest.approx(loss_of(logits_without(variant, model, [])), rel=1e-6)
