"""`topiary prune` as a user meets it: a student of the demo's teacher that transformers loads, or a sentence."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from api.cli import main
from api.prune_command import student_of
from nas.architecture import AXES, Architecture
from nas.errors import SettingError
from nas.families import family_named
from nas.model_folder import inspect_model_folder
from tests.api.test_importance_command import TEACHER, demo_spec, ran
from tests.nas.shapes import small_llama

__all__ = ["ran"]  # The fixture.

SHAPE = {"num_hidden_layers": 6, "hidden_size": 168, "intermediate_size": 320, "num_attention_heads": 4}
OPTIONS = [text for axis, size in SHAPE.items() for text in (f"--{axis.replace('_', '-')}", str(size))]


def test_a_student_is_cut_by_kept_scores_and_by_its_own_alike(
    tmp_path: Path, text_file: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = demo_spec(tmp_path, text_file)
    scores, kept, own = tmp_path / "scores", tmp_path / "kept", tmp_path / "own"
    assert main(["importance", spec, "--into", str(scores)]) == 0
    assert main(["prune", spec, "--scores", str(scores), "--into", str(kept), *OPTIONS]) == 0
    told = capsys.readouterr()
    assert ran == ["prepare_data", "calibrate", "prepare_data", "prune"]
    student = inspect_model_folder(TEACHER).architecture.resized(**SHAPE)
    parameters = family_named("llama").count(student)
    for line in (f"shape           {student.label}", f"parameters      {parameters:,} of", f"model           {kept}"):
        assert line in told.out
    assert "before any retraining" in told.out

    model = AutoModelForCausalLM.from_pretrained(kept)
    assert {axis: getattr(model.config, axis) for axis in SHAPE} == SHAPE
    assert model.num_parameters() == parameters
    provenance = json.loads((kept / "provenance.json").read_text())
    assert provenance["architecture"] == student.model_dump()
    gone = sorted(set(range(8)) - set(provenance["kept_layers"]))
    assert f"layers gone     {gone[0]}, {gone[1]}, of 0 to 7" in told.out

    assert main(["prune", spec, "--into", str(own), *OPTIONS, "--json"]) == 0
    told = capsys.readouterr()
    assert ran[4:] == ["prepare_data", "calibrate", "prune"]
    assert "topiary: no --scores are given, so the teacher is scored first, and nothing of that kept" in told.err
    answer = json.loads(told.out)
    assert set(answer) == {"folder", "parameters", "loss", "kept_layers", "architecture"}
    assert (answer["folder"], answer["kept_layers"]) == (str(own), provenance["kept_layers"])
    assert (own / "model.safetensors").read_bytes() == (kept / "model.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"scores", "kept", "own", "spec-0.json"}


def test_the_residual_of_heads_changes_what_is_cut(
    tmp_path: Path, text_file: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the same scores: they do not depend on it."""
    losses = {}
    for residual in ("off", "query_and_output"):
        spec = demo_spec(tmp_path, text_file, head_residual=residual)
        assert main(["importance", spec, "--into", str(tmp_path / "scores")]) == 0
        capsys.readouterr()
        given = ["--scores", str(tmp_path / "scores"), "--into", str(tmp_path / residual), "--json"]
        assert main(["prune", spec, *given, "--num-attention-heads", "4"]) == 0
        losses[residual] = json.loads(capsys.readouterr().out)["loss"]
    assert losses["off"] != losses["query_and_output"]


def test_the_whole_teacher_is_a_student_too(
    tmp_path: Path, text_file: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = demo_spec(tmp_path, text_file, width="random", depth="random")
    assert main(["prune", spec, "--into", str(tmp_path / "copy")]) == 0
    assert "layers gone     none, of 0 to 7" in capsys.readouterr().out
    assert inspect_model_folder(tmp_path / "copy").architecture == inspect_model_folder(TEACHER).architecture


def test_scores_of_another_method_are_refused_and_nothing_stays(
    tmp_path: Path, text_file: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores"
    random = demo_spec(tmp_path, text_file, width="random")
    assert main(["importance", random, "--into", str(scores)]) == 0
    given = ["--scores", str(scores), "--into", str(tmp_path / "student")]
    assert main(["prune", demo_spec(tmp_path, text_file), *given]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"topiary: the cut failed: --scores: {scores} holds scores of another calibration: "
        "width (random there, activation here), over_sequence (none there, mean here), "
        "neurons (none there, down_input here); accepted: a file of exactly this calibration."
    )
    assert {path.name for path in tmp_path.iterdir()} == {"scores", "spec-0.json", "spec-1.json"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--into", "{}"], "--into: {} exists already; accepted: a folder that does not exist yet."),
        (["--into", "{}/a/b"], "--into: {}/a/b is in no folder that can be written to; accepted: a folder in such"),
        (
            ["--into", "{}/a", "--scores", "{}/none"],
            "--scores: {}/none is not there; accepted: a file that topiary importance wrote.",
        ),
        (
            ["--into", "{}/a", "--hidden-size", "193"],
            "--hidden-size: 193 is more than the teacher's 192; accepted: sizes up to 192.",
        ),
        (
            ["--into", "{}/a", "--num-experts", "2"],
            "--num-experts: 2 is no axis of a teacher without experts; accepted: no --num-experts.",
        ),
        (
            ["--into", "{}/a", "--num-attention-heads", "3"],
            "--num-attention-heads: 3 makes no legal shape; accepted: "
            "num_attention_heads as a multiple of num_key_value_heads.",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    text_file: Path,
    ran: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = demo_spec(tmp_path, text_file)
    assert main(["prune", spec, *(option.format(tmp_path) for option in options)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"topiary: {sentence.format(tmp_path)}")
    assert error.count("\n") == 1
    assert not ran
    assert [path.name for path in tmp_path.iterdir()] == ["spec-0.json"]


@pytest.mark.parametrize("size", ["0", "-1", "2.5", "many"])
def test_a_size_is_a_whole_number(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prune", "spec", "--into", "a", f"--hidden-size={size}"])
    assert ended.value.code == 2
    assert f"argument --hidden-size: {size} is not a whole number from 1" in capsys.readouterr().err


EXPERTS = small_llama().model_copy(update={"family": "mixtral", "num_experts": 4, "num_experts_per_tok": 2})
GPT2 = Architecture(
    family="gpt2", vocab_size=99, num_hidden_layers=2, hidden_size=48, intermediate_size=64, num_attention_heads=4,
    num_key_value_heads=4, head_dim=12, max_position_embeddings=64, tie_word_embeddings=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("teacher", "sizes", "sentence"),
    [
        (
            EXPERTS,
            {"num_experts": 1, "hidden_size": 24},
            "--num-experts: 1 makes no legal shape; accepted: num_experts of at least the 2 for each token.",
        ),
        (
            GPT2,
            {"hidden_size": 40, "num_hidden_layers": 1},
            "--hidden-size: 40 makes no legal shape; accepted: hidden_size as num_attention_heads x head_dim.",
        ),
        (
            small_llama(),
            {"num_key_value_heads": 1, "num_attention_heads": 4},
            "--num-attention-heads, --num-key-value-heads: 4, 1 makes no legal shape; accepted: at most 3 heads to a "
            "key-value head, as the teacher has.",
        ),
    ],
    ids=["experts", "family", "groups"],
)
def test_an_illegal_shape_is_refused_by_its_options(
    teacher: Architecture, sizes: dict[str, int], sentence: str
) -> None:
    with pytest.raises(SettingError) as caught:
        student_of(teacher, {axis: sizes[axis] for axis in AXES if axis in sizes})
    assert str(caught.value) == sentence


def test_a_legal_shape_is_that_of_the_teacher_with_other_sizes() -> None:
    assert student_of(small_llama(), {}) == small_llama()
    assert student_of(GPT2, {"num_attention_heads": 3, "hidden_size": 36}).num_key_value_heads == 3
