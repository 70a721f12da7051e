"""A budget in milliseconds: which candidates a table leaves, and what it says where it leaves none."""

from pathlib import Path

import pytest

from nas.budget import Budget
from nas.enumeration import Enumeration, enumerate_candidates
from nas.errors import BudgetError, SpecError
from nas.latency import LatencyTable, write_table
from nas.space import SearchSpace
from tests.nas.shapes import small_llama
from tests.nas.test_latency import block, phase_table, table_of

SPACE = {"num_hidden_layers": [3, 2, 1], "hidden_size": [24, 12]}


@pytest.fixture
def table() -> LatencyTable:
    """100 ms and 10 for each layer at hidden size 24; 50 ms and 3 for each at 12."""
    prefill = phase_table(outside={24: 100, 12: 50}, blocks={block(): 10, block(hidden_size=12): 3})
    return table_of(small_llama(), prefill)


def within(milliseconds: float, table: LatencyTable, folder: Path, **space: object) -> Enumeration:
    write_table(folder / "table.json", table)
    latency = {"max_milliseconds": milliseconds, "table": str(folder / "table.json")}
    budget = Budget.model_validate({"latency": latency})
    return enumerate_candidates(
        SearchSpace.model_validate({**SPACE, **space}), budget, small_llama(), sequence_length=8
    )


def test_candidates_are_those_that_the_table_says_are_fast_enough_the_end_included(
    table: LatencyTable, tmp_path: Path
) -> None:
    found = within(120, table, tmp_path)
    assert [(each.num_hidden_layers, each.hidden_size) for each in found] == [
        (3, 12),
        (2, 24),
        (2, 12),
        (1, 24),
        (1, 12),
    ]
    assert [found.milliseconds(each) for each in found] == [59, 120, 56, 110, 53]
    assert found.removed == {"measured milliseconds (prefill, 2 x 16 tokens) up to 120": 1}
    assert found.first(2, 1) == list(found)[1:3]


def test_near_duplicates_are_looked_for_among_what_is_fast_enough(table: LatencyTable, tmp_path: Path) -> None:
    """Sizes up to a factor of two apart count as one: 3 and 2 layers, and both hidden sizes."""
    found = within(120, table, tmp_path, thin=1.0)
    assert [(each.num_hidden_layers, each.hidden_size) for each in found] == [(3, 12), (1, 24)]
    assert found.removed["near-duplicates within 100%"] == 3


def test_where_all_are_too_slow_the_fastest_is_named(table: LatencyTable, tmp_path: Path) -> None:
    with pytest.raises(BudgetError) as caught:
        within(52, table, tmp_path)
    assert str(caught.value) == (
        "budget.latency.max_milliseconds: 52.0 leaves none of 6 shapes that the other limits leave (measured "
        "milliseconds (prefill, 2 x 16 tokens) up to 52; nearest: 1 x 12 x 14 x 6/2 with 53); accepted: at least 53, "
        "or a wider space."
    )


def test_a_space_with_a_block_that_was_not_measured_is_refused(table: LatencyTable, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"budget\.latency\.table: .* has no time"):
        within(1000, table, tmp_path, intermediate_size=[14, 7])


def test_a_teacher_beside_the_space_needs_no_time(tmp_path: Path) -> None:
    small = table_of(small_llama(), phase_table(outside={12: 50}, blocks={block(hidden_size=12): 3}))
    found = within(1000, small, tmp_path, hidden_size=[12])
    assert found.milliseconds(small_llama()) is None
    assert len(found) == 3
