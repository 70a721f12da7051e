"""What the fields of a spec mean in steps and tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nas.calibration import CalibrationSpec
from nas.data_spec import DataSpec
from nas.training_spec import PromotionSpec, TrainingSpec, TrialSpec


def test_the_defaults_are_the_papers() -> None:
    length = DataSpec(train="text").sequence_length
    assert length == 4096
    assert CalibrationSpec().samples == 1024
    assert TrialSpec().tokens == 1_887_436_800 == 400 * 1152 * 4096
    assert TrialSpec().batch_size == PromotionSpec().batch_size == 1152
    assert TrialSpec().num_steps(length) == 400
    assert PromotionSpec().tokens == 94_000_000_000
    assert (TrialSpec().peak_learning_rate, TrialSpec().min_learning_rate) == (2e-4, 4.5e-7)


def test_a_training_without_tokens_is_refused() -> None:
    with pytest.raises(ValidationError, match="tokens"):
        TrainingSpec.model_validate({})


@settings(derandomize=True, deadline=None)
@given(tokens=st.integers(1, 10_000), batch_size=st.integers(1, 50), length=st.integers(2, 50))
def test_the_last_step_completes_the_token_budget(tokens: int, batch_size: int, length: int) -> None:
    training = TrainingSpec(tokens=tokens, batch_size=batch_size)
    seen = num_steps = 0
    while seen < tokens:
        seen += batch_size * length
        num_steps += 1
    assert training.num_steps(length) == num_steps
    assert training.actual_tokens(length) == seen


@pytest.mark.parametrize(
    ("num_steps", "measurements", "expected"),
    [(8, 4, {2, 4, 6, 8}), (400, 8, {50, 100, 150, 200, 250, 300, 350, 400}), (3, 8, {1, 2, 3}), (7, 1, {7})],
)
def test_measurements_stand_at_equal_distances(num_steps: int, measurements: int, expected: set[int]) -> None:
    training = TrainingSpec(tokens=num_steps, batch_size=1, measurements=measurements)
    assert training.measuring_steps(sequence_length=1) == expected


@settings(derandomize=True, deadline=None)
@given(num_steps=st.integers(1, 500), measurements=st.integers(1, 40))
def test_a_run_always_ends_in_a_measurement(num_steps: int, measurements: int) -> None:
    training = TrainingSpec(tokens=num_steps, batch_size=1, measurements=measurements)
    steps = sorted(training.measuring_steps(sequence_length=1))
    assert steps[0] >= 1
    assert steps[-1] == num_steps
    assert len(steps) == min(num_steps, measurements)
    for step in steps[1:]:
        assert 2 * min(abs(step * measurements - num_steps * k) for k in range(1, measurements + 1)) <= measurements
