"""Figures of scores against hand-made ones: every number where it belongs, what goes marked, cuts in their places."""

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

from nas.calibration import CalibrationSpec
from nas.compression.importance.view import view_of
from nas.compression.scores import Scores
from nas.importance_curves import UNITS, sorted_curves
from nas.importance_figures import drawings, layers, method, page
from nas.importance_view import MOST_POINTS, Curve, ImportanceView, places
from tests.nas.shapes import small_llama

LAYERS = (0.9, 0.05, 0.2)


def scores(**changes: Any) -> ImportanceView:
    """Of 3 layers with 6 heads in 2 groups, 4 neurons, 5 channels."""
    view = ImportanceView(
        layers=LAYERS,
        stretches={1: LAYERS},
        heads=((3.0, 6.0, 1.5, 1.0, 2.0, 4.0), (1.0,) * 6, (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)),
        experts=((), (), ()),
        neurons=((8.0, 4.0, 2.0, 1.0), (1.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.0, 0.0)),
        num_neurons=4,
        channels=(10.0, 8.0, 6.0, 4.0, 2.0),
        num_channels=5,
        num_key_value_heads=2,
        width="activation",
        depth="block_influence",
    )
    return view.model_copy(update={"num_neurons": len(view.neurons[0]), **_consistent(changes)})


def _consistent(changes: dict[str, Any]) -> dict[str, Any]:
    """With as many points as there are units."""
    if "num_neurons" in changes:
        changes.setdefault("neurons", (falling(changes["num_neurons"]),) * 3)
    if "num_channels" in changes:
        changes.setdefault("channels", falling(changes["num_channels"]))
    return changes


def falling(num: int) -> Curve:
    return tuple(float(num - at) for at in places(num))


def drawn(figure: Any) -> dict[str, Any]:
    """The figure as a page gets it; NaN and infinity are no JSON."""
    loaded: dict[str, Any] = json.loads(json.dumps(figure.to_plotly_json(), allow_nan=False))
    return loaded


def points(figure: Any) -> list[list[tuple[float, float]]]:
    """Of each trace."""
    return [list(zip(trace["x"], trace["y"], strict=True)) for trace in drawn(figure)["data"]]


def marked(figure: Any) -> list[int]:
    """Where hollow, crossed points are."""
    return [
        x
        for trace in drawn(figure)["data"]
        for x, symbol, size in zip(trace["x"], trace["marker"]["symbol"], trace["hovertext"], strict=True)
        if symbol == "circle-x-open" and "goes" in size
    ]


def shaded(figure: Any) -> list[tuple[float, float]]:
    shapes = drawn(figure)["layout"].get("shapes", [])
    return [(each["x0"], each["x1"]) for each in shapes if each["type"] == "rect"]


def texts(figure: Any) -> list[str]:
    return [each["text"] for each in drawn(figure)["layout"].get("annotations", [])]


def y_title(figure: Any) -> str:
    title: str = drawn(figure)["layout"]["yaxis"]["title"]["text"]
    return title


# --- layers -------------------------------------------------------------------------------------------------


def test_each_layer_stands_at_its_score_and_those_that_go_are_marked() -> None:
    view = scores()
    for kept, gone in ((None, []), ((0, 1, 2), []), ((0, 2), [1]), ((0,), [1, 2])):
        figure = layers(view, kept)
        assert points(figure) == [list(enumerate(LAYERS))]
        assert marked(figure) == gone
        assert bool(texts(figure)) == bool(gone), "the key says what a mark means"


@pytest.mark.parametrize(
    ("depth", "title"),
    [
        ("block_influence", "Block Influence, 1 \u2212 cosine"),
        ("perplexity", "loss without it, nats per token"),
        ("accuracy", "share of wrong answers without it"),
        ("magnitude", "L2 norm of its weights"),
        ("random", "a random number"),
        ("uniform", "a random number, which decides nothing"),
    ],
)
def test_the_axis_has_the_unit_of_the_method(depth: str, title: str) -> None:
    assert y_title(layers(scores(depth=depth), None)) == title
    assert method(scores(depth=depth)).endswith(" by the size of their activations on samples of the training text.")


def test_an_order_of_removal_counts_from_one_and_ends_in_never() -> None:
    figure = layers(scores(layers=(None, 0.0, None, 1.0), stretches={}, depth="logit_mse"), (0, 2, 3))
    assert points(figure) == [[(1, 1), (3, 2)], [(0, 3), (2, 3)]]
    assert marked(figure) == [1]
    axis = drawn(figure)["layout"]["yaxis"]
    assert (axis["title"]["text"], axis["tickvals"], axis["ticktext"]) == (
        "removed as the n-th",
        [1, 2, 3],
        ["1", "2", "never"],
    )


STRETCHES = {1: (5.0, 4.0, 3.0, 4.0), 2: (9.0, 6.0, 7.0), 3: (12.0, 11.0)}


def test_stretches_are_drawn_by_their_first_layer_and_the_one_that_goes_is_marked() -> None:
    view = scores(layers=(None,) * 4, stretches=STRETCHES, depth="logit_mse")
    everything = layers(view, None)
    assert points(everything) == [list(enumerate(STRETCHES[length])) for length in (1, 2, 3)]
    assert [text.split(" ", 1)[-1].split("> ")[-1] for text in texts(everything)] == ["1 layer", "2 layers", "3 layers"]
    assert y_title(everything) == "relative squared change of logits"
    two = layers(view, (0, 3))
    assert points(two) == [list(enumerate(STRETCHES[2]))]
    assert (marked(two), shaded(two)) == ([1], [(0.5, 2.5)])
    assert "shaded: what goes" in texts(two)


def test_layers_that_went_in_rounds_are_shaded_wherever_they_lie() -> None:
    view = scores(layers=(None,) * 4, stretches=STRETCHES, depth="perplexity")
    figure = layers(view, (1, 3))
    assert (marked(figure), shaded(figure)) == ([], [(-0.5, 0.5), (1.5, 2.5)])
    assert y_title(figure) == "loss without them, nats per token"


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (None, ""),
        (range(9), "All 9 layers stay."),
        ((0, 1, 2, 3, 5, 6, 7, 8), "Of 9 layers, 4 goes."),
        ((0, 4, 6), "Of 9 layers, 1 to 3, 5, 7 and 8 go."),
    ],
)
def test_words_say_which_layers_go(kept: tuple[int, ...] | None, words: str) -> None:
    assert drawings(scores(layers=(1.0,) * 9), kept, None)[0].words == words


# --- sorted curves ------------------------------------------------------------------------------------------


def test_curves_are_in_proportion_to_their_largest() -> None:
    view = scores()
    assert points(sorted_curves(view, "hidden_size", None)) == [[(1, 1.0), (2, 0.8), (3, 0.6), (4, 0.4), (5, 0.2)]]
    neurons = points(sorted_curves(view, "intermediate_size", None))
    assert [[y for _, y in line] for line in neurons] == [[1, 0.5, 0.25, 0.125], [1, 1, 1, 0], [0, 0, 0, 0]]
    experts = sorted_curves(scores(experts=((1.0, 4.0, 2.0), (3.0, None, 1.5), ())), "num_experts", 1)
    assert points(experts) == [[(1, 1.0), (2, 0.5), (3, 0.25)], [(1, 1.0), (2, 0.5)]]
    assert drawn(experts)["data"][0]["hovertext"] == [f"layer 0, expert {unit}" for unit in (1, 2, 0)]


def test_heads_are_sorted_within_their_group() -> None:
    figure = sorted_curves(scores(), "num_attention_heads", 4)
    assert y_title(figure) == "score / the group's largest"
    first, second, third = (sorted((round(x), y) for x, y in trace) for trace in points(figure))
    assert first == [(1, 1.0), (1, 1.0), (2, 0.5), (2, 0.5), (3, 0.25), (3, 0.25)]
    assert second == [(rank, 1.0) for rank in (1, 1, 2, 2, 3, 3)]
    assert third == [(1, 1.0), (1, 1.0), (2, 2 / 3), (2, 5 / 6), (3, 1 / 3), (3, 2 / 3)]
    places_of_two = [[x for x, _ in trace if round(x) == 2] for trace in points(figure)]
    assert places_of_two == [[1.65, 1.65], [2.0, 2.0], [2.35, 2.35]], "in a column, from the first layer to the last"
    assert drawn(figure)["data"][0]["hovertext"][0] == "layer 0, head 1, number 1 of its group"


def test_heads_with_keys_of_their_own_are_sorted_in_their_layer() -> None:
    figure = sorted_curves(scores(num_key_value_heads=6), "num_attention_heads", 2, 2)
    assert points(figure)[0] == [(rank, score / 6) for rank, score in enumerate((6, 4, 3, 2, 1.5, 1), start=1)]
    assert cut_of(figure) == (2.5, "\u2190 2 of 6 stay")


def cut_of(figure: Any) -> tuple[float, str] | None:
    """Where the line of the cut stands, and what is written at it."""
    lines = [each for each in drawn(figure)["layout"].get("shapes", []) if each.get("name") == "cut"]
    if not lines:
        return None
    (line,) = lines
    assert line["x0"] == line["x1"]
    (label,) = [each for each in drawn(figure)["layout"]["annotations"] if each["x"] == line["x0"]]
    assert shaded(figure)[0][0] == line["x0"]
    return line["x0"], label["text"]


def test_the_cut_is_between_the_last_that_stays_and_the_first_that_goes() -> None:
    view = scores()
    assert cut_of(sorted_curves(view, "hidden_size", 3)) == (3.5, "\u2190 3 of 5 stay")
    assert cut_of(sorted_curves(view, "intermediate_size", 1)) == (1.5, "\u2190 1 of 4 stay")
    assert cut_of(sorted_curves(view, "hidden_size", None)) is None
    whole = sorted_curves(view, "hidden_size", 5)
    assert cut_of(whole) is None and texts(whole) == ["all 5 stay"]


@pytest.mark.parametrize(
    ("heads", "groups", "cut", "words"),
    [
        (4, None, (2.5, "\u2190 2 of 3 stay"), "2 of 3 heads stay in each group."),
        (2, 2, (1.5, "\u2190 1 of 3 stay"), "1 of 3 heads stay in each group."),
        (2, 1, (2.5, "\u2190 2 of 3 stay in 1 of 2 groups"), "2 of 3 heads stay in 1 of 2 groups."),
        (3, 1, None, "All 3 heads stay in 1 of 2 groups."),
        (5, None, None, ""),
    ],
)
def test_the_cut_of_heads_is_that_of_a_group(
    heads: int, groups: int | None, cut: tuple[float, str] | None, words: str
) -> None:
    assert cut_of(sorted_curves(scores(), "num_attention_heads", heads, groups)) == cut
    cuts = {"num_attention_heads": heads} | ({} if groups is None else {"num_key_value_heads": groups})
    told = {each.name: each.words for each in drawings(scores(), None, cuts)}
    assert told["num_attention_heads"] == words


def test_another_axis_has_no_curves() -> None:
    with pytest.raises(ValueError, match="vocab_size has no scores"):
        sorted_curves(scores(), "vocab_size", None)


@pytest.mark.parametrize("num", [1, 5, MOST_POINTS, MOST_POINTS + 1, 14_336])
def test_points_stand_at_the_units_that_they_are_of(num: int) -> None:
    """The worker thins with torch, and the figure must know where each point was."""
    value_is_place = torch.arange(num, 0, -1, dtype=torch.float64)
    nothing = torch.zeros(3, 0, dtype=torch.float64)
    one = torch.ones(3, 6, dtype=torch.float64)
    measured = Scores(one[:, 0], one, value_is_place.repeat(3, 1), nothing, value_is_place, torch.ones(3, 3))
    teacher = small_llama(hidden_size=num, intermediate_size=num)
    view = view_of(measured, teacher, CalibrationSpec())
    assert view.channels == falling(num)
    (channels,) = points(sorted_curves(view, "hidden_size", None))
    assert [ratio for _, ratio in channels] == pytest.approx([(num + 1 - rank) / num for rank, _ in channels])
    assert (channels[0][0], channels[-1][0], len(channels)) == (1, num, min(num, MOST_POINTS))


# --- whatever there is --------------------------------------------------------------------------------------


def large() -> ImportanceView:
    return scores(
        layers=tuple(1 / (1 + layer) for layer in range(100)),
        heads=tuple(tuple(1.0 + head for head in range(64)) for _ in range(100)),
        num_key_value_heads=8,
        experts=tuple(tuple(10.0**-expert for expert in range(128)) for _ in range(100)),
        neurons=(falling(32_768),) * 100,
        num_neurons=32_768,
        num_channels=16_384,
    )


ODD = {
    "one layer": scores(layers=(0.5,), stretches={1: (0.5,)}, heads=((1.0,),), experts=((),), num_key_value_heads=1),
    "nothing": scores(layers=(None,) * 3, stretches={}, heads=((None,) * 6,) * 3, channels=(None,) * 5),
    "infinite": scores(layers=(math.inf, math.nan, 1.0), stretches={1: (math.nan,) * 3}, channels=(math.inf,) * 5),
    "nothing removed": scores(layers=(None,) * 3, stretches={}, depth="logit_mse"),
    "unknown method": scores(depth="of tomorrow", width="of tomorrow"),
    "large": large(),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("kept", [None, (0,)])
def test_whatever_was_measured_is_drawn(name: str, kept: tuple[int, ...] | None) -> None:
    cuts = {"hidden_size": 3, "intermediate_size": 2, "num_attention_heads": 1, "num_experts": 1}
    found = drawings(ODD[name], kept, cuts)
    assert [each.name for each in found] == ["layers", *list(UNITS)[: 3 + (name == "large")]]
    for each in found:
        layout = drawn(each.figure)["layout"]
        assert layout["paper_bgcolor"] == "rgba(0,0,0,0)"
        assert layout["xaxis"]["title"]["text"] or texts(each.figure), "labelled axes, or a sentence"
    assert method(ODD[name])


# --- the page -----------------------------------------------------------------------------------------------


class Document(HTMLParser):
    """Tags that are open at the end, addresses, ids and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        found = dict(attrs)
        self.addresses += [found[name] or "" for name in ("href", "src", "action", "data") if name in found]
        self.ids += [found["id"] or ""] if "id" in found else []
        self.scripts += [""] if tag == "script" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def test_the_page_is_whole_and_asks_nobody() -> None:
    hostile = "</script><script>alert('&\"')</script>"
    html = page(scores(width=hostile), (0, 2), {"hidden_size": 3, "num_attention_heads": 4}, hostile)
    document = Document(html)
    assert document.open == [] and document.addresses == []
    assert "default-src 'none'" in html
    plotly, figures, draw = document.scripts
    assert len(plotly) > 1_000_000 and "Plotly.react" in draw
    assert not re.search(r"https?://|import\(|fetch\(", html.replace(plotly, ""))
    assert set(json.loads(figures)) == {"layers", "hidden_size", "intermediate_size", "num_attention_heads"}
    assert set(json.loads(figures)) <= set(document.ids)
    assert hostile in document.text and "Of 3 layers, 1 goes." in document.text
    assert "3 of 5 channels stay." in document.text and "2 of 3 heads stay in each group." in document.text


def test_a_page_without_a_cut_marks_nothing() -> None:
    document = Document(page(scores(), None, None, "the teacher"))
    figures = json.loads(document.scripts[1])
    assert not any(figure["layout"].get("shapes") for figure in figures.values())
    assert "stay" not in document.text and "goes" not in document.scripts[1]
