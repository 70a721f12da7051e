"""The order of training against the formula of docs/method.md, and against counting."""

import numpy as np
import pytest

from nas.compression.order import BLOCK, TrainingOrder

WEIGHTS = (5.0, 3.0, 1.99, 0.01)
AVAILABLE = (4000, 700, 90, 3)


def sources_of(numbers: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(AVAILABLE), numbers, side="right")


def test_one_source_is_walked_epoch_by_epoch_each_a_permutation_of_its_own() -> None:
    """The formula of before there were several: what was trained before is trained again the same."""
    found = TrainingOrder([37], [0.2]).numbers(30, 90, seed=11)
    epochs = [np.random.Generator(np.random.Philox(key=[11, epoch])).permutation(37) for epoch in range(4)]
    assert found.tolist() == np.concatenate(epochs)[30:120].tolist()


def test_every_block_holds_of_each_source_its_share() -> None:
    order = TrainingOrder(AVAILABLE, WEIGHTS)
    assert order.per_block == (500, 300, 199, 1)
    for block in (0, 7, 10**9):
        drawn = order.numbers(block * BLOCK, BLOCK, seed=3)
        assert np.bincount(sources_of(drawn), minlength=4).tolist() == [500, 300, 199, 1]


def test_every_stretch_holds_about_its_share() -> None:
    """Sources are spread over a block: no stretch is off by more than one sequence at either end of a source."""
    of = sources_of(TrainingOrder(AVAILABLE, WEIGHTS).numbers(0, BLOCK, seed=3))
    for source, count in enumerate((500, 300, 199, 1)):
        so_far = np.cumsum(of == source)
        assert np.abs(so_far - np.arange(1, BLOCK + 1) * count / BLOCK).max() < 3


def test_a_position_is_the_same_whichever_way_led_to_it() -> None:
    walked = np.concatenate([TrainingOrder(AVAILABLE, WEIGHTS).numbers(i, 7, seed=4) for i in range(0, 3500, 7)])
    order = TrainingOrder(AVAILABLE, WEIGHTS)
    assert order.numbers(990, 2100, seed=4).tolist() == walked[990:3090].tolist()
    assert order.numbers(0, 3500, seed=4).tolist() == walked.tolist()
    assert order.numbers(0, 3500, seed=5).tolist() != walked.tolist()


def test_each_source_has_epochs_of_its_own() -> None:
    drawn = TrainingOrder(AVAILABLE, WEIGHTS).numbers(0, 5 * BLOCK, seed=1)
    third = drawn[sources_of(drawn) == 2] - 4700
    epochs = [sorted(third[start : start + 90].tolist()) for start in range(0, 990, 90)]
    assert epochs == [list(range(90))] * 11
    assert third[:90].tolist() != third[90:180].tolist()


def test_a_sample_is_none_of_what_training_begins_with() -> None:
    order = TrainingOrder([50, 50], [1, 1])
    first, second = np.split(order.sample([50, 50], seed=2), 2)
    assert sorted(first.tolist()) == list(range(50))
    assert sorted(second.tolist()) == list(range(50, 100))
    begun = order.numbers(0, 100, seed=2)
    assert first.tolist() != begun[begun < 50].tolist()
    assert first.tolist() != (second - 50).tolist()


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_largest_seed_and_a_far_position_are_possible(seed: int) -> None:
    assert len(TrainingOrder(AVAILABLE, WEIGHTS).numbers(2**40, 3, seed)) == 3
