"""Presets of retraining."""

import pytest
from pydantic import ValidationError

from nas.training_spec import PromotionSpec, TrialSpec


@pytest.mark.parametrize("kind", [TrialSpec, PromotionSpec])
def test_presets_are_what_the_papers_print(kind: type[TrialSpec] | type[PromotionSpec]) -> None:
    def settings(**given: object) -> tuple[float, float, int, int]:
        spec = kind.model_validate(given)
        return spec.peak_learning_rate, spec.min_learning_rate, spec.batch_size, spec.warmup_steps

    assert settings() == settings(preset="paper") == (2e-4, 4.5e-7, 1152, 40)
    assert settings(preset="follow-up") == (1e-4, 1e-5, 1152, 40)
    assert settings(preset="follow-up", peak_learning_rate=3e-4, batch_size=8) == (3e-4, 1e-5, 8, 40)


def test_what_was_given_stays_when_a_spec_is_written_and_read_again() -> None:
    spec = TrialSpec(preset="follow-up", min_learning_rate=2e-5)
    assert TrialSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "given",
    [{"preset": "other"}, {"rollbacks": -1}, {"checkpoints_kept": 0}, {"text_samples": 101}, {"preset": 3}],
)
def test_anything_else_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as error:
        TrialSpec.model_validate(given)
    (mistake,) = error.value.errors()
    assert mistake["loc"] == tuple(given)
