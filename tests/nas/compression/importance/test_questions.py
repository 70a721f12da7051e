"""Questions: read as a user writes them, answered as a plain loop over single choices would."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from nas.calibration import CalibrationSpec
from nas.compression.checkpoint import load_model, read_tensor
from nas.compression.data import Batch
from nas.compression.importance import Origin, Plan, Source, calibrate, merge
from nas.compression.importance.questions import Question, Questions, in_batches, read_questions
from nas.compression.layerwise import LayersInMemory
from nas.errors import DataError
from nas.model_folder import ModelFolder, inspect_model_folder

TEACHER = Path("examples/demo/teacher")
RECORDS: list[dict[str, Any]] = [
    {"question": "import os\nimport ", "choices": ["sys\n", "the\n", "))\n"], "answer": 0},
    {"question": "def f(self", "choices": [" if", "):", "import"], "answer": 1},
    {"question": "for i in ", "choices": ["range", "else"], "answer": 1},
    {"question": "if x is ", "choices": ["not ", "def "], "answer": 0, "ending": "None:\n"},
    {"question": "raise ", "choices": ["ValueError(", "lambda"], "answer": 0},
]


@pytest.fixture(scope="module")
def teacher() -> ModelFolder:
    return inspect_model_folder(TEACHER)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TEACHER / "tokenizer.json"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n\n".join(json.dumps(record) for record in RECORDS))
    return path


@torch.no_grad()
def is_wrong(model: Any, tokenizer: Tokenizer, record: dict[str, Any], gone: int | None) -> bool:
    """One choice after the other, unpadded, by transformers itself."""
    layer = None if gone is None else model.model.layers[gone]
    handle = None if layer is None else layer.register_forward_hook(lambda _, inputs, __: inputs[0])
    sums = []
    for choice in record["choices"]:
        ending = record.get("ending", "")
        given = (record["question"] + (choice if ending else "")).rstrip()
        ids = tokenizer.encode(record["question"] + choice + ending).ids
        start = len(tokenizer.encode(given).ids)
        chances = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        sums.append(sum(chances[t - 1, ids[t]].item() for t in range(start, len(ids))))
    if handle is not None:
        handle.remove()
    return bool(sums.index(max(sums)) != record["answer"])


def test_accuracy_without_each_layer_is_that_of_single_choices(
    teacher: ModelFolder, tokenizer: Tokenizer, file: Path
) -> None:
    model: Any = load_model(teacher, torch.device("cpu"))
    questions = read_questions(file, tokenizer, teacher.max_positions)
    spec = CalibrationSpec(depth="accuracy", questions=str(file))
    layers = LayersInMemory(model, teacher.family, 8)
    source = Source(layers, lambda name: read_tensor(teacher, name), torch.device("cpu"), 2)
    tokens = torch.randint(0, 500, (3, 17), generator=torch.Generator().manual_seed(0))

    def measured(shard: tuple[int, int]) -> Any:
        plan = Plan(teacher.architecture, spec, (6,), shard=shard)
        samples = Batch(tokens[:, :-1], tokens[:, 1:])
        return calibrate(plan, source, samples, Origin("", "", 0), questions=questions)

    expected = [sum(is_wrong(model, tokenizer, record, i) for record in RECORDS) / 5 for i in range(8)]
    assert measured((0, 1)).scores(spec).layers.tolist() == pytest.approx(expected)
    assert merge([measured((0, 2)), measured((1, 2))]).scores(spec).layers.tolist() == pytest.approx(expected)
    assert len(set(expected)) > 1


def test_the_ending_alone_is_scored_where_there_is_one(tokenizer: Tokenizer, file: Path) -> None:
    with_ending = read_questions(file, tokenizer, None)[3]
    for (tokens, scored), choice in zip(with_ending.choices, RECORDS[3]["choices"], strict=True):
        assert tokenizer.decode(list(tokens[-scored:])) == " None:\n", choice


def wrong_alone(question: Question, logits: torch.Tensor) -> int:
    alone = Questions.of([question], torch.device("cpu"))
    return alone.wrong(logits[:, : alone.tokens_BT.shape[1]])


def test_padding_is_not_scored(tokenizer: Tokenizer, file: Path) -> None:
    questions = read_questions(file, tokenizer, None)
    (batch,) = in_batches(questions, 9, torch.device("cpu"))
    logits = torch.randn(*batch.tokens_BT.shape, 2000, generator=torch.Generator().manual_seed(0))
    one_by_one = sum(
        wrong_alone(question, logits[row : row + len(question.choices)])
        for row, question in zip((0, 3, 6, 8, 10), questions, strict=True)
    )
    assert batch.wrong(logits) == one_by_one


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 1 is not a question \(Expecting property name"),
        ("[]", "line 1 is not a question"),
        ('{"question": "a", "choices": ["b"], "answer": 0}', "is not a question"),
        ('{"question": "a", "choices": ["b", "c"], "answer": 2}', "is not a question"),
        ('{"question": "a", "choices": ["b", "c"], "answer": true}', "is not a question"),
        ('{"question": "a", "choices": ["b", 3], "answer": 0}', "is not a question"),
        ('{"question": "a", "choices": ["", "c"], "answer": 0}', "has a choice without a token of its own"),
        ('{"question": "' + "word " * 600 + '", "choices": ["b", "c"], "answer": 0}', "where the model was made for"),
        ("", "holds no question"),
    ],
)
def test_what_is_no_question_is_named_by_its_line(
    tmp_path: Path, tokenizer: Tokenizer, line: str, message: str
) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=message) as raised:
        read_questions(path, tokenizer, 256)
    assert raised.value.field == "calibration.questions"
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\)"):
        read_questions(tmp_path / "none.jsonl", tokenizer, 256)
