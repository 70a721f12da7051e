"""Questions put to a candidate: answered as a plain loop over single choices by transformers itself would."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from nas.errors import CheckpointError, DataError
from nas.jobs import Evaluate, Evaluated, Trained, Trial
from tests.contracts.conftest import assignment
from tests.nas.compression.importance.test_questions import is_wrong
from workers.attempt import AttemptFolder
from workers.tasks import run_job


@pytest.fixture(scope="module")
def records(text_file: Path) -> list[dict[str, Any]]:
    """What follows in the text, among what follows elsewhere; 30 questions with two to four choices."""
    text = "".join(json.loads(line)["text"] for line in text_file.read_text().splitlines())
    pieces = [text[start : start + 36] for start in range(0, 30 * 400, 400)]

    def record(number: int) -> dict[str, Any]:
        right, others = pieces[number][30:], [pieces[(number + k) % 30][30:] for k in range(1, 2 + number % 3)]
        place = number % (len(others) + 1)
        choices = [*others[:place], right, *others[place:]]
        return {"question": pieces[number][:30], "choices": choices, "answer": place}

    return [record(number) for number in range(30)]


@pytest.fixture(scope="module")
def evaluate(
    trial: Callable[[int], Trial], records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Evaluate:
    """Of a student of two layers, retrained for ten steps."""
    folder = tmp_path_factory.mktemp("evaluate")
    spec = trial(1280)
    attempt = AttemptFolder(assignment(spec, folder))
    attempt.path.mkdir(parents=True)
    trained = run_job(attempt)
    assert isinstance(trained, Trained)
    questions = folder / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, records)))
    return Evaluate(
        teacher=spec.teacher,
        teacher_sha256=spec.teacher_sha256,
        weights=trained.weights,
        architecture=spec.architecture,
        kept_layers=trained.kept_layers,
        questions=str(questions),
        micro_batch_size=8,
        resources=spec.resources.model_copy(update={"dtype": "float32"}),
    )


def done(spec: Evaluate, folder: Path) -> Evaluated:
    attempt = AttemptFolder(assignment(spec, folder))
    attempt.path.mkdir(parents=True)
    result = run_job(attempt)
    assert isinstance(result, Evaluated)
    return result


def test_accuracy_is_that_of_single_choices_by_transformers(
    evaluate: Evaluate, records: list[dict[str, Any]], tokenizer: Tokenizer, teacher_folder: Path, tmp_path: Path
) -> None:
    config = LlamaConfig.from_pretrained(teacher_folder, num_hidden_layers=2)
    model = LlamaForCausalLM(config).eval()
    report = model.load_state_dict(load_file(evaluate.weights), strict=False)
    assert set(report.missing_keys) <= {"lm_head.weight"}, "which is tied"
    assert not report.unexpected_keys
    num_right = sum(not is_wrong(model, tokenizer, record, None) for record in records)
    assert 0 < num_right < len(records)

    found = done(evaluate, tmp_path / "one")
    digest = hashlib.sha256(Path(evaluate.questions).read_bytes()).hexdigest()
    assert found == Evaluated(num_right=num_right, num_questions=30, questions_sha256=digest)
    assert found.accuracy == num_right / 30
    assert done(evaluate.model_copy(update={"micro_batch_size": 1}), tmp_path / "two") == found


def test_questions_that_are_gone_are_named_by_the_gates_field(evaluate: Evaluate, tmp_path: Path) -> None:
    gone = evaluate.model_copy(update={"questions": "/none.jsonl"})
    with pytest.raises(DataError, match=r"promotion\.gate\.questions: /none\.jsonl does not exist"):
        done(gone, tmp_path / "one")
    (tmp_path / "long.jsonl").write_text(json.dumps({"question": "x = 5\n" * 99, "choices": ["a", "b"], "answer": 0}))
    long = evaluate.model_copy(update={"questions": str(tmp_path / "long.jsonl")})
    with pytest.raises(DataError, match=r"promotion\.gate\.questions: .*line 1 has \d+ tokens where .* made for 64"):
        done(long, tmp_path / "two")


def test_weights_that_are_not_finite_answer_nothing(evaluate: Evaluate, tmp_path: Path) -> None:
    broken = {name: tensor * torch.nan for name, tensor in load_file(evaluate.weights).items()}
    save_file(broken, tmp_path / "weights.safetensors")
    spec = evaluate.model_copy(update={"weights": str(tmp_path / "weights.safetensors")})
    with pytest.raises(CheckpointError, match="losses that are not finite"):
        done(spec, tmp_path / "one")
