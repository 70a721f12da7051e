"""Pages as browsers and people get them: complete without scripts, safe, readable in both themes, made of fragments."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from api.pages import render
from api.pages.glyph import glyph, text_alternative
from api.pages.sparkline import Scale, sparkline
from nas.figures import PALETTE
from nas.importance_curves import depth_colour
from nas.jobs import JobProgress
from nas.states import AttemptState, Intent, JobState, PromotionState, SearchState
from nas.views import (
    AttemptView,
    ErrorView,
    HealthView,
    JobView,
    PromotionView,
    SearchSummary,
    SearchView,
)
from tests.api.serving import browsing, serving
from tests.nas.shapes import LLAMA_8B, small_llama
from tests.nas.test_figures import FAILED, LOSSES, curves, details, search
from tests.nas.test_importance_figures import scores

NOW = datetime(2026, 1, 2, 4, tzinfo=UTC)
HOSTILE = "<script>alert('&\"')</script>"
HEALTHY = HealthView(version="1", scheduler_seen_at=NOW, scheduler_alive=True)
STYLE = Path(render.__file__).parent / "static" / "style.css"


class Page(HTMLParser):
    """A page's ids in order, the addresses it names, scripts and styles within it, and its text, spaces made one."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.words: list[str] = []
        self._tags: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._tags.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.addresses += [found[name] or "" for name in ("href", "src", "action", "data-live") if name in found]
        executable = tag == "script" and "src" not in found and found.get("type") != "application/json"
        self.inline += [tag] if executable or tag == "style" else []
        self.inline += [name for name in found if name == "style" or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self._tags and self._tags[-1] != "script":
            self.words.append(data)


def job(candidate_id: int | None, kind: str = "trial", **changes: object) -> JobView:
    progress = JobProgress(done=15, total=40, unit="tokens")
    return JobView(
        job_id=1,
        kind=kind,
        candidate_id=candidate_id,
        state=JobState.RUNNING,
        attempt=1,
        not_before=None,
        progress=progress,
        reason=None,
    ).model_copy(update=changes)


def summary(view: SearchView, **changes: object) -> SearchSummary:
    shared = {name: getattr(view, name) for name in SearchSummary.model_fields if hasattr(view, name)}
    best = view.leaderboard[0] if view.leaderboard[0].rank else None
    return SearchSummary(**shared, num_candidates=6, num_retrained=2, best=best).model_copy(update=changes)


def promotion(**changes: object) -> PromotionView:
    return PromotionView(
        id=3,
        candidate_id=5,
        architecture=small_llama(),
        curve=curves({5: {0: 2.0, 90: 1.75}})[5],
        state=PromotionState.FINISHED,
        intent=Intent.RUN,
        extensions=(),
        model_id=7,
        folder="/models/<b>out</b>",
        parameters=5,
        exported_loss=1.755,
    ).model_copy(update=changes)


def attempt(**changes: object) -> AttemptView:
    return AttemptView(
        job_id=2,
        kind="trial",
        number=1,
        state=AttemptState.FAILED,
        started_at=NOW,
        ended_at=NOW,
        reason=HOSTILE,
        node="node-<b>7",
        folder="/f",
    ).model_copy(update=changes)


def every_page() -> dict[str, str]:
    view = search(LOSSES, FAILED, jobs=(job(7),), promotions=(promotion(),))
    ended = view.model_copy(update={"state": SearchState.FAILED, "reason": HOSTILE, "user_error": True})
    unmeasured = search({1: {}, 2: {}}, teacher_loss=None, tokens_total=0)
    return {
        "running": render.search_page(view, curves(LOSSES)),
        "failed": render.search_page(ended, curves(LOSSES)),
        "unmeasured": render.search_page(unmeasured, {}),
        "cancelled": render.search_page(view.model_copy(update={"state": SearchState.CANCELLED}), {}),
        "list": render.list_page([summary(view), summary(unmeasured, id=2)], HEALTHY, 0),
        "empty": render.list_page([], HealthView(version="1", scheduler_seen_at=None, scheduler_alive=False), 0),
        "candidate": render.candidate_page(details(view, 5, LOSSES[5], promotion=promotion()), view, scores()),
        "failed candidate": render.candidate_page(details(view, 8, LOSSES[8], attempts=(attempt(),)), view, None),
        "new candidate": render.candidate_page(details(unmeasured, 1, {}, cost=None), unmeasured, None),
        "importance": render.importance_page(view, scores()),
        "no importance": render.importance_page(unmeasured, None),
        "error": render.error_page(ErrorView(kind="NotFoundError", message=HOSTILE), 404),
    }


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return every_page()


# --- every page ---------------------------------------------------------------------------------------------


def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(pages: dict[str, str]) -> None:
    for html in pages.values():
        page = Page(html)
        assert page.addresses and all(re.match(r"/(?!/)", address) for address in page.addresses), page.addresses
        assert page.inline == []
    for file in STYLE.parent.iterdir():
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|eval\(", file.read_text())


def test_names_and_reasons_are_text_whatever_they_hold(pages: dict[str, str]) -> None:
    for html in pages.values():
        assert "<script>alert" not in html and "<b>out" not in html
    assert HOSTILE in Page(pages["failed"]).text
    assert HOSTILE in Page(pages["failed candidate"]).text
    hostile = search(LOSSES, {8: HOSTILE}, name='x"><script>alert(1)</script>/..')
    html = render.search_page(hostile, curves(LOSSES)) + render.list_page([summary(hostile)], HEALTHY, 0)
    assert "<script>alert" not in html
    assert '/searches/x%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E%2F.."' in html


def test_ids_are_unique(pages: dict[str, str]) -> None:
    for name, html in pages.items():
        ids = Page(html).ids
        assert len(ids) == len(set(ids)), name


# --- the search ---------------------------------------------------------------------------------------------


def test_the_page_is_made_of_its_fragments_and_figures() -> None:
    view = search(LOSSES, FAILED)
    html = render.search_page(view, curves(LOSSES))
    fragments = render.search_fragments(view, curves(LOSSES))
    for name, fragment in fragments.items():
        assert fragment in html
        assert Page(fragment).ids[0] == name
        assert re.match(r"<\w+ id=\"[\w-]+\" data-fragment", fragment), "live.js replaces the element of this id"
    figures = render.search_figures(view, curves(LOSSES))
    assert set(figures) <= set(Page(html).ids)
    data = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert data is not None and json.loads(data[1]) == json.loads(json.dumps(figures))


def test_ids_of_fragments_stay_the_same_from_the_first_moment_to_the_last() -> None:
    new = search({id_: {} for id_ in LOSSES}, teacher_loss=None)
    ended = search(LOSSES, FAILED, state=SearchState.FINISHED, promotions=(promotion(),), finished_at=NOW)
    assert set(render.search_fragments(new)) == set(render.search_fragments(ended))
    assert {f"row-{id_}" for id_ in LOSSES} <= set(render.search_fragments(new))


def test_what_does_not_change_makes_no_new_fragment() -> None:
    view = search(LOSSES, FAILED, jobs=(job(7),))
    further = view.model_copy(update={"tokens_done": 11, "jobs": (job(7, progress=job(7).progress),)})
    before, after = (render.search_fragments(each, curves(LOSSES)) for each in (view, further))
    assert {name for name in before if before[name] != after[name]} == {"spend"}


def test_a_row_tells_its_standing() -> None:
    fragments = render.search_fragments(search(LOSSES, FAILED, jobs=(job(7),)), curves(LOSSES))
    shape = next(row.architecture.label for row in search(LOSSES).leaderboard if row.candidate_id == 5)
    row = Page(fragments["row-5"]).text
    # Among the three that are furthest, 5 was first after pruning and is first now, 6 was last and is second.
    assert row.startswith("1 \u2013 ") and shape in row
    assert row.endswith("1.00 M 4.000 2.000 1.000 loss 4.000 to 2.000 20 running")
    assert Page(fragments["row-6"]).text.startswith("2 up 1 ")
    assert Page(fragments["row-4"]).text.startswith("3 down 1 ")
    assert "running 37 %" in Page(fragments["row-7"]).text
    assert 'class="n loss"' in fragments["row-5"] and 'class="n loss"' not in fragments["row-7"]
    assert Page(fragments["row-8"]).text.endswith("failed: it broke")


def test_rows_carry_their_place_and_the_colours_of_the_charts() -> None:
    view = search(LOSSES, FAILED)
    fragments = render.search_fragments(view, curves(LOSSES))
    for position, row in enumerate(view.leaderboard):
        assert f'data-position="{position}"' in fragments[f"row-{row.candidate_id}"]
    charts = json.dumps(render.search_figures(view, curves(LOSSES))["figure-loss-curves"])
    for candidate_id in (4, 5, 6, 7):
        (colour,) = re.findall(r'color="(#\w+)"', fragments[f"row-{candidate_id}"])
        assert colour in charts


def test_without_curves_a_row_draws_its_first_and_last_loss() -> None:
    fragments = render.search_fragments(search(LOSSES, FAILED))
    (line,) = re.findall(r'points="(.*?)"', fragments["row-4"])
    assert len(line.split()) == 2


def test_the_most_candidates_are_one_page() -> None:
    losses = {id_: {0: 5.0 + id_ / 100, 10: 3.0 + id_ / 1000} for id_ in range(1, 257)}
    html = render.search_page(search(losses, teacher=small_llama(num_hidden_layers=48)), curves(losses))
    assert html.count('<tr id="row-') == 256
    assert len(html) < 1_000_000


def test_unknown_numbers_are_blank_and_no_other() -> None:
    text = Page(render.search_page(search({1: {}, 2: {}}, teacher_loss=None, tokens_total=0), {})).text
    assert "None" not in text and "nan" not in text.replace("finance", "")
    assert "No candidate has been retrained yet" in text


def test_the_head_says_what_is_best_and_what_is_left() -> None:
    view = search(LOSSES, FAILED, tokens_done=250_000, tokens_total=1_890_000_000, seconds_left=274_000.0)
    view = view.model_copy(update={"tokens_per_second": 12_345.6, "jobs": (job(None, "calibrate"),)})
    text = Page("".join(render.search_fragments(view).values())).text
    assert "2.000 ahead of the second by 0.100, 0.500 above the teacher" in text
    assert "250,000 of 1.89 B tokens 1.25 device-hours 12,346 tokens/s about 3 d 4 h left" in text
    assert "ranking layers, heads, neurons and channels, 37 %" in text
    assert "0 of 6 retrained, 5 running, 1 failed" in text


def test_the_title_carries_the_state_and_the_best_loss() -> None:
    assert render.tab_title(search(LOSSES)) == "\u25cf 1.700 a-search"
    assert render.tab_title(search({1: {0: 3.0}})) == "\u25cf a-search"
    assert render.tab_title(search(LOSSES, state=SearchState.FINISHED)) == "1.700 a-search"
    html = render.search_page(search(LOSSES), {})
    assert "<title>\u25cf 1.700 a-search</title>" in html and 'data-title="\u25cf 1.700 a-search"' in html


def test_failed_states_say_what_to_do_next(pages: dict[str, str]) -> None:
    assert "Mend what the sentence names, then submit the file again" in Page(pages["failed"]).text
    assert "Cancelled: everything measured stays; topiary resume a-search goes on" in Page(pages["cancelled"]).text
    assert "topiary submit search.yaml" in Page(pages["empty"]).text
    assert "topiary serve" in Page(pages["empty"]).text
    assert "topiary serve" not in Page(pages["list"]).text


def test_a_promotion_shows_the_folder_of_its_model() -> None:
    text = Page(render.search_fragments(search(LOSSES, promotions=(promotion(),)))["promotions"]).text
    assert text.endswith("finished 90 1.750 1.755 /models/<b>out</b>")
    going = promotion(state=PromotionState.DISTILLING, folder=None, exported_loss=None)
    assert "not exported yet" in render.search_fragments(search(LOSSES, promotions=(going,)))["promotions"]


# --- the others ---------------------------------------------------------------------------------------------


def test_the_list_pages_through_the_searches() -> None:
    view = search(LOSSES)
    summaries = [summary(view, id=number, name=f"s{number}") for number in range(render.PAGE_SIZE + 1)]
    first = render.list_page(summaries, HEALTHY, 0)
    assert first.count('<tr id="search-') == render.PAGE_SIZE
    assert 'href="/?offset=50"' in first and 'data-live="/live"' in first
    second = render.list_page(summaries[-1:], HEALTHY, render.PAGE_SIZE)
    assert "older" not in second and "newer" in second and "data-live" not in second
    assert set(render.list_fragments(summaries, HEALTHY)) == {"health", "searches"}


def test_a_candidate_says_where_its_weights_are(pages: dict[str, str]) -> None:
    assert "/models/<b>out</b>" in Page(pages["candidate"]).text
    assert "None yet: they are there once the trial has ended" in Page(pages["new candidate"]).text
    view = search(LOSSES)
    first = attempt(reason="it broke", folder="/try-1")
    second = first.model_copy(update={"number": 2, "state": "succeeded", "reason": None, "folder": "/try-2"})
    html = render.candidate_page(details(view, 5, LOSSES[5], attempts=(first, second)), view, None)
    assert "in /try-2" in Page(html).text.split("Measurements")[0]


@pytest.mark.parametrize(("layers", "kept"), [(32, 28), (3, 3), (126, 1)])
def test_a_glyph_has_a_cell_for_every_layer_and_three_bars(layers: int, kept: int) -> None:
    teacher = LLAMA_8B.model_copy(update={"num_hidden_layers": layers})
    student = teacher.model_copy(
        update={"num_hidden_layers": kept, "intermediate_size": 7168, "num_attention_heads": 24}
    )
    svg = str(glyph(student, teacher))
    paths = dict(re.findall(r'class="(filled|hollow)" d="(.*?)"', svg))
    assert paths["filled"].count("h") == kept
    assert paths.get("hollow", "").count("z") == layers - kept
    assert re.findall(r'class="bar" d="M0 [\d.]+h([\d.]+)"', svg) == ["120", "60", "90"]
    assert 'viewBox="0 0 120 24"' in svg and "<title>" in svg


def test_a_glyph_has_words() -> None:
    student = LLAMA_8B.model_copy(update={"num_hidden_layers": 28, "hidden_size": 3072, "intermediate_size": 9216})
    assert text_alternative(student, LLAMA_8B) == (
        "28 of 32 layers, hidden 3072 of 4096, ffn 9216 of 14336, 32 of 32 heads"
    )
    assert text_alternative(student, LLAMA_8B) in glyph(student, LLAMA_8B)


def test_sparklines_of_one_scale_compare() -> None:
    scale = Scale(most_tokens=100, lowest_loss=1.0, highest_loss=3.0)
    svg = str(sparkline([(0, 3.0), (50, 2.0), (100, 1.0)], scale, "#009E73"))
    assert re.findall(r'points="(.*?)"', svg) == ["2.0,2.0 36.0,11.0 70.0,20.0"]
    assert sparkline([], scale, None) == ""
    assert "nan" not in sparkline([(0, 1.0), (10, float("nan"))], scale, None).split("points")[1]


# --- the stylesheet -----------------------------------------------------------------------------------------


def themes() -> dict[str, dict[str, str]]:
    """The colours by name, of either theme."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)[:2]
    of_light = dict(re.findall(r"--(\w+): (#\w{6});", light))
    return {"light": of_light, "dark": of_light | dict(re.findall(r"--(\w+): (#\w{6});", dark))}


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """As WCAG defines it."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_stand_out(theme: str) -> None:
    colours = themes()[theme]
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for name in ("ink", "soft", "accent", "failure"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    for name in ("ink", "soft", "accent"):
        assert contrast(colours[name], colours["tint"]) >= 4.5, f"{name} on a cell that changed"
    of_layers = ["#{:02x}{:02x}{:02x}".format(*map(int, re.findall(r"\d+", depth_colour(i, 9)))) for i in range(9)]
    for colour in (colours["mark"], *PALETTE, *of_layers):
        assert contrast(colour, colours["paper"]) >= 3, colour


# --- over HTTP ----------------------------------------------------------------------------------------------


def test_the_service_serves_pages_scripts_and_errors(tmp_path: Path) -> None:
    with serving(tmp_path) as service, browsing(service) as browser:
        page = browser.get("/", headers={"accept": "text/html"})
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        for address in Page(page.text).addresses:
            if address.startswith("/static/"):
                assert browser.get(address).status_code == 200, address
        script = browser.get("/static/plotly.min.js", params={"v": "1"})
        assert script.status_code == 200 and "immutable" in script.headers["cache-control"]
        assert script.headers["content-type"].startswith("text/javascript") and len(script.content) > 1_000_000
        for name in ("/searches/nowhere/importance", "/searches/nowhere/candidates/1"):
            assert browser.get(name, headers={"accept": "text/html"}).status_code == 404
        missing = browser.get("/searches/nowhere", headers={"accept": "text/html"})
        assert missing.status_code == 404 and "All searches" in Page(missing.text).text
        cancelled = browser.post("/searches/nowhere/cancel", headers={"accept": "text/html"})
        assert cancelled.status_code == 404
