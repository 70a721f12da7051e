"""Which layers stay: free, contiguous, even and protected choices, by hand and against all that there are."""

from itertools import combinations, pairwise

import pytest
import torch

from nas.architecture import Architecture
from nas.calibration import LayerChoice
from nas.compression.choose_layers import choose_layers
from nas.compression.importance.weights import random_scores
from nas.compression.scores import Scores
from nas.errors import SpecError
from tests.nas.families.small import ALL

WHOLE = ALL[0].architecture.model_copy(update={"num_hidden_layers": 8})
MIXED = WHOLE.model_copy(update={"num_sliding_layers": 4, "sliding_window": 8})
ALTERNATING = (True, False) * 4


def scores_with(layers: list[float]) -> Scores:
    scores = random_scores(WHOLE, seed=0)
    scores.layers[:] = torch.tensor(layers, dtype=torch.float64)
    return scores


def choose(
    scores: Scores, num_layers: int, choice: LayerChoice, sliding: tuple[bool, ...] = (), whole: Architecture = WHOLE
) -> tuple[int, ...]:
    return choose_layers(scores, whole, whole.resized(num_hidden_layers=num_layers), sliding, choice)


def test_the_best_stay_and_of_equal_ones_the_first() -> None:
    assert choose(scores_with([3, 1, 2, 1, 5, 1, 0, 4]), 5, LayerChoice()) == (0, 1, 2, 4, 7)


def test_protected_layers_stay_whatever_they_score() -> None:
    scores = scores_with([0, 0, 5, 4, 3, 2, 1, 0])
    assert choose(scores, 4, LayerChoice(protect_first=1, protect_last=1)) == (0, 2, 3, 7)
    with pytest.raises(SpecError, match=r"calibration.protect_first_layers: 3 first and 2 last leaves no choice"):
        choose(scores, 4, LayerChoice(protect_first=3, protect_last=2))


@pytest.mark.parametrize("num_layers", range(1, 8))
@pytest.mark.parametrize("choice", [LayerChoice(contiguous=True), LayerChoice(contiguous=True, protect_last=1)])
def test_the_stretch_that_is_worth_least_goes(num_layers: int, choice: LayerChoice) -> None:
    scores, length = random_scores(WHOLE, seed=num_layers), 8 - num_layers
    starts = range(9 - length - choice.protect_last)
    worst = min(starts, key=lambda start: scores.stretches[length - 1, start].item())
    expected = tuple(i for i in range(8) if not worst <= i < worst + length)
    assert choose(scores, num_layers, choice) == expected


def test_of_equal_stretches_the_last_goes() -> None:
    scores = random_scores(WHOLE, seed=0)
    scores.stretches[:] = 1.0
    assert choose(scores, 6, LayerChoice(contiguous=True)) == (0, 1, 2, 3, 4, 5)


def test_a_stretch_leaves_each_type_its_share() -> None:
    scores = random_scores(WHOLE, seed=0)
    scores.stretches[:] = 1.0
    scores.stretches[3, 1] = 0.0
    assert choose(scores, 4, LayerChoice(contiguous=True), ALTERNATING, MIXED) == (0, 5, 6, 7)
    halves = (True,) * 4 + (False,) * 4
    assert choose(scores, 4, LayerChoice(contiguous=True), halves, MIXED) == (0, 1, 6, 7)
    lonely = (False,) + (True,) * 7
    with pytest.raises(SpecError, match="finds no 6 layers next to one another whose removal leaves each type"):
        whole = WHOLE.model_copy(update={"num_sliding_layers": 4, "sliding_window": 8})
        choose(
            scores,
            2,
            LayerChoice(
                contiguous=True,
            ),
            (True, True, False, False, False, False, True, True),
            whole,
        )
    assert (
        choose(
            scores,
            7,
            LayerChoice(contiguous=True),
            lonely,
            WHOLE.model_copy(update={"num_sliding_layers": 7, "sliding_window": 8}),
        )[0]
        == 0
    )


def test_uniform_depth_is_evenly_spread_with_both_ends() -> None:
    even = LayerChoice(uniform=True)
    assert choose(scores_with([0.0] * 8), 4, even) == (0, 2, 5, 7)
    assert choose(scores_with([0.0] * 8), 2, even) == (0, 7)
    assert choose(scores_with([0.0] * 8), 1, even) == (0,)
    for num_layers in range(2, 8):
        kept = choose(scores_with([0.0] * 8), num_layers, even)
        assert len(kept) == num_layers

        # No other choice that has both ends is spread more evenly.
        def unevenness(layers: tuple[int, ...]) -> int:
            return sum((b - a) ** 2 for a, b in pairwise(layers))

        others = [(0, *inner, 7) for inner in combinations(range(1, 7), num_layers - 2)]
        assert unevenness(kept) == min(map(unevenness, others))
    assert choose(scores_with([0.0] * 8), 4, even, ALTERNATING, MIXED) == (0, 1, 6, 7)


def test_what_was_not_measured_is_refused() -> None:
    scores = random_scores(WHOLE, seed=0)
    scores.stretches[2] = torch.nan
    with pytest.raises(SpecError, match="has no scores for 3 layers that go together"):
        choose(scores, 5, LayerChoice(contiguous=True))
    nan = torch.nan
    one_by_one = scores_with([nan, 0, nan, 1, nan, nan, nan, nan])
    assert choose(one_by_one, 6, LayerChoice()) == (0, 2, 4, 5, 6, 7)
    assert choose(one_by_one, 7, LayerChoice()) == (0, 2, 3, 4, 5, 6, 7)
    with pytest.raises(SpecError, match="5 is not what the scores were measured for, which tell of 6 or more"):
        choose(one_by_one, 5, LayerChoice())


def test_the_whole_depth_needs_no_scores() -> None:
    assert choose(scores_with([torch.nan] * 8), 8, LayerChoice(contiguous=True)) == tuple(range(8))
