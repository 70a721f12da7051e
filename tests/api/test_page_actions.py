"""What pages offer to do, in every state, and that their forms do it; what they say of what waits."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from api.pages import render
from nas.ranking import CurvePoint
from nas.spec import SpendingSpec
from nas.states import Intent, JobState, PromotionState, SearchState, TrialState
from nas.views import PromotionView, SearchView, Spent, TrialView
from tests.api.serving import browsing
from tests.api.stepped import stepped
from tests.api.test_pages import HEALTHY, Page, attempt, job, promotion, summary
from tests.conftest import tiny_spec
from tests.nas.test_figures import FAILED, LOSSES, details, search

NOW = datetime(2026, 1, 2, 4, tzinfo=UTC)
RUNNING, PAUSED, STOPPED = SearchState.RUNNING, SearchState.PAUSED, SearchState.STOPPED


def verbs(html: str) -> list[str]:
    """Of the forms, in their order."""
    return re.findall(r'<form method="post" action="/searches/a-search/([\w/]+)">', html)


def on(view: SearchView, fragment: str) -> str:
    return Page(render.search_fragments(view)[fragment]).text


OFFERED = [
    ({"state": RUNNING}, ["pause", "stop", "cancel"]),
    ({"state": RUNNING, "jobs": (job(8, state=JobState.FAILED),)}, ["pause", "stop", "retry", "cancel"]),
    ({"state": RUNNING, "intent": Intent.PAUSE}, ["resume", "cancel"]),
    ({"state": RUNNING, "intent": Intent.STOP}, ["resume", "pause", "cancel"]),
    ({"state": RUNNING, "intent": Intent.CANCEL}, []),
    ({"state": PAUSED, "intent": Intent.PAUSE}, ["resume", "cancel", "archive"]),
    ({"state": STOPPED, "intent": Intent.STOP, "archived_at": NOW}, ["resume", "cancel", "unarchive"]),
    ({"state": SearchState.CANCELLED, "jobs": (job(8, state=JobState.FAILED),)}, ["resume", "archive"]),
    ({"state": SearchState.FINISHED}, ["archive"]),
    ({"state": SearchState.FAILED}, ["retry", "archive"]),
]


@pytest.mark.parametrize(("changes", "offered"), OFFERED, ids=range(len(OFFERED)))
def test_a_search_offers_what_makes_sense_in_its_state(changes: dict[str, Any], offered: list[str]) -> None:
    assert verbs(render.search_fragments(search(LOSSES, **changes))["actions"]) == offered


OF_PROMOTION = [
    (promotion(), []),
    (promotion(state=PromotionState.DISTILLING), ["pause", "cancel"]),
    (promotion(state=PromotionState.DISTILLING, intent=Intent.PAUSE), ["resume", "cancel"]),
    (promotion(state=PromotionState.PAUSED, intent=Intent.PAUSE), ["resume", "cancel"]),
    (promotion(state=PromotionState.CANCELLED, intent=Intent.CANCEL), ["resume"]),
    (promotion(state=PromotionState.FAILED), ["retry", "cancel"]),
]


@pytest.mark.parametrize(("found", "offered"), OF_PROMOTION, ids=range(len(OF_PROMOTION)))
def test_a_promotion_offers_what_makes_sense_in_its_state(found: PromotionView, offered: list[str]) -> None:
    html = render.search_fragments(search(LOSSES, promotions=(found,)))["promotions"]
    assert verbs(html) == [f"promotions/3/{verb}" for verb in offered]
    cancelled = render.search_fragments(search(LOSSES, promotions=(found,), state=SearchState.CANCELLED))
    assert verbs(cancelled["promotions"]) == [], "its search is resumed first"


def test_what_loses_something_says_so_before_it_is_done() -> None:
    view = search(LOSSES, promotions=(promotion(state=PromotionState.DISTILLING),))
    for fragment, whom in (("actions", "search"), ("promotions", "promotion")):
        html = render.search_fragments(view)[fragment]
        (form,) = re.findall(r"<details .*?</details>", html, re.DOTALL)
        assert "since its last checkpoint is lost" in " ".join(form.split())
        assert f"Cancel this {whom}" in form


def test_the_notice_says_what_becomes_of_what_runs_and_how_it_goes_on() -> None:
    view = search(LOSSES, jobs=(job(4), job(5)), intent=Intent.PAUSE)
    assert on(view, "notice") == "Pausing: 2 running trials save their state and end."
    reason = "spending.tokens: 10 of 8 are used"
    changes: dict[str, Any] = {
        "state": STOPPED,
        "intent": Intent.STOP,
        "reason": reason,
        "spending": SpendingSpec(tokens=8),
    }
    stopped = search(LOSSES, **changes)
    assert on(stopped, "notice").startswith(f"Stopped: {reason}; topiary extend a-search --spending tokens=MORE allows")
    assert "<code>topiary resume a-search</code>" in render.search_fragments(stopped)["notice"]
    archived = stopped.model_copy(update={"archived_at": NOW})
    assert on(archived, "notice").endswith("Archived: the list of searches does not show it.")
    assert on(search(LOSSES), "notice") == ""


def test_spending_stands_beside_the_tokens_with_its_limits() -> None:
    spent = Spent(tokens=10, device_hours=12.34, money=30.85, wall_hours=0.5)
    view = search(LOSSES, spent=spent)
    assert on(view, "spend").endswith("10 of 40 tokens 12.3 device-hours cost 30.9")
    limits = SpendingSpec(tokens=20, device_hours=1400, money=50, wall_hours=48)
    limited = view.model_copy(update={"spending": limits})
    assert on(limited, "spend").endswith(
        "10 of 40 tokens, at most 20 12.3 of 1,400 device-hours cost 30.9 of 50.0 0.50 of 48.0 hours"
    )


def test_what_waits_says_why_and_until_when() -> None:
    waiting: dict[str, Any] = {"state": JobState.QUEUED, "reason": "no node has an A100", "not_before": NOW}
    jobs = (job(4, **waiting), job(None, "prepare_data", **waiting), job(5, "promotion", **waiting))
    view = search(LOSSES, jobs=jobs, promotions=(promotion(state=PromotionState.DISTILLING),))
    why = "no node has an A100; tried again at 2026-01-02 04:00:00 UTC at the earliest"
    fragments = render.search_fragments(view)
    for fragment in ("row-4", "promotions"):
        assert f'<abbr title="{why}">why</abbr>' in fragments[fragment]
    assert f"tokenising the text waits: {why}" in on(view, "spend")
    page = render.candidate_page(details(view, 4, LOSSES[4], attempts=(attempt(),)), view, None)
    assert "its trial, is queued: no node has an A100; it is tried again at 2026" in Page(page).text
    assert "node-<b>7" in Page(page).text, "an attempt says where it ran"


def test_several_seeds_are_a_mean_and_each_has_its_row() -> None:
    view = search(LOSSES, FAILED)
    rows = tuple(row.model_copy(update={"num_seeds": 2}) for row in view.leaderboard)
    several = view.model_copy(update={"leaderboard": rows})
    assert "mean of 2 seeds" in on(several, "row-5") and "mean of" not in on(view, "row-5")
    points = (CurvePoint(tokens=20, loss=2.25, kl_to_teacher=1.0),)
    trials = tuple(TrialView(seed=seed, state=TrialState.SUCCEEDED, curve=points) for seed in (17, 18))
    page = Page(render.candidate_page(details(several, 5, LOSSES[5], trials=trials), several, None)).text
    assert "mean of 2 seeds" in page and "17 retrained 20 2.2500 1.0000 18 retrained" in page
    assert "mean of trials 0 4.0000" in page and "trial, seed 18 20 2.2500" in page


def test_a_promotion_of_a_search_that_waits_is_not_said_to_run() -> None:
    going = promotion(state=PromotionState.DISTILLING)
    for state, intent, word in (
        (RUNNING, Intent.RUN, "distilling"),
        (RUNNING, Intent.PAUSE, "pausing"),
        (PAUSED, Intent.RUN, "waiting"),
    ):
        view = search(LOSSES, state=state, promotions=(going.model_copy(update={"intent": intent}),))
        assert f'class="state {word}"' in render.search_fragments(view)["promotions"]


def test_the_list_of_archived_searches_is_one_of_its_own() -> None:
    found = [summary(search(LOSSES, name=f"s{number}"), id=number) for number in range(render.PAGE_SIZE + 1)]
    listed = render.list_page(found, HEALTHY, 0)
    assert 'href="/?archived=true"' in listed
    archived = render.list_page(found, HEALTHY, 0, archived=True)
    assert 'href="/?archived=true&amp;offset=50"' in archived and "data-live" not in archived
    assert "<h1>Archived searches</h1>" in archived and 'href="/"' in archived
    assert "None is archived." in render.list_page([], HEALTHY, 0, archived=True)


def test_the_forms_do_what_they_say(tmp_path: Path, teacher_folder: Path, text_file: Path) -> None:
    html = {"accept": "text/html"}
    with stepped(tmp_path) as stage, browsing(stage.service) as browser:
        stage.client.submit(tiny_spec(teacher_folder, text_file, sample_size=2))

        def press(verb: str) -> SearchView:
            answer = browser.post(f"/searches/tiny/{verb}", headers=html)
            assert (answer.status_code, answer.headers["location"]) == (303, "/searches/tiny"), answer.text
            return stage.client.search("tiny")

        assert press("pause").intent is Intent.PAUSE
        assert stage.finish("tiny").state == "paused"
        assert press("archive").archived_at is not None
        assert "tiny" in browser.get("/", params={"archived": True}).text and "tiny" not in browser.get("/").text
        assert press("unarchive").archived_at is None
        assert press("resume").intent is Intent.RUN
        stage.hold("tiny", "promotion")
        assert press("promotions/1/pause").promotions[0].intent is Intent.PAUSE
        assert press("promotions/1/resume").promotions[0].intent is Intent.RUN
        assert press("promotions/1/cancel").promotions[0].intent is Intent.CANCEL
        stage.let_go()
        assert stage.finish("tiny").state == "finished"
        refused = browser.post("/searches/tiny/retry", headers=html)
        assert refused.status_code == 409 and "has no job that failed" in Page(refused.text).text
        assert browser.post("/searches/tiny/delete", headers=html).status_code == 422, "no page deletes"
