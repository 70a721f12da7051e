"""Multiple-choice questions: which choice does a model find likeliest?

B choices in a batch, T tokens, V vocabulary entries.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from nas.compression.losses import cross_entropy_BT
from nas.errors import DataError

_FIELD = "calibration.questions"
_ACCEPTED = (
    "a .jsonl file, in each line an object with question (a text), choices (two or more texts that may follow it) and "
    "answer (the position of the right one, from 0), and where the choices stand within a sentence its ending"
)


@dataclass(frozen=True)
class Question:
    """Each choice as (tokens, how many of them at the end are to be predicted), and the position of the right one."""

    choices: tuple[tuple[tuple[int, ...], int], ...]
    answer: int


@dataclass(frozen=True)
class Questions:
    """Some questions, all choices as one batch, padded on the right, where no token sees the padding."""

    questions: Sequence[Question]
    tokens_BT: torch.Tensor

    @classmethod
    def of(cls, questions: Sequence[Question], device: torch.device) -> "Questions":
        rows = [torch.tensor(tokens) for question in questions for tokens, _ in question.choices]
        return cls(questions, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device))

    def wrong(self, logits_BTV: torch.Tensor) -> int:
        """How many are answered wrongly: the choice with the largest sum of log-likelihoods is the answer."""
        losses_BT = cross_entropy_BT(logits_BTV[:, :-1], self.tokens_BT[:, 1:]).double()
        wrong, row = 0, 0
        for question in self.questions:
            losses = []
            for tokens, scored in question.choices:
                losses.append(losses_BT[row, len(tokens) - 1 - scored : len(tokens) - 1].sum().item())
                row += 1
            wrong += losses.index(min(losses)) != question.answer
        return wrong


def in_batches(questions: Sequence[Question], size: int, device: torch.device) -> Iterator[Questions]:
    """At most `size` questions at once."""
    for first in range(0, len(questions), size):
        yield Questions.of(questions[first : first + size], device)


def read_questions(path: Path, tokenizer: Tokenizer, max_tokens: int | None) -> list[Question]:
    """The questions of a file. Raises DataError, naming the line, for what is no question or is too long."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(_FIELD, str(path), f"cannot be read ({reason})", _ACCEPTED) from error
    questions = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            question = _parse(line, f"{path}, line {number}", tokenizer)
            longest = max(len(tokens) for tokens, _ in question.choices)
            if max_tokens is not None and longest > max_tokens:
                problem = f"has {longest} tokens where the model was made for {max_tokens}"
                raise DataError(_FIELD, f"{path}, line {number}", problem, "a shorter question")
            questions.append(question)
    if not questions:
        raise DataError(_FIELD, str(path), "holds no question", _ACCEPTED)
    return questions


def _parse(line: str, where: str, tokenizer: Tokenizer) -> Question:
    try:
        record = json.loads(line)
        text, choices, answer, ending = (
            record["question"],
            record["choices"],
            record["answer"],
            record.get("ending", ""),
        )
        texts = [text, ending, *choices]
        is_one = all(isinstance(each, str) for each in texts) and isinstance(choices, list) and len(choices) > 1
        if not is_one or isinstance(answer, bool) or answer not in range(len(choices)):
            raise ValueError("it is no such object")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(_FIELD, where, f"is not a question ({error})", _ACCEPTED) from error
    return Question(tuple(_encoded(text, choice, ending, where, tokenizer) for choice in choices), answer)


def _encoded(text: str, choice: str, ending: str, where: str, tokenizer: Tokenizer) -> tuple[tuple[int, ...], int]:
    """The whole text's tokens, and how many at its end belong to the choice, or to the ending where there is one.

    White space before the choice counts as its own, since tokenizers join it to what follows. The first token is never
    predicted, since nothing comes before it.
    """
    given = (text + choice if ending else text).rstrip()
    tokens = tuple(tokenizer.encode(text + choice + ending).ids)
    scored = min(len(tokens) - len(tokenizer.encode(given).ids), len(tokens) - 1)
    if scored < 1:
        raise DataError(_FIELD, where, "has a choice without a token of its own", _ACCEPTED)
    return tokens, scored
