"""Multiple-choice questions: which choice does a model find likeliest?

B choices in a batch, T tokens, V vocabulary entries.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from tokenizers import Tokenizer

from nas.errors import DataError
from nas.questions import ACCEPTED, FIELD, QuestionRecord, question_records


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

    def wrong_by(self, losses_BT: torch.Tensor) -> float:
        """How many are answered wrongly: the choice whose tokens have the smallest sum of losses is the answer.

        The losses are of every token but the first of each row, those of `tokens_BT[:, 1:]`. NaN if one that is needed
        is not finite.
        """
        losses_BT = losses_BT.double().cpu()
        wrong, row = 0, 0
        for question in self.questions:
            losses = []
            for tokens, scored in question.choices:
                losses.append(losses_BT[row, len(tokens) - 1 - scored : len(tokens) - 1].sum().item())
                row += 1
            if not all(map(math.isfinite, losses)):
                return math.nan
            wrong += losses.index(min(losses)) != question.answer
        return wrong


def in_batches(questions: Sequence[Question], size: int, device: torch.device) -> Iterator[Questions]:
    """At most `size` questions at once."""
    for first in range(0, len(questions), size):
        yield Questions.of(questions[first : first + size], device)


def read_questions(path: Path, tokenizer: Tokenizer, max_tokens: int | None, field: str = FIELD) -> list[Question]:
    """The questions of a file that `field` of the spec names, for a tokenizer as `load_tokenizer` gives it.

    Raises DataError for a file that holds none, and, naming the line, for what is no question or is too long.
    """
    questions = []
    for where, record in question_records(path, field):
        choices = tuple(_encoded(record, choice, where, tokenizer, field) for choice in record.choices)
        longest = max(len(tokens) for tokens, _ in choices)
        if max_tokens is not None and longest > max_tokens:
            problem = f"has {longest} tokens where the model was made for {max_tokens}"
            raise DataError(field, where, problem, "a shorter question")
        questions.append(Question(choices, record.answer))
    return questions


def _encoded(
    record: QuestionRecord, choice: str, where: str, tokenizer: Tokenizer, field: str
) -> tuple[tuple[int, ...], int]:
    """The whole text's tokens, and how many at its end belong to the choice, or to the ending where there is one.

    White space before the choice counts as its own, since tokenizers join it to what follows. What the tokenizer puts
    before a text stays, as the model has seen it; what it puts after one is no choice's, and goes. The first token is
    never predicted, since nothing comes before it.
    """
    text = record.question + choice + record.ending
    given = (record.question + choice if record.ending else record.question).rstrip()
    before, own = _before(tokenizer, text), tokenizer.encode(text, add_special_tokens=False).ids
    tokens = (*before, *own)
    scored = min(len(own) - len(tokenizer.encode(given, add_special_tokens=False).ids), len(tokens) - 1)
    if scored < 1:
        raise DataError(field, where, "has a choice without a token of its own", ACCEPTED)
    return tokens, scored


def _before(tokenizer: Tokenizer, text: str) -> list[int]:
    """The special tokens that the tokenizer puts before a text, but for those that the text itself names."""
    encoding = tokenizer.encode(text)
    before: list[int] = encoding.ids[: len(list(takewhile(bool, encoding.special_tokens_mask)))]
    return before
