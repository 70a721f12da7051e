"""What `topiary enumerate` prints, in terminals of any width."""

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from api.enumeration_display import enumeration
from api.services.submission import enumerate_spec
from nas.errors import SpecError
from nas.spec import SearchSpec
from nas.spec_file import parse_spec
from tests.nas.families.small import ALL

QWEN3 = Path(__file__).parents[2] / "examples" / "qwen3-8b"
SPACE = {"num_hidden_layers": {"min": 35}, "hidden_size": [4096, 3584]}


def spec(teacher: Path = QWEN3, **changes: object) -> SearchSpec:
    content = {
        "name": "shown",
        "teacher": str(teacher),
        "budget": {"total_parameters": {"max": 8e9}},
        "space": SPACE,
        "data": {"train": "text"},
        **changes,
    }
    return parse_spec(content, relative_to=Path("/"))


def printed(of: SearchSpec, width: int) -> str:
    text = StringIO()
    Console(width=width, file=text).print(enumeration(enumerate_spec(of), of, width))
    return text.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_no_number_is_ever_cut(width: int) -> None:
    of = spec(hardware={"price_per_hour": 2}, budget={"memory": {"max_bytes": 17e9, "context": 8192}})
    shown = printed(of, width)
    assert "\u2026" not in shown
    for candidate in enumerate_spec(of).candidates:
        assert f"{candidate.cost.parameters:,}" in shown
    left_out = re.search(r"Not shown in this width: ([^.]*)\.", " ".join(shown.split()))
    header = next(line for line in shown.splitlines() if "parameters" in line and "shape" in line)
    hidden = left_out[1].split(", ") if left_out else []
    columns = ["memory", "share", "weights", "cache", "prefill", "decode", "trial h", "price", "devices"]
    assert [name for name in columns if name not in header] == hidden
    assert bool(hidden) == (width < 120)


def test_what_is_budgeted_is_shown_as_it_is_budgeted() -> None:
    """The cache of the budget's own context, not the one that costs are stated for."""
    of = spec(budget={"memory": {"max_bytes": 30e9, "batch_size": 4, "context": 16_384}})
    (largest, *_) = enumerate_spec(of).candidates
    cache = 36 * 4 * 16_384 * 2 * 8 * 128 * 2
    assert list(largest.budgeted) == [2 * 8_190_735_360 + cache]
    assert f"{(2 * 8_190_735_360 + cache) / 1e9:.1f} GB" in printed(of, 160)


def test_a_trial_that_no_device_holds_says_why() -> None:
    of = spec(trial={"micro_batch_size": 64})
    assert "none: not even a micro-batch fits" in printed(of, 160)
    assert "none" not in printed(spec(), 160)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "data.sequence_length: 4096 is longer than the teacher's 32 positions; accepted: 2 to 32."),
        (
            {"data": {"train": "x", "sequence_length": 32}, "serving": {"context": 33}},
            "serving.context: 33 is longer than the teacher's 32 learned positions; accepted: up to 32.",
        ),
        (
            {
                "data": {"train": "x", "sequence_length": 32},
                "budget": {"memory": {"max_bytes": 1e9, "context": 33}},
            },
            "budget.memory.context: 33 is longer than the teacher's 32 learned positions; accepted: up to 32.",
        ),
    ],
)
def test_learned_positions_end_somewhere(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    gpt2 = next(variant for variant in ALL if variant.family.model_type == "gpt2")
    (tmp_path / "config.json").write_text(json.dumps(gpt2.config))
    with pytest.raises(SpecError) as caught:
        enumerate_spec(spec(tmp_path, **{"space": {}, **changes}))
    assert str(caught.value) == sentence


def test_what_would_keep_a_server_busy_is_refused_at_once() -> None:
    factors = [round(number / 1000, 3) for number in range(1, 1001)]
    space = {"hidden_size": {"min": 1}, "intermediate_size": {"times_hidden": factors}}
    with pytest.raises(SpecError, match=r"4,096,000 sizes that depend on the hidden size are too many to count"):
        enumerate_spec(spec(space=space))
    with pytest.raises(SpecError, match=r"should have at most 1000 items"):
        spec(space={"hidden_size": {"ratios": [*factors, 0.0005]}})


def test_a_page_of_a_sample_is_a_part_of_it() -> None:
    of = spec(space={**SPACE, "intermediate_size": {"min": 11_000, "step": 64}}, sample_size=20, seed=4)
    whole = enumerate_spec(of).candidates
    assert len(whole) == 20
    assert enumerate_spec(of, limit=5, offset=7).candidates == whole[7:12]
