"""Figures against what is counted by hand, and what they must never do: change a candidate's colour, or grow large."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from nas.cost import cost
from nas.figures import PALETTE, candidate_curve, colours, loss_against_parameters, loss_curves, rank_over_tokens
from nas.ranking import Contender, CurvePoint, leaderboard
from nas.spec import SpendingSpec
from nas.states import Intent, PromotionState, SearchState, TrialState
from nas.views import CandidateDetails, PromotionView, SearchView, Spent, TrialView
from tests.nas.shapes import small_llama

TEACHER = small_llama()
TEACHER_LOSS = 1.5
Losses = Mapping[int, Mapping[int, float]]
"""By candidate and tokens."""


def curve(losses: Mapping[int, float]) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(tokens=tokens, loss=loss, kl_to_teacher=loss / 2) for tokens, loss in losses.items())


def search(losses: Losses, failed: Mapping[int, str] | None = None, **changes: Any) -> SearchView:
    """A search whose candidates, numbered by `losses`, have these curves; `failed` gives reasons."""
    failed = failed or {}
    contenders = [
        Contender(
            candidate_id=candidate_id,
            architecture=small_llama(num_hidden_layers=1 + candidate_id % 3, intermediate_size=1 + candidate_id % 14),
            parameters=1_000_000 + 1000 * candidate_id,
            non_embedding_parameters=candidate_id,
            curve=curve(points),
            state=TrialState.FAILED if candidate_id in failed else TrialState.RUNNING,
            reason=failed.get(candidate_id),
        )
        for candidate_id, points in losses.items()
    ]
    view = SearchView(
        id=1,
        name="a-search",
        state=SearchState.RUNNING,
        intent=Intent.RUN,
        reason=None,
        user_error=False,
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        finished_at=None,
        archived_at=None,
        extensions=(),
        spent=Spent(tokens=10, device_hours=1.25, money=None, wall_hours=2.5),
        spending=SpendingSpec(),
        teacher=TEACHER,
        teacher_parameters=3_935_424,
        teacher_loss=TEACHER_LOSS,
        num_fitting=len(contenders),
        tokens_done=10,
        tokens_total=40,
        tokens_per_second=0.0,
        seconds_left=None,
        leaderboard=tuple(leaderboard(contenders)),
        promotions=(),
        jobs=(),
    )
    return view.model_copy(update=changes)


def curves(losses: Losses) -> dict[int, tuple[CurvePoint, ...]]:
    return {candidate_id: curve(points) for candidate_id, points in losses.items() if points}


def details(view: SearchView, candidate_id: int, points: Mapping[int, float], **changes: Any) -> CandidateDetails:
    standing = next(row for row in view.leaderboard if row.candidate_id == candidate_id)
    return CandidateDetails(
        search=view.name,
        standing=standing,
        cost=cost(standing.architecture, dtype="bfloat16", batch_size=1, context=8),
        share_of_teacher=0.25,
        curve=curve(points),
        trials=(TrialView(seed=0, state=standing.state, curve=curve(points)),),
        promotion=None,
        attempts=(),
    ).model_copy(update=changes)


def drawn(figure: Any) -> dict[str, Any]:
    """The figure as a page gets it; NaN and infinity are no JSON."""
    loaded: dict[str, Any] = json.loads(json.dumps(figure.to_plotly_json(), allow_nan=False))
    return loaded


def lines(figure: Any) -> dict[int, list[tuple[int, float]]]:
    """What is drawn for each candidate, as far as every point says whose it is."""
    found: dict[int, list[tuple[int, float]]] = {}
    for trace in drawn(figure)["data"]:
        if trace.get("hoverinfo") == "skip":
            continue  # Nothing that is said of a candidate.
        for candidate_id, x, y in zip(trace["customdata"], trace["x"], trace["y"], strict=True):
            found.setdefault(candidate_id, []).append((x, y))
    return found


def texts(figure: Any) -> list[str]:
    return [annotation["text"] for annotation in drawn(figure)["layout"].get("annotations", [])]


LOSSES: Losses = {
    4: {0: 5.0, 10: 3.0, 20: 2.5},
    5: {0: 4.0, 10: 3.5, 20: 2.0},
    6: {0: 6.0, 10: 2.2, 20: 2.1},
    7: {0: 3.0, 10: 1.9},
    8: {0: 2.5, 10: 1.8, 20: 1.7},
    9: {},
}
FAILED = {8: "it broke"}


def test_loss_curves_hold_every_point_of_every_candidate() -> None:
    expected = {candidate_id: list(points.items()) for candidate_id, points in LOSSES.items() if points}
    assert lines(loss_curves(search(LOSSES, FAILED), curves(LOSSES))) == expected


def test_ranks_are_among_those_that_are_furthest_and_end_in_the_leaderboard() -> None:
    view = search(LOSSES, FAILED)
    found = lines(rank_over_tokens(view, curves(LOSSES)))
    field = {4, 5, 6}  # 7 has fewer tokens, 8 has failed, 9 was never measured.
    for candidate_id in field:
        assert found.pop(candidate_id) == [
            (tokens, 1 + sum(LOSSES[other][tokens] < LOSSES[candidate_id][tokens] for other in field))
            for tokens in (0, 10, 20)
        ]
    assert found == {}
    ends = {id_: points[-1][1] for id_, points in lines(rank_over_tokens(view, curves(LOSSES))).items()}
    assert ends == {row.candidate_id: row.rank for row in view.leaderboard if row.candidate_id in field}


def test_ranks_are_drawn_only_where_all_were_measured() -> None:
    losses = {1: {0: 4.0, 7: 3.0, 20: 2.0}, 2: {0: 5.0, 20: 1.9}}
    assert lines(rank_over_tokens(search(losses), curves(losses))) == {1: [(0, 1), (20, 2)], 2: [(0, 2), (20, 1)]}


def test_loss_against_parameters_tells_equal_tokens_from_fewer() -> None:
    figure = loss_against_parameters(search(LOSSES, FAILED))
    assert lines(figure) == {id_: [(1_000_000 + 1000 * id_, list(LOSSES[id_].values())[-1])] for id_ in (4, 5, 6, 7)}
    line, dots = drawn(figure)["data"]
    # 4 is the smallest of the three that are furthest, 5 the best, and 6 larger than 5 and worse.
    assert list(zip(line["x"], line["y"], strict=True)) == [(1_004_000, 2.5), (1_005_000, 2.0)]
    hollow = {id_ for id_, symbol in zip(dots["customdata"], dots["marker"]["symbol"], strict=True) if "open" in symbol}
    assert hollow == {7}


@pytest.mark.parametrize("losses", [LOSSES, {1: {0: 12.0, 10: 2.0}, 2: {0: 9.0, 10: 2.0}}], ids=["linear", "log"])
def test_the_teacher_is_a_line_across_at_its_loss(losses: Losses) -> None:
    view = search(losses)
    for figure in (loss_curves(view, curves(losses)), loss_against_parameters(view)):
        (line,) = drawn(figure)["layout"]["shapes"]
        assert (line["y0"], line["y1"], line["xref"]) == (TEACHER_LOSS, TEACHER_LOSS, "x domain")
        assert "teacher 1.500" in texts(figure)
        axis = drawn(figure)["layout"]["yaxis"]
        low, high = (10**end if axis["type"] == "log" else end for end in axis["range"])
        assert low < TEACHER_LOSS < high
    without = search(losses, teacher_loss=None)
    assert "shapes" not in drawn(loss_curves(without, curves(losses)))["layout"]


def test_labels_stand_apart_and_in_the_order_of_the_losses() -> None:
    losses = {1: {0: 3.0, 10: 2.0}, 2: {0: 3.0, 10: 2.0001}, 3: {0: 3.0, 10: 2.0002}}
    layout = drawn(loss_curves(search(losses), curves(losses)))["layout"]
    labels = sorted((each["y"], each["text"]) for each in layout["annotations"])
    assert [text.split("  ")[0][-1] for _, text in labels[1:]] == ["1", "2", "3"]
    height = layout["height"] - layout["margin"]["t"] - layout["margin"]["b"]
    low, high = layout["yaxis"]["range"]
    pixels = [y * height / (high - low) for y, _ in labels]
    assert min(b - a for a, b in pairwise(pixels)) >= 12


def test_a_candidate_has_one_colour_in_all_figures_whatever_its_place() -> None:
    view = search(LOSSES)
    of = colours(view.leaderboard)
    assert len(of) == len(set(of.values())) == len(PALETTE)
    for figure in (loss_curves(view, curves(LOSSES)), rank_over_tokens(view, curves(LOSSES))):
        for trace in drawn(figure)["data"]:
            assert of.get(trace["customdata"][0], trace["line"]["color"]) == trace["line"]["color"]
    _, dots = drawn(loss_against_parameters(view))["data"]
    assert {id_: c for id_, c in zip(dots["customdata"], dots["marker"]["color"], strict=True) if id_ in of} == of
    swapped = {1: {0: 2.0}, 2: {0: 1.0}}
    assert colours(search(swapped).leaderboard) == colours(search({1: {0: 1.0}, 2: {0: 2.0}}).leaderboard)


def test_nothing_measured_is_said_in_a_sentence() -> None:
    view = search({1: {}, 2: {}})
    for figure in (loss_curves(view, {}), rank_over_tokens(view, {}), loss_against_parameters(view)):
        assert len(texts(figure)) == 1 and texts(figure)[0].startswith("drawn ")
    assert texts(candidate_curve(details(view, 1, {}), view))[0].startswith("drawn ")
    assert texts(rank_over_tokens(search({1: {0: 2.0}}), curves({1: {0: 2.0}})))[0].startswith("drawn once two")


def test_losses_that_are_not_finite_are_left_out() -> None:
    losses = {1: {0: 3.0, 10: math.inf}, 2: {0: 3.5, 10: 2.0}}
    view = search(losses)
    assert lines(loss_curves(view, curves(losses))) == {1: [(0, 3.0)], 2: [(0, 3.5), (10, 2.0)]}
    assert set(lines(loss_against_parameters(view))) == {2}
    drawn(rank_over_tokens(view, curves(losses)))


def test_a_promotion_goes_on_where_its_trial_ended() -> None:
    view = search({1: {0: 4.0, 10: 3.0}})
    promotion = PromotionView(
        id=1,
        candidate_id=1,
        architecture=TEACHER,
        curve=curve({0: 3.0, 30: 2.5}),
        state=PromotionState.DISTILLING,
        intent=Intent.RUN,
        extensions=(),
        model_id=None,
        folder=None,
        parameters=None,
        exported_loss=None,
    )
    figure = candidate_curve(details(view, 1, {0: 4.0, 10: 3.0}, promotion=promotion), view)
    assert lines(figure) == {1: [(0, 4.0), (10, 3.0), (10, 3.0), (40, 2.5)]}
    assert "promotion" in texts(figure)


def test_figures_of_the_most_candidates_stay_small_and_clear() -> None:
    losses = {id_: {10 * k: 3.0 + (id_ * 37 % 256) / 300 - 0.1 * k for k in range(9)} for id_ in range(1, 257)}
    view = search(losses)
    for figure in (
        loss_curves(view, curves(losses)),
        rank_over_tokens(view, curves(losses)),
        loss_against_parameters(view),
    ):
        assert len(json.dumps(figure.to_plotly_json())) < 200_000
        layout = drawn(figure)["layout"]
        assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
        assert layout["xaxis"]["title"]["text"] and layout["yaxis"]["title"]["text"]
        coloured = json.dumps(drawn(figure)["data"])
        assert {colour for colour in PALETTE if colour in coloured} == set(PALETTE)
