"""Who passes the gate, and in what order."""

from math import sqrt
from pathlib import Path

import pytest
from pydantic import ValidationError

from nas.errors import SpecError
from nas.gate import passing
from nas.spec import SearchSpec
from nas.spec_file import check_absolute, parse_spec
from nas.training_spec import PromotionSpec


@pytest.mark.parametrize(
    ("accuracies", "num_questions", "min_accuracy", "expected"),
    [
        ([0.5, 0.7, 0.6], 10_000, None, [1, 2, 0]),
        ([0.66, 0.7, 0.6], 100, None, [0, 1, 2]),  # A standard error is 0.046: the first is as good as the second.
        ([0.6, 0.66, 0.7], 100, None, [1, 2, 0]),
        ([0.5, 0.7, 0.6], 10_000, 0.6, [1, 2]),
        ([0.5, 0.7, 0.6], 10_000, 0.71, []),
        ([0.1], 10, 0.1, [0]),
        ([0.9, 1.0], 10, None, [1, 0]),
        ([0.0, 0.0], 10, None, [0, 1]),
        ([0.0], 10, 0.0, [0]),
        ([], 10, None, []),
    ],
)
def test_accuracy_comes_first_and_the_loss_where_it_does_not_tell(
    accuracies: list[float], num_questions: int, min_accuracy: float | None, expected: list[int]
) -> None:
    assert passing(accuracies, num_questions, min_accuracy) == expected


def test_one_standard_error_is_where_it_begins_to_tell() -> None:
    error = sqrt(0.8 * 0.2 / 64)
    assert passing([0.8 - error + 1e-9, 0.8], 64, None) == [0, 1]
    assert passing([0.8 - error - 1e-9, 0.8], 64, None) == [1, 0]


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"gate": {}}, ("gate", "questions")),
        ({"gate": {"questions": "q", "candidates": 0}}, ("gate", "candidates")),
        ({"gate": {"questions": "q", "min_accuracy": 1.5}}, ("gate", "min_accuracy")),
        ({"gate": {"questions": "q", "tasks": "hellaswag"}}, ("gate", "tasks")),
        ({"gate": {"questions": "q"}, "winners": 4}, ("gate",)),
    ],
)
def test_a_gate_that_cannot_be_is_refused_with_its_field(given: dict[str, object], where: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as error:
        PromotionSpec.model_validate(given)
    (mistake,) = error.value.errors()
    assert mistake["loc"] == where


def test_its_questions_count_from_the_folder_of_the_spec() -> None:
    content = {"name": "a", "teacher": "/t", "budget": {"parameters": 1}, "data": {"train": "/x"}}
    content["promotion"] = {"gate": {"questions": "q.jsonl"}}
    gate = parse_spec(content, relative_to=Path("/specs")).promotion.gate
    assert gate is not None
    assert gate.questions == "/specs/q.jsonl"
    with pytest.raises(SpecError, match=r"^promotion\.gate\.questions: q\.jsonl is not an absolute path"):
        check_absolute(SearchSpec.model_validate(content))
