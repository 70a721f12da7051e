"""Calibrating and cutting as workers do it, through files: rounds, methods, kept scores, layer by layer, resuming."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from nas.architecture import Architecture
from nas.calibration import CalibrationSpec
from nas.compression.choose import choose
from nas.compression.data import PackedTokens
from nas.compression.importance import Statistics
from nas.compression.importance.rounds import shape_after
from nas.compression.importance.weights import random_scores
from nas.compression.kept_file import load_kept, save_kept
from nas.errors import SettingError
from nas.jobs import (
    Calibrate,
    Calibrated,
    DataFiles,
    DataPrepared,
    JobResult,
    JobSpec,
    PrepareData,
    Prune,
    Pruned,
    Trained,
    Trial,
)
from nas.model_folder import ModelFolder, inspect_model_folder
from nas.pool import Assignment, Resources
from nas.spec import ResourcesSpec
from nas.training_spec import TrainingSpec
from tests.conftest import tiny_spec
from tests.nas.families.small import ALL
from tests.workers.test_every_family import smaller, teacher_of
from workers.attempt import KEPT, AttemptFolder
from workers.tasks import run_job

BY_NAME = {str(variant): variant for variant in ALL}
COMPUTED: dict[str, Any] = {"seed": 0, "resources": ResourcesSpec(dtype="float32")}


class Workshop:
    """Jobs on one small teacher of four layers, each in a folder of its own."""

    def __init__(self, teacher: Path, text: Path, folder: Path) -> None:
        self.teacher = str(teacher)
        self.text = text
        self.folder = folder
        self.data = self.prepared()

    @property
    def model(self) -> ModelFolder:
        return inspect_model_folder(Path(self.teacher))

    @property
    def student(self) -> Architecture:
        """Half of everything, and three of the layers."""
        return smaller(self.model.family, self.model.architecture)

    def run(self, name: str, job: JobSpec, *earlier: str) -> JobResult:
        (self.folder / name).mkdir()
        assignment = Assignment(
            job_id=1,
            attempt=1 + len(earlier),
            spec=job,
            folder=str(self.folder / name),
            resources=Resources(cpus=1),
            earlier_folders=tuple(str(self.folder / each) for each in earlier),
        )
        return run_job(AttemptFolder(assignment))

    def prepared(self, length: int = 16) -> DataFiles:
        data = tiny_spec(Path(self.teacher), self.text).data
        data = data.model_copy(update={"sequence_length": length, "validation_sequences": 4})
        result = self.run(f"data-{length}", PrepareData(teacher=self.teacher, data=data, training_tokens=1200))
        assert isinstance(result, DataPrepared)
        return result.data

    def scores(self, spec: CalibrationSpec, depths: tuple[int, ...], **changes: Any) -> Calibrated:
        job = {"teacher": self.teacher, "data": self.data, "micro_batch_size": 2, **COMPUTED, **changes}
        number = len(list(self.folder.glob("scores-*")))
        result = self.run(f"scores-{number}", Calibrate(calibration=spec, depths=depths, **job))
        assert isinstance(result, Calibrated)
        return result

    def pruned(self, spec: CalibrationSpec, scores_file: str, student: Architecture | None = None) -> Pruned:
        job = Prune(
            teacher=self.teacher,
            scores_file=scores_file,
            architecture=student or self.student,
            calibration=spec,
            data=self.data,
            micro_batch_size=2,
            provenance={},
            **COMPUTED,
        )
        result = self.run(f"pruned-{len(list(self.folder.glob('pruned-*')))}", job)
        assert isinstance(result, Pruned)
        return result

    def cut(self, student: Architecture | None = None, **calibration: Any) -> Pruned:
        """Scored and cut alike."""
        spec = CalibrationSpec.model_validate({"samples": 4, **calibration})
        scored = self.scores(spec, ((student or self.student).num_hidden_layers,))
        return self.pruned(spec, scored.scores_file, student)


@pytest.fixture
def workshop(tokenizer: Tokenizer, text_file: Path, tmp_path: Path) -> Callable[[str], Workshop]:
    """Of a small teacher by the name of its variant."""

    def of(name: str) -> Workshop:
        return Workshop(teacher_of(BY_NAME[name], tokenizer, tmp_path / "teacher"), text_file, tmp_path)

    return of


def check(pruned: Pruned, student: Architecture, data: DataFiles) -> None:
    """The folder is the student's, by transformers and by us, and its loss is what transformers computes."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        pruned.folder, output_loading_info=True, dtype=torch.float32, experts_implementation="eager"
    )
    model, report = loaded
    assert not any(report.values())
    assert model.num_parameters() == pruned.parameters
    assert inspect_model_folder(Path(pruned.folder)).architecture == student
    assert len(pruned.kept_layers) == student.num_hidden_layers
    validation = PackedTokens(Path(data.validation_file), data.sequence_length).first(data.validation_sequences)
    with torch.no_grad():
        logits_BTV = model(validation.inputs_BT).logits
    loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), validation.targets_BT.flatten())
    assert pruned.loss == pytest.approx(loss.item(), abs=1e-4)


def weights(pruned: Pruned) -> dict[str, torch.Tensor]:
    return load_file(Path(pruned.folder) / "model.safetensors")


# --- rounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-0", "gemma2-0", "mixtral-0"])
@pytest.mark.parametrize("rounds", [2, 3])
def test_rounds_cut_what_pruning_again_and_again_does(
    name: str, rounds: int, workshop: Callable[[str], Workshop]
) -> None:
    """Each of these prunings is a whole one, of the folder that the one before it wrote."""
    here = workshop(name)
    teacher, student, method = here.model.architecture, here.student, {"over_batch": "mean"}
    found = here.cut(student, rounds=rounds, **method)
    check(found, student, here.data)

    layers = list(range(teacher.num_hidden_layers))
    for done in range(1, rounds + 1):
        step = here.cut(shape_after(teacher, student, done, rounds), **method)
        layers = [layers[position] for position in step.kept_layers]
        here.teacher = step.folder
    assert list(found.kept_layers) == layers
    # Within rounding: Gemma's embedding is scaled anew by every pruning.
    torch.testing.assert_close(weights(found), weights(step), rtol=1e-6, atol=1e-7)


def test_rounds_that_cut_no_layer_leave_all_to_the_one_that_does(workshop: Callable[[str], Workshop]) -> None:
    here = workshop("llama-0")
    student = here.model.architecture.resized(num_hidden_layers=3)
    found, at_once = (here.cut(student, depth="perplexity", rounds=rounds) for rounds in (3, 1))
    check(found, student, here.data)
    assert found.kept_layers == at_once.kept_layers
    assert (
        Path(found.folder, "model.safetensors").read_bytes() == Path(at_once.folder, "model.safetensors").read_bytes()
    )


# --- layers one after another -------------------------------------------------------------------------------


def changes(here: Workshop, gone: set[int]) -> float:
    """By how much the logits of the samples change, by transformers alone, if layers hand on what they are handed."""
    samples = PackedTokens(Path(here.data.train_file), here.data.sequence_length).sample(4, 0)
    model: Any = AutoModelForCausalLM.from_pretrained(here.teacher, dtype=torch.float32)
    with torch.no_grad():
        whole_BTV = model(samples.inputs_BT).logits.double()
        for layer in gone:
            model.model.layers[layer].register_forward_hook(lambda module, given, output: given[0])
        return float((model(samples.inputs_BT).logits.double() - whole_BTV).square().sum())


@pytest.mark.parametrize("name", ["qwen2-0", "gemma3_text-0", "smollm3-1"])
@pytest.mark.parametrize("num_layers", [3, 2])
def test_layers_go_one_by_one_and_leave_each_type_its_share(
    name: str, num_layers: int, workshop: Callable[[str], Workshop]
) -> None:
    here = workshop(name)
    sliding = here.model.sliding_layers
    assert any(sliding) and not all(sliding)
    student = here.model.architecture.resized(num_hidden_layers=num_layers)
    found = here.cut(student, depth="logit_mse")
    check(found, student, here.data)

    num_sliding = student.num_sliding_layers

    def leaves_enough(gone: set[int]) -> bool:
        slide = [sliding[layer] for layer in range(4) if layer not in gone]
        return sum(slide) >= num_sliding and len(slide) - sum(slide) >= num_layers - num_sliding

    gone: set[int] = set()
    for _ in range(4 - num_layers):
        possible = [gone | {layer} for layer in range(4) if layer not in gone and leaves_enough(gone | {layer})]
        gone = min(possible, key=lambda each: changes(here, each))
    assert set(found.kept_layers) == set(range(4)) - gone
    assert sum(sliding[layer] for layer in found.kept_layers) == num_sliding


# --- scores that are kept -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "length", "seed", "told"),
    [
        (5, 16, 0, "samples (5 there, 4 here)"),
        (4, 24, 0, "sequence_length (24 there, 16 here)"),
        (4, 16, 1, "seed (1 there, 0 here)"),
    ],
)
def test_a_student_is_not_cut_by_scores_of_another_calibration(
    samples: int, length: int, seed: int, told: str, workshop: Callable[[str], Workshop]
) -> None:
    here = workshop("llama-0")
    data = here.data if length == 16 else here.prepared(length)
    scored = here.scores(CalibrationSpec(samples=samples), (3,), data=data, seed=seed)
    with pytest.raises(SettingError) as caught:
        here.pruned(CalibrationSpec(samples=4), scored.scores_file)
    assert caught.value.field == "scores_file"
    assert told in str(caught.value)
    assert not list(here.folder.glob("pruned-*/*")), "nothing is written"


def test_scores_for_several_depths_serve_each(workshop: Callable[[str], Workshop]) -> None:
    here = workshop("llama-0")
    spec = CalibrationSpec(samples=4, depth="perplexity", contiguous=True)
    scored = here.scores(spec, (3, 2))
    kept = here.pruned(spec, scored.scores_file)
    assert kept.kept_layers == here.cut(depth="perplexity", contiguous=True).kept_layers


@pytest.mark.parametrize("name", ["gemma2-0", "mixtral-0"])
def test_layer_by_layer_is_the_same_as_in_memory(name: str, workshop: Callable[[str], Workshop]) -> None:
    here = workshop(name)
    cuts = []
    for layer_by_layer in (False, True):
        spec = CalibrationSpec(samples=4, depth="perplexity", layer_by_layer=layer_by_layer)
        scored = here.scores(spec, (3,))
        found = here.pruned(spec, scored.scores_file)
        check(found, here.student, here.data)
        cuts.append((scored, found, vars(Statistics.load(Path(scored.scores_file)).scores(spec))))
    (scored, found, scores), (scored_by_layer, found_by_layer, scores_by_layer) = cuts
    assert scores.keys() == scores_by_layer.keys()
    for axis, values in scores.items():
        assert torch.equal(values.nan_to_num(-1), scores_by_layer[axis].nan_to_num(-1)), axis
    assert scored.loss == scored_by_layer.loss
    assert (found.kept_layers, found.loss) == (found_by_layer.kept_layers, found_by_layer.loss)
    both = (Path(each.folder, "model.safetensors").read_bytes() for each in (found, found_by_layer))
    assert next(both) == next(both)


# --- resuming -----------------------------------------------------------------------------------------------


def trial(here: Workshop, scored: Calibrated, spec: CalibrationSpec) -> Trial:
    return Trial(
        teacher=here.teacher,
        teacher_sha256=scored.teacher_sha256,
        scores_file=scored.scores_file,
        calibration=spec,
        architecture=here.student,
        data=here.data,
        training=TrainingSpec(tokens=256, batch_size=4, warmup_steps=1, measurements=2, checkpoint_seconds=0),
        until_tokens=256,
        **COMPUTED,
    )


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_trial_that_is_tried_again_keeps_what_it_has_chosen(rounds: int, workshop: Callable[[str], Workshop]) -> None:
    here, spec = workshop("mixtral-0"), CalibrationSpec(samples=4, rounds=rounds)
    scored = here.scores(spec, (3,))
    job = trial(here, scored, spec)
    first = here.run("first", job)
    assert isinstance(first, Trained)
    Path(scored.scores_file).unlink()
    shutil.rmtree(here.folder / "first" / "checkpoints")
    second = here.run("second", job, "first")
    third = here.run("third", job, "first", "second")
    for again in (second, third):
        assert isinstance(again, Trained)
        assert again.kept_layers == first.kept_layers
        trained, other = load_file(first.weights), load_file(again.weights)
        assert all(torch.equal(tensor, other[name]) for name, tensor in trained.items())


def test_the_newest_whole_choice_counts_and_a_damaged_one_is_passed_over(
    workshop: Callable[[str], Workshop], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing was trained by a choice that was cut off while it was written, so another may take its place."""
    here, spec = workshop("llama-0"), CalibrationSpec(samples=4)
    scored = here.scores(spec, (3,))
    job = trial(here, scored, spec)
    first = here.run("first", job)
    assert isinstance(first, Trained)
    other = next(layers for layers in combinations(range(4), 3) if layers != first.kept_layers)
    (here.folder / "older").mkdir()
    teacher = here.model.architecture
    chosen = choose(random_scores(teacher, seed=1), teacher, here.student)
    save_kept(here.folder / "older" / KEPT, replace(chosen, layers=other))
    (here.folder / "none").mkdir()
    second = here.run("second", job, "first", "older", "none")
    assert isinstance(second, Trained)
    assert second.kept_layers == other
    assert not caplog.records

    (here.folder / "cut-off").mkdir()
    whole = (here.folder / "older" / KEPT).read_bytes()
    (here.folder / "cut-off" / KEPT).write_bytes(whole[: len(whole) // 2])
    third = here.run("third", job, "first", "older", "cut-off")
    assert isinstance(third, Trained)
    assert third.kept_layers == other, "the newest that is whole"
    assert [str(here.folder / "cut-off" / KEPT) in record.getMessage() for record in caplog.records] == [True]
    assert {record.levelname for record in caplog.records} == {"WARNING"}

    fourth = here.run("fourth", job, "cut-off")
    assert isinstance(fourth, Trained)
    assert fourth.kept_layers == first.kept_layers, "chosen anew, from the same scores"
    for again in (here.folder / "third" / KEPT, here.folder / "fourth" / KEPT):
        load_kept(again)  # What the next attempt finds is whole.
