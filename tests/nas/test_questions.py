"""Files of questions: read line by line, and what is no question is named by its line."""

import json
import os
from pathlib import Path

import pytest

from nas.errors import DataError
from nas.questions import QuestionRecord, question_records

LEGAL = '{"question": "a", "choices": ["b", "c"], "answer": 1}'


def refusal(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        list(question_records(path))
    assert caught.value.field == "calibration.questions"
    assert caught.value.accepted.startswith("a .jsonl file, in each line an object with question (a text), choices")
    return caught.value


def test_questions_come_with_their_place(tmp_path: Path) -> None:
    """Separators that some readers take for line ends stay within their question; empty lines are none."""
    texts = {"question": "a\u2028b\x85", "choices": [" é", ""], "answer": 0, "ending": "\n", "source": "of no interest"}
    path = tmp_path / "q.jsonl"
    path.write_bytes(f"\ufeff{LEGAL}\r\n \n{json.dumps(texts, ensure_ascii=False)}".encode())
    assert list(question_records(path)) == [
        (f"{path}, line 1", QuestionRecord("a", ("b", "c"), 1)),
        (f"{path}, line 3", QuestionRecord("a\u2028b\x85", (" é", ""), 0, "\n")),
    ]


def test_questions_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(f"{LEGAL}\nnot json\n")
    reader = question_records(path)
    assert next(reader)[1].choices == ("b", "c")
    with pytest.raises(DataError):
        next(reader)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "is not JSON (Expecting property name enclosed in double quotes at column 2)"),
        (b"[" * 100_000, "is not JSON (maximum recursion depth exceeded"),
        (b'{"question": "\xff"}', "is not UTF-8 (byte 14 of the line)"),
        (b"[]", "is not a question (it is a list)"),
        (b'{"choices": ["b", "c"], "answer": 0}', "is not a question (its question is no text)"),
        (
            b'{"question": "a", "choices": "bc", "answer": 0}',
            "is not a question (its choices are not two or more texts)",
        ),
        (
            b'{"question": "a", "choices": ["b"], "answer": 0}',
            "is not a question (its choices are not two or more texts)",
        ),
        (b'{"question": "a", "choices": ["b", 3], "answer": 0}', "is not a question (its choices are not two or more "),
        (b'{"question": "a", "choices": ["b", "c"]}', "is not a question (its answer is the position of no choice)"),
        (b'{"question": "a", "choices": ["b", "c"], "answer": 2}', "is not a question (its answer is the position of "),
        (
            b'{"question": "a", "choices": ["b", "c"], "answer": -1}',
            "is not a question (its answer is the position of ",
        ),
        (b'{"question": "a", "choices": ["b", "c"], "answer": true}', "is not a question (its answer is the position "),
        (
            b'{"question": "a", "choices": ["b", "c"], "answer": 1.0}',
            "is not a question (its answer is the position of ",
        ),
        (
            b'{"question": "a", "choices": ["b", "c"], "answer": 1, "ending": null}',
            "is not a question (its ending is no",
        ),
        (b'{"question": "a", "choices": ["", "c"], "answer": 1}', "is not a question (a choice is empty)"),
        (
            b'{"question": "a", "choices": ["\\ud83d", "c"], "answer": 1}',
            "is not a question (it has half of a surrogate pair, which no tokenizer reads)",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_question_is_named_by_its_line(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(LEGAL.encode() + b"\n\n" + line + b"\n")
    assert str(refusal(path)).startswith(f"calibration.questions: {path}, line 3 {problem}")


def test_a_file_that_cannot_be_one_of_questions_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_text("\n \n")
    for name, problem in {
        "none": "does not exist",
        "pipe": "is not a regular file",
        "empty": "holds no question",
        "n" * 300: "cannot be read (File name too long)",
    }.items():
        assert refusal(tmp_path / name).problem == problem
