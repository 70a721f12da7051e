"""Numbers as people read them."""

from datetime import UTC, datetime

import pytest

from api import words
from nas.distillation_spec import DistillationSpec
from nas.jobs import JobProgress


def test_numbers_read_like_those_of_a_paper() -> None:
    assert words.parameters(8_270_000_000) == "8.27 B"
    assert words.parameters(2_337_600) == "2.34 M"
    assert words.tokens(51_200) == "51,200"
    assert words.size(4_675_200, "B") == "4.68 MB"
    assert words.percent(999, 1000) == "99 %" and words.percent(0, 0) == "0 %"
    assert [words.about(seconds) for seconds in (3, 52, 130, 3599, 7800, 273_600)] == [
        "10 s",
        "50 s",
        "2 min",
        "1 h 0 min",
        "2 h 10 min",
        "3 d 4 h",
    ]
    assert words.exact(datetime(2026, 1, 2, 4, 0, 1, tzinfo=UTC)) == "2026-01-02 04:00:01 UTC"
    assert words.gap(0.0004) == "less than 0.001" and words.gap(0.0) == "0.000"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (73_728, "73.7 kB"), (7_870_848, "7.87 MB"), (4e14, "400 TB"),
     (999_600_000, "1000 MB"), (1e9, "1.00 GB"), (2.5e15, "2.50 PB")],
)  # fmt: skip
def test_sizes_have_three_digits_and_a_prefix(value: float, shown: str) -> None:
    assert words.size(value, "B") == shown


def test_telemetry_is_of_all_jobs_together() -> None:
    told = JobProgress(
        done=1, total=9, unit="tokens", per_second=1234.4, flops_per_second=2.5e12, data_wait=0.019, memory_bytes=10**9
    )
    old = JobProgress(done=1, total=9, unit="tokens", per_second=100.0)
    assert words.telemetry([told]) == "1,234 tokens/s, 2.50 TFLOP/s, 1.00 GB, 1 % waiting for text"
    assert words.telemetry([told, told]) == "2,469 tokens/s, 5.00 TFLOP/s, 2.00 GB, 1 % waiting for text"
    assert words.telemetry([old]) == "100 tokens/s", "as records of before there was more have it"
    assert words.telemetry([JobProgress(done=1, total=9, unit="samples", per_second=3.0)]) == ""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "forward KL on logits"),
        (
            {"hidden_states": ["embedding", "block_output"]},
            "forward KL on logits; cosine of embedding, block output",
        ),
        (
            {"logits": "mse", "temperature": 2, "top_k": 100, "language_modeling": 0.5},
            "MSE on logits at temperature 2 of the top 100; 0.5 of the text's own cross-entropy",
        ),
        ({"logits": "none", "language_modeling": 1}, "1 of the text's own cross-entropy"),
    ],
)
def test_what_a_candidate_is_taught_by(given: dict[str, object], told: str) -> None:
    assert words.taught_by(DistillationSpec.model_validate(given)) == told
