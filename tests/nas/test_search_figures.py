"""Figures of a whole search against what is counted by hand."""

from typing import Any

import pytest

from nas.figures import PALETTE, colours
from nas.search_figures import (
    AxisImportance,
    Costs,
    axis_importance_bars,
    drawings,
    known_costs,
    mattered_in_words,
    on_the_front,
    parallel_axes,
)
from nas.views import SearchView
from tests.nas.test_figures import FAILED, LOSSES, curves, drawn, search, texts

COSTS: Costs = {id_: {"parameters": 1_000_000 + 1000 * id_, "memory_bytes": 90_000.0 - id_} for id_ in LOSSES}
FOUND = (AxisImportance("hidden_size", 0.4, 0.1), AxisImportance("num_hidden_layers", 0.05, 0.1))


def axes_of(figure: Any) -> list[str]:
    names: list[str] = drawn(figure)["layout"]["xaxis"]["ticktext"]
    return names


def test_parallel_axes_lead_through_sizes_costs_and_loss() -> None:
    view = search(LOSSES, FAILED)
    figure = parallel_axes(view, COSTS)
    # 4, 5 and 6 have 2, 3 and 1 layers and 5, 6 and 7 neurons; all else of their shapes is the same.
    assert axes_of(figure) == ["layers", "ffn", "parameters", "memory", "loss"]
    heights = {trace["customdata"][0]: trace["y"] for trace in drawn(figure)["data"]}
    assert heights == {
        4: [0.5, 0.0, 0.0, 1.0, 1.0],
        5: [1.0, 0.5, 0.5, 0.5, 0.0],
        6: [0.0, 1.0, 1.0, 0.0, pytest.approx(0.2)],
    }
    assert texts(figure) == [
        *("1", "2", "3"),
        *("5", "6", "7"),
        *("1.00 M", "1.01 M"),
        *("89,994", "89,996"),
        *("2.000", "2.500"),
    ]


def test_a_line_says_whose_it_is_and_has_the_colour_of_its_row() -> None:
    view = search(LOSSES, FAILED)
    of = colours(view.leaderboard)
    for trace in drawn(parallel_axes(view, COSTS))["data"]:
        (candidate_id,) = set(trace["customdata"])
        assert trace["line"]["color"] == of[candidate_id]
        (row,) = [row for row in view.leaderboard if row.candidate_id == candidate_id]
        assert all(f"{row.rank}  {row.architecture.label}" in told for told in trace["hovertext"])
        assert trace["hovertext"][-1].endswith(f"loss {row.loss:.4f}")


def test_the_front_is_of_loss_and_all_costs_that_are_known_of_all() -> None:
    view = search(LOSSES, FAILED)
    assert known_costs(COSTS) == ("parameters", "memory_bytes")
    assert [row.candidate_id for row in on_the_front(view, COSTS)] == [5, 6, 4]
    some: Costs = {**COSTS, 9: {"parameters": 1}}
    assert known_costs(some) == ("parameters",)
    assert [row.candidate_id for row in on_the_front(view, some)] == [5, 4]


def test_bars_are_in_order_and_grey_where_chance_does_as_much() -> None:
    bars, marks = drawn(axis_importance_bars(FOUND))["data"]
    assert (bars["y"], bars["x"]) == (["layers", "hidden"], [0.05, 0.4])
    assert bars["marker"]["color"][1] == PALETTE[0] != bars["marker"]["color"][0]
    assert (marks["y"], marks["x"]) == (["layers", "hidden"], [0.1, 0.1])


def test_what_mattered_is_said_in_words() -> None:
    both = (*FOUND[:1], AxisImportance("num_hidden_layers", 0.2, 0.1))
    assert mattered_in_words(FOUND).startswith("hidden sets the better half")
    assert mattered_in_words(both).startswith("hidden and layers set the better half")
    assert mattered_in_words(FOUND[1:]).startswith("no size sets")


def test_every_figure_is_there_once_and_says_so_where_it_has_nothing_to_show() -> None:
    names = ["parallel-axes", "loss-against-parameters", "loss-against-memory", "axis-importance", "rank-over-tokens"]
    assert [each.name for each in drawings(search(LOSSES), curves(LOSSES), COSTS, FOUND)] == names
    nothing: SearchView = search({1: {}, 2: {0: 3.0}})
    for each in drawings(nothing, {}, {1: COSTS[4], 2: COSTS[5]}, ()):
        (told,) = texts(each.figure)
        assert told.startswith("drawn once"), each.name


def test_figures_of_the_most_candidates_stay_small() -> None:
    losses = {id_: {0: 5.0, 10: 3.0 + (id_ * 37 % 256) / 300} for id_ in range(1, 257)}
    view = search(losses)
    costs = {id_: {"parameters": 10.0 * id_} for id_ in losses}
    assert len(parallel_axes(view, costs).to_json()) < 300_000
