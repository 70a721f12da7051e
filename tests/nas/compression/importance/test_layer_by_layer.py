"""A teacher of which one layer is in memory at a time has the scores of the whole one, bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.calibration import CalibrationSpec
from nas.compression.data import Batch
from nas.compression.importance import Origin, Plan, Source, Statistics, calibrate
from nas.compression.importance.calibrate import STATES_BYTES
from tests.nas.families.small import ALL, Variant
from tests.nas.families.test_checkpoints import save

TOKENS = torch.randint(0, 40, (7, 9), generator=torch.Generator().manual_seed(2))
SAMPLES = Batch(TOKENS[:, :-1], TOKENS[:, 1:])
CPU = torch.device("cpu")


def measured(variant: Variant, source: Source, told: list[int] | None = None, **spec: Any) -> Statistics:
    plan = Plan(variant.architecture, CalibrationSpec.model_validate(spec), (2,))
    progress = [] if told is None else told
    return calibrate(plan, source, SAMPLES, Origin("", "", "", 0), progress=lambda done, total: progress.append(done))


def same(ours: Statistics, theirs: Statistics, **spec: Any) -> None:
    asked = CalibrationSpec.model_validate(spec)
    assert theirs.scores(asked).layers.isfinite().all() or asked.contiguous
    assert not theirs.scores(asked).stretches.isnan().all()
    for name, values in vars(theirs.scores(asked)).items():
        assert torch.equal(getattr(ours.scores(asked), name).nan_to_num(-1), values.nan_to_num(-1)), name


@pytest.mark.parametrize("variant", [variant for variant in ALL if variant.number == 0], ids=str)
def test_every_family_has_the_scores_of_the_whole(variant: Variant, tmp_path: Path) -> None:
    folder = save(variant, tmp_path)
    whole = Source.of(folder, CPU, micro_batch_size=2)
    by_layer = Source.of(folder, CPU, micro_batch_size=2, layer_by_layer=True)
    for spec in ({"contiguous": True}, {"depth": "perplexity"}):
        same(measured(variant, by_layer, **spec), measured(variant, whole, **spec), **spec)


def test_few_states_at_once_are_more_sweeps_and_the_same_scores(tmp_path: Path) -> None:
    variant = ALL[0]
    folder = save(variant, tmp_path)
    whole = measured(variant, Source.of(folder, CPU, micro_batch_size=2))
    by_layer = Source.of(folder, CPU, micro_batch_size=2, layer_by_layer=True)
    assert by_layer.states_bytes == STATES_BYTES
    loads: list[int] = []
    load = by_layer.layers.load
    by_layer.layers.load = lambda i: (loads.append(i), load(i))[1]  # type: ignore[method-assign, func-returns-value]
    same(measured(variant, by_layer), whole)
    assert loads == [0, 1, 2, 3], "all sequences go through a layer while it is there"
    loads.clear()
    # Of 8 tokens with 24 channels in float32 and two states each, two sequences at a time.
    scarce = replace(by_layer, states_bytes=2 * 2 * 8 * 24 * 4 + 1)
    same(measured(variant, scarce), whole)
    assert loads == [0, 1, 2, 3] * 4
