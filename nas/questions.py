"""Files of multiple-choice questions, as users write them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from nas.errors import DataError

FIELD = "calibration.questions"
ACCEPTED = (
    "a .jsonl file, in each line an object with question (a text), choices (two or more texts that may follow it) and "
    "answer (the position of the right one, from 0), and where the choices stand within a sentence its ending"
)


@dataclass(frozen=True)
class QuestionRecord:
    """A question, each choice of which may follow it, with the same `ending` after each."""

    question: str
    choices: tuple[str, ...]
    answer: int
    ending: str = ""


def question_records(path: Path, field: str = FIELD) -> Iterator[tuple[str, QuestionRecord]]:
    """The questions of a file, each after "FILE, line N"; one line is held at a time. `field` names it in errors.

    Raises DataError for a file that cannot be read or holds no question, and, naming the line, for what is none.
    """
    found = False
    try:
        # Opening a pipe would wait for whoever writes to it.
        if not path.is_file():
            problem = "is not a regular file" if path.exists() else "does not exist"
            raise DataError(field, str(path), problem, ACCEPTED)
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if text := line.strip():
                    found = True
                    where = f"{path}, line {number}"
                    yield where, _parse(text, where, field)
    except OSError as error:
        raise DataError(field, str(path), f"cannot be read ({error.strerror})", ACCEPTED) from error
    if not found:
        raise DataError(field, str(path), "holds no question", ACCEPTED)


def _parse(line: bytes, where: str, field: str) -> QuestionRecord:
    try:
        given = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(field, where, f"is not UTF-8 (byte {error.start} of the line)", ACCEPTED) from error
    except (ValueError, RecursionError) as error:
        # The decoder would say "line 1", of the one line that it was given.
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise DataError(field, where, f"is not JSON ({reason})", ACCEPTED) from error
    if not isinstance(given, dict):
        raise DataError(field, where, f"is not a question (it is a {type(given).__name__})", ACCEPTED)
    given = {"ending": "", **given}
    if problem := _problem(**{each.name: given.get(each.name) for each in fields(QuestionRecord)}):
        raise DataError(field, where, f"is not a question ({problem})", ACCEPTED)
    return QuestionRecord(given["question"], tuple(given["choices"]), given["answer"], given["ending"])


def _problem(question: object, choices: object, answer: object, ending: object) -> str | None:
    """What keeps these values from being a question, if anything does."""
    if not isinstance(question, str):
        return "its question is no text"
    if not (isinstance(choices, list) and len(choices) > 1 and all(isinstance(choice, str) for choice in choices)):
        return "its choices are not two or more texts"
    if type(answer) is not int or answer not in range(len(choices)):  # To Python, True is 1.
        return "its answer is the position of no choice"
    if not isinstance(ending, str):
        return "its ending is no text"
    if not ending and "" in choices:
        return "a choice is empty"
    try:
        "".join((question, *choices, ending)).encode()
    except UnicodeEncodeError:
        return "it has half of a surrogate pair, which no tokenizer reads"
    return None
