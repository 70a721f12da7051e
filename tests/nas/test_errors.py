"""Errors as users read them, and as they cross processes."""

import pickle

import pytest

from nas.errors import CheckpointError, SpecError, TopiaryError, TrainingDiverged, UserError


def test_a_user_error_is_one_sentence_with_field_value_problem_and_what_is_accepted() -> None:
    error = SpecError("seed", -1, "is negative", "a whole number from 0")
    assert str(error) == "seed: -1 is negative; accepted: a whole number from 0."
    assert isinstance(error, UserError)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", "''"),
        ("two\nlines", "two lines"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 197 + "..."),
        (None, "None"),
    ],
)
def test_a_value_is_shown_on_one_line_of_bounded_length(value: object, shown: str) -> None:
    assert str(SpecError("name", value, "is wrong", "a name")) == f"name: {shown} is wrong; accepted: a name."


@pytest.mark.parametrize(
    "error",
    [
        SpecError("seed", -1, "is negative", "a whole number from 0"),
        CheckpointError("state.json", "is cut short"),
        TrainingDiverged("loss", float("inf"), 7, 28),
    ],
)
def test_an_error_survives_the_way_to_another_process(error: TopiaryError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - ours, from the line before
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_what_diverged_says_where() -> None:
    assert str(TrainingDiverged("loss", float("inf"), 7, 28)) == "loss is inf at step 7 (batch from sequence 28)"
