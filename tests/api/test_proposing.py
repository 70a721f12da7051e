"""Strategy `tpe`: what is proposed from what was tried."""

from dataclasses import replace
from math import log
from random import Random
from typing import Any

import pytest

from api.proposing import Tried, propose
from nas.architecture import AXES, Architecture
from nas.budget import Budget
from nas.enumeration import Enumeration, enumerate_candidates
from nas.nearest import nearest
from nas.space import SearchSpace
from tests.nas.shapes import LLAMA_8B

SPACE = {
    "num_hidden_layers": list(range(32, 15, -1)),
    "hidden_size": {"min": 2048, "step": 128},
    "intermediate_size": {"min": 6144, "step": 256},
    "num_attention_heads": [32, 24, 16],
}


def enumerated(**space: Any) -> Enumeration:
    budget = Budget.model_validate({"parameters": 4e9, "tolerance": 0.05})
    return enumerate_candidates(SearchSpace.model_validate({**SPACE, **space}), budget, LLAMA_8B, sequence_length=4096)


@pytest.fixture(scope="module")
def found() -> Enumeration:
    return enumerated()


def planted(shape: Architecture) -> float:
    """Lowest at 25 layers of 3328 channels, whatever the size."""
    return 2 + abs(log(shape.num_hidden_layers / 25)) + abs(log(shape.hidden_size / 3328))


def drawn(found: Enumeration, count: int, seed: int = 0) -> list[Tried]:
    return [(shape, planted(shape)) for shape in found.sample(count, seed)]


# --- the nearest --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thin", [None, 0.01])
def test_the_nearest_is_that_of_the_whole_list(found: Enumeration, thin: float | None) -> None:
    """Counted by blocks, and where all have to be listed: against going through the list."""
    found = replace(found, thin=thin)
    shapes, random = [shape.axes for shape in found], Random(3)
    axes = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    for _ in range(12):
        target = dict(
            zip(
                axes, [random.randint(*ends) for ends in ((16, 32), (2048, 4096), (6144, 14336), (16, 32))], strict=True
            )
        )
        seen: set[tuple[int, ...]] = set()
        depths = random.choice([None, {30, 20, 17}])
        ordered = sorted(
            (sum(abs(log(sizes[AXES.index(axis)] / size)) for axis, size in target.items()), place)
            for place, sizes in enumerate(shapes)
            if depths is None or sizes[0] in depths
        )
        for distance, _ in ordered[:6]:
            sizes = nearest(found, target, seen, depths)  # type: ignore[arg-type]
            assert sizes is not None
            told = sum(abs(log(sizes[AXES.index(axis)] / size)) for axis, size in target.items())
            assert told == pytest.approx(distance, rel=1e-12)
            assert sizes in shapes
            assert sizes not in seen
            assert depths is None or sizes[0] in depths
            seen.add(sizes)


def test_of_equally_near_ones_the_first_is_taken_until_none_is_left() -> None:
    found = enumerated(num_hidden_layers=[32, 31], hidden_size=[3072], intermediate_size=[9728, 9472, 9216])
    seen: set[tuple[int, ...]] = set()
    for shape in found:
        assert nearest(found, {}, seen) == shape.axes
        seen.add(shape.axes)
    assert nearest(found, {}, seen) is None


def test_of_a_space_of_billions_no_list_is_made() -> None:
    found = enumerated(
        hidden_size={"min": 1024, "step": 16},
        intermediate_size={"min": 1024, "step": 1},
        num_attention_heads={"min": 8, "step": 8},
        num_key_value_heads={"min": 1, "step": 1},
    )
    assert len(found) > 10_000_000
    history = drawn(found, 8)
    proposed = propose(found, history, seed=0, count=4, startup=8)
    assert len({shape.axes for shape in proposed} | {shape.axes for shape, _ in history}) == 12
    for shape in proposed:
        assert 3.8e9 <= found.budgeted(shape)[0] <= 4.2e9


# --- what is proposed ---------------------------------------------------------------------------------------


def test_the_same_history_in_any_order_proposes_the_same(found: Enumeration) -> None:
    history: list[Tried] = [*drawn(found, 39), (next(iter(found)), None)]
    proposed = propose(found, history, seed=47, count=3, startup=8)
    assert propose(found, history, seed=47, count=3, startup=8) == proposed
    assert propose(found, history[::-1], seed=47, count=3, startup=8) == proposed
    assert propose(found, history, seed=48, count=3, startup=8) != proposed
    assert propose(found, history, seed=47 + 2**40, count=3, startup=8), "seeds are of 63 bits"
    better = [(shape, None if loss is None else -loss) for shape, loss in history]
    assert propose(found, better, seed=47, count=3, startup=8) != proposed, "it goes by the losses"


def test_all_fit_none_comes_twice_and_in_the_end_none_is_left(found: Enumeration) -> None:
    few = enumerated(num_hidden_layers=[32, 28], hidden_size=[3072, 2944], num_attention_heads=[32])
    legal = {shape.axes for shape in few}
    assert 8 < len(legal) < 40
    history = drawn(few, 3)
    while proposed := propose(few, history, seed=len(history), count=4, startup=3):
        history += [(shape, planted(shape)) for shape in proposed]
    tried = [shape.axes for shape, _ in history]
    assert len(tried) == len(set(tried))
    assert set(tried) == legal
    only = propose(found, drawn(found, 8), seed=1, count=5, startup=3, depths={20, 30})
    assert {shape.num_hidden_layers for shape in only} <= {20, 30}


def test_it_finds_the_better_region_in_fewer_tries_than_drawing(found: Enumeration) -> None:
    """24 tries, of which 8 are drawn, against 24 and against 72 that are drawn, over six seeds."""
    assert len(found) > 2000
    places = {shape: place for place, shape in enumerate(sorted(found, key=planted))}

    def best(history: list[Tried]) -> int:
        return min(places[shape] for shape, _ in history)

    by_tpe, by_chance, by_thrice = [], [], []
    for seed in range(6):
        history = drawn(found, 8, seed)
        while len(history) < 24:
            proposed = propose(found, history, seed=seed + len(history), count=4, startup=8)
            history += [(shape, planted(shape)) for shape in proposed]
        by_tpe.append(best(history))
        by_chance.append(best(drawn(found, 24, seed)))
        by_thrice.append(best(drawn(found, 72, seed)))
    assert sum(by_tpe) < sum(by_chance) / 3, (by_tpe, by_chance)
    assert sum(by_tpe) < sum(by_thrice), (by_tpe, by_thrice)
