"""How a calibration is asked for: presets, what goes together, and records of before there were methods."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from nas.calibration import PRESETS, CalibrationSpec, LayerChoice, check_protected
from nas.errors import SpecError
from nas.jobs import Calibrate, JobSpec
from nas.spec import SearchSpec
from nas.spec_file import check_absolute, parse_spec
from tests.nas.families.small import ALL

FOLLOW_UP = {"preset": "follow-up", "questions": "/q.jsonl"}
QUESTIONS = "with depth accuracy, a .jsonl file with question, choices and answer in each record; else nothing."


def parse(**calibration: object) -> CalibrationSpec:
    content = {"name": "a", "teacher": "/t", "budget": {"parameters": 1}, "data": {"train": "/x"}}
    return parse_spec({**content, "calibration": calibration}, relative_to=Path("/specs")).calibration


def refusal(**calibration: object) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse(**calibration)
    assert caught.value.also == ()
    return caught.value


def test_what_is_left_out_is_the_papers() -> None:
    spec = parse()
    assert spec == parse(preset="paper") == CalibrationSpec()
    assert (spec.samples, spec.width, spec.over_sequence, spec.over_batch) == (1024, "activation", "mean", "l2")
    assert (spec.depth, spec.contiguous, spec.questions) == ("block_influence", False, None)
    assert (spec.rounds, spec.shards, spec.head_residual, spec.layer_by_layer) == (1, 1, "off", False)
    assert spec.layer_choice == LayerChoice()


def test_the_follow_up_removes_a_stretch_by_a_downstream_task() -> None:
    spec = parse(**FOLLOW_UP)
    assert (spec.depth, spec.contiguous, spec.questions) == ("accuracy", True, "/q.jsonl")
    assert spec.model_copy(update={"preset": "paper"}) == parse(
        depth="accuracy", contiguous=True, questions="/q.jsonl"
    ), "nothing else differs from the paper's"


def test_what_is_given_goes_before_the_preset() -> None:
    assert parse(preset="follow-up", depth="perplexity").contiguous
    assert parse(**FOLLOW_UP, contiguous=False).depth == "accuracy"
    assert set(PRESETS) == {"paper", "follow-up"}
    assert all(set(PRESETS[name]) <= set(CalibrationSpec.model_fields) for name in PRESETS)


@pytest.mark.parametrize(
    "given",
    [
        {},
        FOLLOW_UP,
        {"preset": "follow-up", "depth": "logit_mse", "shards": 4},
        {"depth": "logit_mse", "protect_first_layers": 2, "protect_last_layers": 1, "depth_samples": 8},
        {"width": "wanda", "over_sequence": "var", "over_batch": "mean", "neurons": "up_output", "rounds": 3},
        {"depth": "uniform", "layer_by_layer": True, "head_residual": "query"},
    ],
    ids=str,
)
def test_a_calibration_survives_json(given: dict[str, Any]) -> None:
    spec = CalibrationSpec.model_validate(given)
    assert CalibrationSpec.model_validate_json(spec.model_dump_json()) == spec
    assert all(getattr(spec, name) == value for name, value in given.items())


def test_what_yaml_reads_of_off_is_off() -> None:
    assert parse(head_residual=False).head_residual == "off"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"preset": "puzzle"},
            "preset: puzzle should be 'paper' or 'follow-up'; accepted: paper, or follow-up, which needs questions.",
        ),
        ({"preset": None}, "preset: None should be 'paper' or 'follow-up'; accepted: paper, or follow-up, which"),
        ({"preset": "follow-up"}, f"questions: nothing is given, but it is required; accepted: {QUESTIONS}"),
        ({"depth": "accuracy"}, f"questions: nothing is given, but it is required; accepted: {QUESTIONS}"),
        ({"questions": "/q"}, f"questions: /q is not asked by depth block_influence; accepted: {QUESTIONS}"),
        (
            {"depth": "uniform", "contiguous": True},
            "contiguous: True is not possible with depth uniform; accepted: false; or, unless depth is uniform, ",
        ),
        ({"preset": "follow-up", "depth": "random"}, "contiguous: True is not possible with depth random; accepted: "),
        ({"depth": "magnitude", "contiguous": True}, "contiguous: True is not possible with depth magnitude; accep"),
        (
            {"depth": "uniform", "protect_last_layers": 2},
            "protect_last_layers: 2 is not possible with depth uniform, which looks at nothing but the number of "
            "layers; accepted: how many of the last layers always stay, at least 0; with depth uniform, 0.",
        ),
        (
            {"rounds": 2, "layer_by_layer": True},
            "layer_by_layer: True is not possible with rounds 2, each of which needs a whole model in memory; "
            "accepted: false; or, where rounds is 1, true: one layer of the teacher in memory at a time.",
        ),
        ({"samples": 3, "shards": 4}, "shards: 4 is more than the 3 samples; accepted: among how many jobs the "),
        (
            {"depth": "logit_mse", "shards": 2},
            "shards: 2 is not possible with depth logit_mse, which removes one layer after another by all samples; "
            "accepted: among how many jobs the samples are divided, 1 to 1,024 and at most one for each sample; with "
            "depth logit_mse, 1 unless contiguous.",
        ),
        ({"rounds": 65}, "rounds: 65 should be less than or equal to 64; accepted: in how many steps a student is "),
        ({"over_batch": "max"}, "over_batch: max should be 'mean', 'l2' or 'var'; accepted: mean, l2 or var of that "),
        ({"colour": 1}, "colour: 1 is not a field of a spec; accepted: an object with the fields preset, samples, "),
    ],
)
def test_what_cannot_be_is_answered_in_one_sentence(given: dict[str, Any], sentence: str) -> None:
    error = refusal(**given)
    assert str(error).startswith(f"calibration.{sentence}")
    assert error.field == f"calibration.{sentence.partition(':')[0]}"


def test_what_is_wrong_by_itself_is_not_told_twice() -> None:
    """Fields that depend on it stay silent."""
    assert refusal(depth="none", contiguous=True, questions="/q", shards=2).field == "calibration.depth"
    assert refusal(rounds=0, layer_by_layer=True).field == "calibration.rounds"
    assert refusal(samples=0, shards=2).field == "calibration.samples"


def test_questions_count_from_the_folder_of_the_spec() -> None:
    assert parse(depth="accuracy", questions="q.jsonl").questions == "/specs/q.jsonl"
    content = {"name": "a", "teacher": "/t", "budget": {"parameters": 1}, "data": {"train": "/x"}}
    spec = SearchSpec.model_validate({**content, "calibration": {"depth": "accuracy", "questions": "q.jsonl"}})
    with pytest.raises(SpecError, match=r"^calibration\.questions: q\.jsonl is not an absolute path; accepted: "):
        check_absolute(spec)


def test_a_record_of_before_there_were_methods_is_the_papers_calibration() -> None:
    """As it stands in databases, and in the folders of attempts that a new version adopts."""
    record = (
        '{"kind": "calibrate", "teacher": "t", "data": {"train_file": "t.bin", "validation_file": "v.bin", '
        '"sequence_length": 32, "validation_sequences": 4}, "samples": 8, "micro_batch_size": 4, "seed": 3, '
        '"resources": {"cpus": 2, "gpus": null, "dtype": "float32"}}'
    )
    adapter: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
    job = adapter.validate_json(record)
    assert isinstance(job, Calibrate)
    assert job.calibration == CalibrationSpec(samples=8)
    assert (job.depths, job.shard, job.known) == ((), (0, 1), None)
    assert adapter.validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"width": "random", "neurons": "up_output"}, "is not possible with width random, which listens to nothing"),
        ({"depth_samples": 4}, "is not possible with depth block_influence"),
        ({"depth": "uniform", "rounds": 2}, "is not possible with depth uniform"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(asked: dict[str, Any], message: str) -> None:
    assert message in refusal(**asked).problem


def test_more_protected_layers_than_a_student_has_are_refused() -> None:
    teacher = ALL[0].architecture
    check_protected(parse(protect_first_layers=1, protect_last_layers=2), teacher, [4, 3])
    check_protected(parse(protect_first_layers=99), teacher, [4])
    with pytest.raises(SpecError, match="leaves 3 layers protected where a student has 2") as caught:
        check_protected(parse(protect_first_layers=1, protect_last_layers=2), teacher, [4, 2])
    assert (caught.value.field, caught.value.value) == ("calibration.protect_last_layers", 2)
