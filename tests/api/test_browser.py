"""A search as its user sees it: from the command line to the model, and on the live page in a real browser."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from transformers import AutoModelForCausalLM

from nas import importance_figures
from nas.client import Client
from nas.states import SearchState
from nas.views import SearchView
from tests.api.service import Service
from tests.api.test_service import topiary
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Where the system has none, Playwright finds its own.
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser) -> Iterator[Page]:
    """A page that must not complain, nor ask any other server for anything."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: None if "//127.0.0.1:" in asked.url else complaints.append(asked.url))
    yield page
    page.close()
    assert not complaints


@dataclass
class Watched:
    """A search at its end, the page that was open all the while, and what command and page have shown."""

    view: SearchView
    page: Page
    orders: list[tuple[str, ...]]
    """The candidates that have a rank, whenever the page has put them in another order."""
    command: subprocess.CompletedProcess[str]
    """`topiary submit --watch --json`."""


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, text_file: Path) -> Path:
    spec = tiny_spec(teacher_folder, text_file, name="watched", trial=TRAINING)
    file = tmp_path_factory.mktemp("watched") / "spec.json"
    file.write_text(spec.model_dump_json())
    return file


@pytest.fixture(scope="module")
def watched(service: Service, browser: Browser, spec_file: Path) -> Iterator[Watched]:
    command = [sys.executable, "-m", "api.cli", "submit", str(spec_file), "--watch", "--json", "--server", service.url]
    with opened(browser) as page, Client(service.url) as client:
        page.goto(service.url)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        expect(page.get_by_role("link", name="watched")).to_be_visible(timeout=60_000)
        page.get_by_role("link", name="watched").click()
        page.evaluate("window.sameDocument = true")
        orders = [_order(page)]
        while (view := client.search("watched")).state is SearchState.RUNNING:
            if (now := _order(page)) != orders[-1]:
                orders.append(now)
            time.sleep(0.05)
        out, err = process.communicate(timeout=60)
        yield Watched(view, page, orders, subprocess.CompletedProcess(command, process.returncode, out, err))


def _order(page: Page) -> tuple[str, ...]:
    """The candidates that have a rank, in the order in which the page shows them."""
    script = """rows => rows.filter(row => row.querySelector("td").textContent.trim()).map(row => row.id)"""
    found: list[str] = page.locator("tbody[data-sorted] tr").evaluate_all(script)
    return tuple(found)


def test_ranks_change_on_the_open_page_while_the_search_runs(watched: Watched) -> None:
    page, view, orders = watched.page, watched.view, watched.orders
    rows = [f"row-{row.candidate_id}" for row in view.leaderboard]
    expect(page.get_by_text("finished").first).to_be_visible()
    expect(page.locator("tbody[data-sorted] tr").first).to_have_id(rows[0])
    assert _order(page) == tuple(rows), "the page ends with the leaderboard that REST tells"
    assert any(_overtaken(orders[number], orders[number + 1]) for number in range(len(orders) - 1)), orders
    assert page.evaluate("window.sameDocument"), "all that without loading the page anew"
    expect(page).to_have_title(f"{view.leaderboard[0].loss:.3f} watched")
    for figure in ("figure-loss-curves", "figure-rank-over-tokens", "figure-loss-against-parameters"):
        expect(page.locator(f"#{figure} .main-svg").first).to_be_visible()

    page.locator(f"#{rows[0]} a").first.click()
    expect(page.get_by_text("1 of 4")).to_be_visible()
    for figure in ("layers", "hidden_size", "intermediate_size", "num_attention_heads"):
        expect(page.locator(f"#figure-{figure} .main-svg").first).to_be_visible()
    page.get_by_role("link", name="watched").click()
    page.get_by_role("link", name="Pareto front").click()
    for figure in ("parallel-axes", "loss-against-memory", "axis-importance"):
        expect(page.locator(f"#figure-{figure} .main-svg").first).to_be_visible()


def test_a_search_from_the_command_line_to_the_model(
    service: Service, watched: Watched, spec_file: Path, tmp_path: Path
) -> None:
    assert watched.command.returncode == 0, watched.command.stderr
    assert "retraining candidates" in watched.command.stderr
    view = SearchView.model_validate_json(watched.command.stdout)
    assert (view.state, view.leaderboard) == (SearchState.FINISHED, watched.view.leaderboard)

    server = ("--server", service.url)
    again = topiary("submit", str(spec_file), *server)
    assert "watched: finished, 4 candidates" in again.stderr
    assert "watched" in topiary("searches", *server).stdout
    rows = json.loads(topiary("leaderboard", "watched", "--json", *server).stdout)
    assert [row["loss"] for row in rows] == [row.loss for row in view.leaderboard]
    best = json.loads(topiary("best", "watched", "--json", *server).stdout)
    assert (best["final"], best["checkpoint"]["kind"]) == (True, "model")
    logs = topiary("logs", "watched", *server).stdout
    assert logs.count("trial") == 4

    exported = Path(topiary("export", "watched", "--into", str(tmp_path / "model"), *server).stdout.strip())
    assert json.loads((exported / "config.json").read_text()).items() >= best["config"].items()
    assert AutoModelForCausalLM.from_pretrained(exported).num_parameters() == best["standing"]["parameters"]
    assert topiary("cancel", "watched", *server, code=2).stderr == (
        "topiary: search: watched is finished already; accepted: a search that is running, paused or stopped.\n"
    )


def test_a_page_of_scores_draws_itself_without_a_server(browser: Browser) -> None:
    with opened(browser) as page:
        page.set_content(importance_figures.page(scores(), (0, 2), {"hidden_size": 3}, "by itself"))
        for figure in ("layers", "hidden_size", "intermediate_size", "num_attention_heads"):
            expect(page.locator(f"#{figure} .main-svg").first).to_be_visible()
        expect(page.locator("#hidden_size").get_by_text("3 of 5 stay")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def _overtaken(before: tuple[str, ...], after: tuple[str, ...]) -> bool:
    """Whether two candidates that both had a rank have changed places."""
    both = [row for row in after if row in before]
    return both != [row for row in before if row in after]
