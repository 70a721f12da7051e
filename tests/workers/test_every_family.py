"""A whole search's jobs on a small teacher of every family: what is exported is what was retrained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from nas.architecture import Architecture
from nas.calibration import CalibrationSpec
from nas.families import FAMILIES, Family
from nas.jobs import (
    Calibrate,
    Calibrated,
    DataPrepared,
    Export,
    Exported,
    JobResult,
    JobSpec,
    PrepareData,
    Promotion,
    Trained,
    Trial,
)
from nas.spec import ResourcesSpec
from tests.conftest import END_OF_TEXT, tiny_spec
from tests.nas.families.small import ALL, Variant, built
from tests.workers.test_tasks import attempt
from workers.tasks import run_job


def _chosen() -> list[Variant]:
    """Of every family the first variant, and the one with most flags."""
    families = [[variant for variant in ALL if variant.family is family] for family in FAMILIES.values()]
    return [each for variants in families for each in variants if each in (variants[0], max(variants, key=_flags))]


def _flags(variant: Variant) -> int:
    shape = variant.architecture
    return sum(value is True for value in shape.model_dump().values()) + shape.has_layer_types


CHOSEN = _chosen()
RESOURCES = ResourcesSpec(dtype="float32")


def teacher_of(variant: Variant, tokenizer: Tokenizer, folder: Path) -> Path:
    """Untrained, with a vocabulary that the tokenizer fits."""
    model = built({**variant.config, "vocab_size": 320})
    model.float().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT).save_pretrained(folder)
    return folder


def smaller(family: Family, whole: Architecture) -> Architecture:
    """Half of every axis, or the most below it that the family allows."""
    groups = max(whole.num_key_value_heads // 2, 1)
    sizes = {
        "num_hidden_layers": 3,
        "intermediate_size": whole.intermediate_size // 2,
        "num_attention_heads": groups * (whole.num_attention_heads // whole.num_key_value_heads),
        "num_key_value_heads": groups,
    }
    if whole.num_experts:
        sizes["num_experts"] = 3
    shapes = (whole.resized(**sizes, hidden_size=hidden) for hidden in range(whole.hidden_size // 2, 0, -1))
    return next(shape for shape in shapes if family.is_legal(shape))


class Search:
    """The jobs of one search of one candidate, each in a folder of its own."""

    def __init__(self, teacher: Path, text: Path, folder: Path) -> None:
        self._folder = folder
        self.spec = tiny_spec(teacher, text)

    def run(self, name: str, job: JobSpec) -> JobResult:
        return run_job(attempt(job, self._folder / name))


@pytest.mark.parametrize("variant", CHOSEN, ids=str)
def test_a_search_runs_to_a_model_that_transformers_loads(
    variant: Variant, tokenizer: Tokenizer, text_file: Path, tmp_path: Path
) -> None:
    teacher = teacher_of(variant, tokenizer, tmp_path / "teacher")
    search = Search(teacher, text_file, tmp_path)
    spec = search.spec
    data = search.run("data", PrepareData(teacher=str(teacher), data=spec.data, training_tokens=2600))
    assert isinstance(data, DataPrepared)
    scores = search.run(
        "calibrate",
        Calibrate(
            teacher=str(teacher),
            data=data.data,
            calibration=CalibrationSpec(samples=4),
            micro_batch_size=2,
            seed=0,
            resources=RESOURCES,
        ),
    )
    assert isinstance(scores, Calibrated)
    shape = smaller(variant.family, variant.family.architecture({**variant.config, "vocab_size": 320}))
    common = {
        "teacher": str(teacher),
        "teacher_sha256": scores.teacher_sha256,
        "architecture": shape,
        "data": data.data,
        "resources": RESOURCES,
    }
    trial = search.run(
        "trial",
        Trial(**common, scores_file=scores.scores_file, training=spec.trial, until_tokens=1280, seed=0),  # type: ignore[arg-type]
    )
    assert isinstance(trial, Trained)
    assert len(trial.kept_layers) == 3
    (sample,) = trial.samples
    assert sample.prompt
    assert trial.rollbacks == ()
    retrained = {"weights": trial.weights, "kept_layers": trial.kept_layers}
    promotion = search.run(
        "promotion",
        Promotion(**common, **retrained, training=spec.promotion, first_sequence=40, seed=0),  # type: ignore[arg-type]
    )
    assert isinstance(promotion, Trained)
    distilled = {"weights": promotion.weights, "kept_layers": promotion.kept_layers}
    export = search.run("export", Export(**common, **distilled, micro_batch_size=4, provenance={}))  # type: ignore[arg-type]
    assert isinstance(export, Exported)
    loaded: Any = AutoModelForCausalLM.from_pretrained(export.folder, output_loading_info=True, dtype=torch.float32)
    assert not any(loaded[1].values())
    assert export.parameters == variant.family.count(shape)
    last = sorted((tmp_path / "promotion" / "measurements").iterdir())[-1]
    assert export.loss == pytest.approx(json.loads(last.read_text())["loss"], abs=1e-5)
