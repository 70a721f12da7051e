"""Statistics: aggregation and sums against plain ones, files, merging, and what must never be mixed up."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from nas.calibration import Aggregation, CalibrationSpec
from nas.compression.checkpoint import own_tensors
from nas.compression.data import Batch
from nas.compression.importance import Origin, Plan, Source, Statistics, calibrate, load_scores, merge
from nas.compression.importance.aggregation import Moments, over_sequence
from nas.compression.importance.exact_sum import ExactSum
from nas.compression.layerwise import LayersInMemory
from nas.errors import CheckpointError, SpecError
from tests.nas.families.small import ALL, built

TOKENS = torch.randint(0, 40, (6, 9), generator=torch.Generator().manual_seed(5))
VARIANT = ALL[0]


def measured(shard: tuple[int, int] = (0, 1), tokens: torch.Tensor = TOKENS, **spec: Any) -> Statistics:
    model = built(VARIANT.config)
    plan = Plan(VARIANT.architecture, CalibrationSpec.model_validate(spec), (2,), shard=shard)
    source = Source(LayersInMemory(model, VARIANT.family, 4), own_tensors(model).__getitem__, torch.device("cpu"), 1)
    return calibrate(plan, source, Batch(tokens[:, :-1], tokens[:, 1:]), Origin("teacher", "tokens", seed=0))


# --- sums and aggregations ----------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=1, max_size=40), st.randoms())
def test_sums_are_those_of_fractions_in_any_order(values: list[float], random: Any) -> None:
    exact = float(sum(Fraction(value) for value in values))
    for _ in range(3):
        random.shuffle(values)
        total, half = ExactSum.zeros(1), ExactSum.zeros(1)
        total.add_each(torch.tensor([[value] for value in values[::2]], dtype=torch.float64))
        half.add_each(torch.tensor([[value] for value in values[1::2]], dtype=torch.float64))
        total.merge(half)
        # Where nearly all cancels, the last of 106 bits may show.
        allowed = max(math.ulp(exact), 2**-98 * math.fsum(map(abs, values)))
        assert abs(total.value.item() - exact) <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("num_units", [3, 5000])
def test_a_long_sequence_is_summed_like_a_short_one(dtype: torch.dtype, num_units: int) -> None:
    """5,000 units go in pieces of few tokens; a mean far from 0 would ruin a variance made of squares."""
    values = (torch.rand(2, 300, num_units, generator=torch.Generator().manual_seed(0)) * 2 + 100).to(dtype)
    values[1] *= -1
    exact = values.double()
    expected = {
        "mean": exact.abs().mean(1),
        "l2": exact.square().sum(1).sqrt(),
        "var": exact.var(1, correction=0),
    }
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for aggregation, reference in expected.items():
        name: Aggregation = aggregation  # type: ignore[assignment]
        torch.testing.assert_close(over_sequence(values, name), reference, rtol=tolerance, atol=0)


def test_moments_are_aggregated_as_their_numbers_would_be() -> None:
    numbers = torch.rand(7, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moments = Moments.zeros(3, 2)
    moments.add(numbers[:4])
    moments.add(numbers[4:])
    torch.testing.assert_close(moments.over_batch("mean", 7), numbers.mean(0), rtol=1e-15, atol=0)
    torch.testing.assert_close(moments.over_batch("l2", 7), numbers.square().sum(0).sqrt(), rtol=1e-15, atol=0)
    torch.testing.assert_close(moments.over_batch("var", 7), numbers.var(0, correction=0), rtol=1e-13, atol=0)


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [{}, {"width": "wanda", "depth": "perplexity"}, {"depth": "logit_mse"}, {"width": "random", "depth": "magnitude"}],
)
def test_statistics_survive_their_file(tmp_path: Path, spec: dict[str, Any]) -> None:
    statistics = measured(**spec)
    path = tmp_path / "scores.safetensors"
    statistics.save(path)
    loaded = Statistics.load(path)
    assert loaded.identity == statistics.identity
    for again in (loaded.scores(CalibrationSpec.model_validate(spec)), load_scores(path, CalibrationSpec(**spec))):
        for name, values in vars(statistics.scores(CalibrationSpec.model_validate(spec))).items():
            assert torch.equal(values.nan_to_num(-1), getattr(again, name).nan_to_num(-1))


def test_scores_of_before_there_were_methods_are_read(tmp_path: Path) -> None:
    scores = measured().scores(CalibrationSpec())
    names = ("layers", "heads", "neurons", "channels")
    save_file({name: getattr(scores, name) for name in names}, tmp_path / "scores.safetensors")
    loaded = load_scores(tmp_path / "scores.safetensors", CalibrationSpec())
    assert all(torch.equal(getattr(loaded, name), getattr(scores, name)) for name in (*names, "experts"))


@pytest.mark.parametrize("content", [b"\x00" * 20, b"no safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.safetensors"
    path.write_bytes(content)
    for read in (Statistics.load, lambda path: load_scores(path, CalibrationSpec())):
        with pytest.raises(CheckpointError, match=r"scores\.safetensors: cannot be read"):
            read(path)
    save_file({"other": torch.zeros(2)}, path)
    for read in (Statistics.load, lambda path: load_scores(path, CalibrationSpec())):
        with pytest.raises(CheckpointError, match="is not a file of scores"):
            read(path)


# --- identity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"over_sequence": "l2"}, "over_sequence"),
        ({"neurons": "gate_output"}, "neurons"),
        ({"width": "wanda"}, "width"),
        ({"depth": "perplexity"}, "depth"),
        ({"depth": "perplexity", "depth_samples": 2}, "depth_samples"),
        ({"contiguous": True}, "lengths"),
    ],
)
def test_a_changed_option_is_another_identity(spec: dict[str, Any], field: str) -> None:
    assert field in measured().identity.differences(measured(**spec).identity)


def test_what_only_the_choice_depends_on_is_the_same_identity() -> None:
    other = measured(over_batch="mean", protect_first_layers=2, head_residual="query", layer_by_layer=False)
    assert measured().identity == other.identity


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"over_sequence": "var"}, "calibration.over_sequence: var was not measured; accepted: mean"),
        ({"neurons": "up_output"}, "calibration.neurons: up_output was not measured; accepted: down_input"),
        ({"width": "random"}, "calibration.width: random is not what was measured; accepted: activation"),
        ({"depth": "uniform"}, "calibration.depth: uniform is not what was measured; accepted: block_influence"),
    ],
)
def test_what_was_not_measured_is_not_made_up(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        measured().scores(CalibrationSpec.model_validate(spec))


# --- shards -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [{}, {"depth": "perplexity", "depth_samples": 3}, {"contiguous": True}])
def test_shards_in_any_order_are_the_whole_bit_for_bit(spec: dict[str, Any]) -> None:
    whole = measured(**spec)
    merged = merge([measured((number, 4), **spec) for number in (3, 1, 0, 2)])
    assert merged.identity == whole.identity
    assert merged.sequences == whole.sequences == 6
    asked = CalibrationSpec.model_validate(spec)
    for name, values in vars(whole.scores(asked)).items():
        assert torch.equal(values.nan_to_num(-1), getattr(merged.scores(asked), name).nan_to_num(-1)), name


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([(0, 2)], "shards: 1 of 2 are not all; accepted: each of the 2 shards, once"),
        ([(0, 2), (0, 2)], "shards: 1 of 2, 1 of 2 are not all"),
        ([(0, 2), (1, 3)], "are not all"),
    ],
)
def test_missing_and_doubled_shards_are_refused(shards: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        merge([measured(shard) for shard in shards])


def test_shards_of_other_calibrations_are_refused() -> None:
    with pytest.raises(SpecError, match="is the depth of one, block_influence of another"):
        merge([measured((0, 2)), measured((1, 2), depth="magnitude")])
    with pytest.raises(SpecError, match="is the samples of one"):
        merge([measured((0, 2)), measured((1, 2), tokens=TOKENS[:4])])
