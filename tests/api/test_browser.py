"""The live page in a real browser, during a real search."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from nas import importance_figures
from nas.client import Client
from nas.states import SearchState
from tests.api.service import Service
from tests.conftest import tiny_spec
from tests.nas.test_importance_figures import scores

TRAINING = {
    "tokens": 5120,
    "batch_size": 4,
    "peak_learning_rate": 3e-3,
    "warmup_steps": 5,
    "measurements": 4,
    "checkpoint_seconds": 600,
}


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a headless Chromium that must not complain, nor ask any other server for anything."""
    with sync_playwright() as playwright:
        # Where the system has none, Playwright finds its own.
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: None if "//127.0.0.1:" in asked.url else complaints.append(asked.url))
        yield page
        browser.close()
        assert not complaints


def order(page: Page) -> tuple[str, ...]:
    """The candidates that have a rank, in the order in which the page shows them."""
    script = """rows => rows.filter(row => row.querySelector("td").textContent.trim()).map(row => row.id)"""
    found: list[str] = page.locator("tbody[data-sorted] tr").evaluate_all(script)
    return tuple(found)


def test_ranks_change_on_the_open_page_while_the_search_runs(
    service: Service, page: Page, teacher_folder: Path, text_file: Path
) -> None:
    spec = tiny_spec(teacher_folder, text_file, name="watched", trial=TRAINING, promotion=TRAINING)
    page.goto(service.url)
    with Client(service.url) as client:
        client.submit(spec)
        expect(page.get_by_role("link", name="watched")).to_be_visible()
        page.get_by_role("link", name="watched").click()
        page.evaluate("window.sameDocument = true")
        orders = [order(page)]
        while (view := client.search("watched")).state is SearchState.RUNNING:
            if (now := order(page)) != orders[-1]:
                orders.append(now)
            time.sleep(0.05)
        rows = [f"row-{row.candidate_id}" for row in view.leaderboard]
        expect(page.get_by_text("finished").first).to_be_visible()
        expect(page.locator("tbody[data-sorted] tr").first).to_have_id(rows[0])
        assert order(page) == tuple(rows), "the page ends with the leaderboard that REST tells"
        assert any(_overtaken(orders[number], orders[number + 1]) for number in range(len(orders) - 1)), orders
        assert page.evaluate("window.sameDocument"), "all that without loading the page anew"
        expect(page).to_have_title(f"{view.leaderboard[0].loss:.3f} watched")
        for figure in ("figure-loss-curves", "figure-rank-over-tokens", "figure-loss-against-parameters"):
            expect(page.locator(f"#{figure} .main-svg").first).to_be_visible()

        page.locator("tbody[data-sorted] tr a").first.click()
        expect(page.get_by_text("1 of 4")).to_be_visible()
        for figure in ("layers", "hidden_size", "intermediate_size", "num_attention_heads"):
            expect(page.locator(f"#figure-{figure} .main-svg").first).to_be_visible()


def test_a_page_of_scores_draws_itself_without_a_server(page: Page) -> None:
    page.set_content(importance_figures.page(scores(), (0, 2), {"hidden_size": 3}, "by itself"))
    for figure in ("layers", "hidden_size", "intermediate_size", "num_attention_heads"):
        expect(page.locator(f"#{figure} .main-svg").first).to_be_visible()
    expect(page.locator("#hidden_size").get_by_text("3 of 5 stay")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def _overtaken(before: tuple[str, ...], after: tuple[str, ...]) -> bool:
    """Whether two candidates that both had a rank have changed places."""
    both = [row for row in after if row in before]
    return both != [row for row in before if row in after]
