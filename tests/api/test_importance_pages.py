"""Scores on the pages: with a candidate's cut drawn in, and a sentence where there are none."""

import json
import re
from pathlib import Path
from typing import Any

from api.pages import render
from api.services.submission import submit
from nas.states import SearchState
from tests.api.instant_pool import succeed
from tests.api.rest.answers import export
from tests.api.serving import browsing, serving
from tests.api.test_pages import NOW, Page
from tests.conftest import tiny_spec
from tests.nas.test_figures import LOSSES, details, search
from tests.nas.test_importance_figures import scores


def figures_of(html: str) -> dict[str, Any]:
    data = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    found: dict[str, Any] = json.loads(data[1])
    return found


def test_a_candidate_has_its_cut_drawn_into_the_scores() -> None:
    view = search(LOSSES)
    shape = details(view, 4, {}).standing.architecture
    assert (shape.num_hidden_layers, shape.intermediate_size, shape.hidden_size) == (2, 5, 24)
    own = scores(num_neurons=14, num_channels=24, heads=((3.0, 1.0, 2.0, 1.0, 3.0, 2.0),) * 3)
    html = render.candidate_page(details(view, 4, LOSSES[4], kept_layers=(0, 2)), view, own)
    text = Page(html).text
    assert "Of 3 layers, 1 goes." in text and "5 of 14 neurons stay in each layer." in text
    assert "All 24 channels stay." in text and "All 3 heads stay in each group." in text
    names = ("candidate", "layers", "hidden_size", "intermediate_size", "num_attention_heads")
    assert set(figures_of(html)) == {f"figure-{name}" for name in names} <= set(Page(html).ids)
    (cut,) = [each for each in figures_of(html)["figure-intermediate_size"]["layout"]["shapes"] if "name" in each]
    assert cut["x0"] == 5.5


def test_which_layers_go_is_marked_only_once_it_is_known() -> None:
    view = search(LOSSES)
    html = render.candidate_page(details(view, 4, {}), view, scores())
    assert "Which layers go is told once the trial has succeeded" in Page(html).text
    assert "goes" not in json.dumps(figures_of(html)["figure-layers"])
    as_deep = render.candidate_page(details(view, 5, {}), view, scores())
    assert "All 3 layers stay." in Page(as_deep).text and "Which layers go" not in Page(as_deep).text


def test_without_scores_a_page_says_whether_they_come() -> None:
    new = search({1: {}}, teacher_loss=None)
    ended = new.model_copy(update={"state": SearchState.CANCELLED})
    for view, told in (
        (new, "Drawn once the teacher has been scored"),
        (ended, "ended before the teacher was scored"),
        (search(LOSSES), "Not on record"),
    ):
        candidate = render.candidate_page(details(view, view.leaderboard[0].candidate_id, {}), view, None)
        for html in (candidate, render.importance_page(view, None)):
            assert told in Page(html).text
    assert "Layers by Block Influence" in Page(render.importance_page(new, scores())).text


def test_searches_with_and_without_scores_have_all_their_pages(
    tmp_path: Path, teacher_folder: Path, text_file: Path
) -> None:
    for outcome, told in ((export, "Layers by Block Influence"), (succeed, "Not on record")):
        folder = tmp_path / outcome.__name__
        folder.mkdir()
        with serving(folder, outcome) as service, browsing(service) as browser:
            spec = tiny_spec(teacher_folder, text_file)
            submit(service.database, spec, NOW)
            assert "Drawn once" in browser.get(f"/searches/{spec.name}/importance").text
            service.finish()
            search_page = Page(browser.get(f"/searches/{spec.name}").text)
            assert f"/searches/{spec.name}/importance" in search_page.addresses
            candidate = next(id_ for id_ in search_page.ids if id_.startswith("row-")).removeprefix("row-")
            for path in ("importance", f"candidates/{candidate}"):
                answer = browser.get(f"/searches/{spec.name}/{path}")
                assert answer.status_code == 200 and told in Page(answer.text).text
