"""Statistics: aggregation and sums against plain ones, files, merging, and what must never be mixed up."""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from nas.calibration import Aggregation, CalibrationSpec
from nas.compression.checkpoint import own_tensors
from nas.compression.data import Batch, PackedTokens
from nas.compression.importance import Origin, Plan, Source, Statistics, calibrate, load_scores, merge
from nas.compression.importance.aggregation import Moments, over_sequence
from nas.compression.importance.exact_sum import ExactSum
from nas.compression.importance.identity import Identity
from nas.compression.layerwise import LayersInMemory
from nas.errors import CheckpointError, SpecError, TeacherError
from nas.model_folder import inspect_model_folder
from tests.nas.families.small import ALL, built
from tests.nas.families.test_checkpoints import save

TOKENS = torch.randint(0, 40, (6, 9), generator=torch.Generator().manual_seed(5))
VARIANT = ALL[0]


def measured(shard: tuple[int, int] = (0, 1), tokens: torch.Tensor = TOKENS, **spec: Any) -> Statistics:
    model = built(VARIANT.config)
    plan = Plan(VARIANT.architecture, CalibrationSpec.model_validate(spec), (2,), shard=shard)
    source = Source(LayersInMemory(model, VARIANT.family, 4), own_tensors(model).__getitem__, torch.device("cpu"), 1)
    return calibrate(plan, source, Batch(tokens[:, :-1], tokens[:, 1:]), Origin("teacher", "config", "tokens", seed=0))


def token_file(path: Path, ids: Iterable[int]) -> PackedTokens:
    raw = np.asarray([each % 40 for each in ids], dtype="<u2").tobytes()
    path.write_bytes(raw)
    about = {"tokens": len(raw) // 2, "dtype": "<u2", "sha256": hashlib.sha256(raw).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(about))
    return PackedTokens(path, 8)


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


def test_a_file_that_is_not_what_was_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.safetensors"
    measured().save(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged: its content is not what was written"):
        Statistics.load(path)


def test_a_file_of_another_version_is_told_apart(tmp_path: Path) -> None:
    path, other = tmp_path / "scores.safetensors", tmp_path / "other.safetensors"
    measured().save(path)
    with safe_open(path, framework="pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    identity = json.loads(about["identity"])
    del identity["config_sha256"]
    save_file(tensors, other, metadata=about | {"identity": json.dumps(identity)})
    with pytest.raises(CheckpointError, match=r"is of another version of Topiary, .* measure them anew$"):
        Statistics.load(other)


def test_statistics_of_another_shape_are_refused() -> None:
    statistics = replace(measured(), architecture=VARIANT.architecture.resized(num_attention_heads=4))
    with pytest.raises(CheckpointError, match=r"has heads as \(4, 6\) where \(4, 4\) belongs"):
        statistics.scores(CalibrationSpec())
    without = measured()
    del without.moments["neurons.down_input.mean"]
    with pytest.raises(CheckpointError, match=r"has neurons as \(4, 0\) where \(4, 20\) belongs"):
        without.scores(CalibrationSpec())


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


@pytest.mark.parametrize("field", ["teacher_sha256", "config_sha256", "data_sha256", "seed", "questions_sha256"])
def test_another_origin_is_another_identity(field: str) -> None:
    plan, samples = Plan(VARIANT.architecture, CalibrationSpec()), Batch(TOKENS, TOKENS)
    origin = Origin("teacher", "config", "tokens", 0)
    other = replace(origin, **{field: 1 if field == "seed" else "other"})  # type: ignore[arg-type]
    ours, theirs = (plan.identity(each, samples, torch.device("cpu")) for each in (origin, other))
    assert list(ours.differences(theirs)) == [field]
    elsewhere = plan.identity(origin, samples, torch.device("cuda"))
    assert list(ours.differences(elsewhere)) == ["device"]
    assert ours.lacking(elsewhere) == {}
    fewer = plan.identity(origin, Batch(TOKENS[:3], TOKENS[:3]), torch.device("cpu"))
    assert list(ours.lacking(fewer)) == ["samples"]


def test_the_origin_of_a_folder_follows_weights_config_tokens_and_questions(tmp_path: Path) -> None:
    folder = save(VARIANT, tmp_path / "teacher")
    tokens = token_file(tmp_path / "tokens.bin", range(200))
    questions = tmp_path / "questions.jsonl"
    questions.write_text("one")
    origin = Origin.of(folder, tokens, 3, questions)
    assert origin == Origin.of(inspect_model_folder(folder.path), tokens, 3, questions)
    changed = replace(folder, config={**folder.config, "rms_norm_eps": 0.5})
    assert Origin.of(changed, tokens, 3, questions).config_sha256 != origin.config_sha256
    assert Origin.of(folder, token_file(tmp_path / "other.bin", range(1, 201)), 3).data_sha256 != origin.data_sha256
    questions.write_text("two")
    assert Origin.of(folder, tokens, 3, questions).questions_sha256 != origin.questions_sha256
    (folder.path / "tokenizer.json").write_text((folder.path / "tokenizer.json").read_text() + " ")
    questions.write_text("one")
    assert Origin.of(folder, tokens, 3, questions).questions_sha256 != origin.questions_sha256


def test_more_lengths_than_wanted_serve_but_not_fewer() -> None:
    samples, origin = Batch(TOKENS, TOKENS), Origin("", "", "", 0)

    def identity(depths: tuple[int, ...], **spec: Any) -> Identity:
        plan = Plan(VARIANT.architecture, CalibrationSpec.model_validate(spec), depths)
        return plan.identity(origin, samples, torch.device("cpu"))

    stretches: dict[str, Any] = {"depth": "perplexity", "contiguous": True}
    assert identity((1, 2, 3), **stretches).lacking(identity((2,), **stretches)) == {}
    assert list(identity((2, 3), **stretches).lacking(identity((1,), **stretches))) == ["lengths"]
    one_by_one = {"depth": "logit_mse"}
    assert identity((1,), **one_by_one).lacking(identity((3,), **one_by_one)) == {}
    assert list(identity((3,), **one_by_one).lacking(identity((1,), **one_by_one))) == ["lengths"]
    protected = {**one_by_one, "protect_last_layers": 1}
    assert list(identity((2,), **one_by_one).lacking(identity((2,), **protected))) == ["protected"]


def test_layers_one_by_one_and_stretches_of_logits_are_not_mixed_up() -> None:
    together, alone = CalibrationSpec(depth="logit_mse", contiguous=True), CalibrationSpec(depth="logit_mse")
    with pytest.raises(SpecError, match=r"calibration\.contiguous: False is not what was measured; accepted: true"):
        measured(depth="logit_mse", contiguous=True).scores(alone)
    with pytest.raises(SpecError, match=r"calibration\.contiguous: True is not what was measured; accepted: false"):
        measured(depth="logit_mse").scores(together)
    protected = alone.model_copy(update={"protect_last_layers": 1})
    with pytest.raises(SpecError, match="0 first and 1 last are not what was measured; accepted: 0 first and 0 last"):
        measured(depth="logit_mse").scores(protected)


# --- teachers that compute no numbers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "spec", "message"),
    [
        ("model.layers.2.mlp.down_proj", {}, "computes channels in norm 6 that are not finite"),
        ("model.layers.3.mlp.down_proj", {}, "computes values that are not finite around layers 3 to 3"),
        ("model.layers.1.mlp.up_proj", {"width": "random", "depth": "perplexity"}, "not finite around layers 0 to 0"),
        ("lm_head", {"width": "random", "depth": "logit_mse"}, r"logits that are not finite without layers \[0\]"),
    ],
)
@torch.no_grad()
def test_values_that_are_no_numbers_are_refused(place: str, spec: dict[str, Any], message: str) -> None:
    model = built(VARIANT.config)
    model.get_submodule(place).weight[0, 0] = torch.nan
    plan = Plan(VARIANT.architecture, CalibrationSpec.model_validate(spec), (2,))
    source = Source(LayersInMemory(model, VARIANT.family, 4), own_tensors(model).__getitem__, torch.device("cpu"), 2)
    with pytest.raises(TeacherError, match=message):
        calibrate(plan, source, Batch(TOKENS, TOKENS), Origin("", "", "", 0))


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
