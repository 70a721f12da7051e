"""Questions: read as a user writes them, answered as a plain loop over single choices would."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from nas.calibration import CalibrationSpec
from nas.compression.checkpoint import load_model, read_tensor
from nas.compression.data import Batch, load_tokenizer
from nas.compression.importance import Origin, Plan, Source, calibrate, merge
from nas.compression.importance.questions import Question, Questions, in_batches, read_questions
from nas.compression.layerwise import LayersInMemory
from nas.errors import DataError
from nas.model_folder import ModelFolder, inspect_model_folder

CPU = torch.device("cpu")
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
    return load_tokenizer(inspect_model_folder(TEACHER))


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
        return calibrate(plan, source, samples, Origin("", "", "", 0), questions=questions)

    expected = [sum(is_wrong(model, tokenizer, record, i) for record in RECORDS) / 5 for i in range(8)]
    assert measured((0, 1)).scores(spec).layers.tolist() == pytest.approx(expected)
    assert merge([measured((0, 2)), measured((1, 2))]).scores(spec).layers.tolist() == pytest.approx(expected)
    assert len(set(expected)) > 1


def test_the_ending_alone_is_scored_where_there_is_one(tokenizer: Tokenizer, file: Path) -> None:
    with_ending = read_questions(file, tokenizer, None)[3]
    for (tokens, scored), choice in zip(with_ending.choices, RECORDS[3]["choices"], strict=True):
        assert tokenizer.decode(list(tokens[-scored:])) == " None:\n", choice


def test_padding_is_not_scored(tokenizer: Tokenizer, file: Path) -> None:
    questions = read_questions(file, tokenizer, None)
    (batch,) = in_batches(questions, 9, CPU)
    losses_BT = torch.rand(batch.tokens_BT[:, 1:].shape, generator=torch.Generator().manual_seed(0))

    def alone(question: Question, row: int) -> float:
        by_itself = Questions.of([question], CPU)
        return by_itself.wrong_by(losses_BT[row : row + len(question.choices), : by_itself.tokens_BT.shape[1] - 1])

    one_by_one = sum(map(alone, questions, (0, 3, 5, 7, 9)))
    assert batch.wrong_by(losses_BT) == one_by_one
    assert 0 < one_by_one < len(questions)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_answers_nothing(loss: float) -> None:
    questions = Questions.of([Question((((5, 6, 7), 1), ((5, 6, 8, 9), 2)), 0)], CPU)
    losses_BT = torch.tensor([[loss, 1.0, loss], [loss, 1.0, 1.0]])
    assert questions.wrong_by(losses_BT) == 0, "neither what is given nor padding is needed"
    for row, token in ((0, 1), (1, 1), (1, 2)):
        needed_BT = losses_BT.clone()
        needed_BT[row, token] = loss
        assert math.isnan(questions.wrong_by(needed_BT))


# --- what tokenizers do of themselves -----------------------------------------------------------------------


WORDS = ["[BOS]", "[EOS]", "[UNK]", "the", "tests", "pass", "fail", "."]


def saved(folder: Path, around: str = "$A", *, cut: bool = False, filled: bool = False) -> ModelFolder:
    """The demo's teacher with a tokenizer of words, which has this put `around` a text."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["[BOS]", "[EOS]"])
    tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=[("[BOS]", 0), ("[EOS]", 1)])
    if cut:
        tokenizer.enable_truncation(8)
    if filled:
        tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to((TEACHER / name).absolute())
    return inspect_model_folder(folder)


def read_one(folder: ModelFolder, question: str, choices: list[str], ending: str = "") -> Question:
    path = folder.path / "questions.jsonl"
    path.write_text(json.dumps({"question": question, "choices": choices, "answer": 0, "ending": ending}))
    (found,) = read_questions(path, load_tokenizer(folder), None)
    return found


@pytest.mark.parametrize(
    ("around", "before"), [("$A", 0), ("[BOS] $A", 1), ("$A [EOS]", 0), ("[BOS] $A [EOS]", 1), ("[BOS] [BOS] $A", 2)]
)
def test_what_begins_a_text_is_kept_and_what_ends_it_is_not_scored(around: str, before: int, tmp_path: Path) -> None:
    folder = saved(tmp_path, around)
    begin = (0,) * before
    scored = read_one(folder, "the tests", [" pass", " fail ."])
    assert scored.choices == (((*begin, 3, 4, 5), 1), ((*begin, 3, 4, 6, 7), 2))
    scored = read_one(folder, "the tests", [" pass", " fail"], " .")
    assert scored.choices == (((*begin, 3, 4, 5, 7), 1), ((*begin, 3, 4, 6, 7), 1))
    # Special tokens that the text itself names are its own.
    scored = read_one(folder, "[BOS] the tests", [" pass", " fail [EOS]"])
    assert scored.choices == (((*begin, 0, 3, 4, 5), 1), ((*begin, 0, 3, 4, 6, 1), 2))


def test_the_first_token_is_scored_where_something_begins_the_text(tmp_path: Path) -> None:
    assert read_one(saved(tmp_path, "[BOS] $A"), "", ["pass", "fail ."]).choices == (((0, 5), 1), ((0, 6, 7), 2))


@pytest.mark.parametrize("asks", [{"cut": True}, {"filled": True}, {"cut": True, "filled": True}])
def test_no_tokenizer_cuts_questions_short_or_fills_them_up(asks: dict[str, bool], tmp_path: Path) -> None:
    found = read_one(saved(tmp_path, "[BOS] $A [EOS]", **asks), "the tests " * 5, ["pass", "fail . ."])
    given = (0, *(3, 4) * 5)
    assert found.choices == (((*given, 5), 1), ((*given, 6, 7, 7), 3))


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "line 1 is not a question"),
        ('{"question": "", "choices": ["b", "c"], "answer": 0}', "has a choice without a token of its own"),
        ('{"question": "' + "word " * 600 + '", "choices": ["b", "c"], "answer": 0}', "where the model was made for"),
    ],
)
def test_what_cannot_be_asked_is_named_by_its_line(
    tmp_path: Path, tokenizer: Tokenizer, line: str, message: str
) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=message) as raised:
        read_questions(path, tokenizer, 256)
    assert raised.value.field == "calibration.questions"
