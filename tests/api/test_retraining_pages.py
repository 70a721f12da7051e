"""What a candidate's page tells of its retraining: how it goes, where it went back, and what its student writes."""

from api.pages import render
from nas.jobs import JobProgress
from nas.training_record import Rollback, TextSample
from nas.views import RetrainingView
from tests.api.test_pages import HOSTILE, Page, job
from tests.nas.test_figures import LOSSES, details, search


def test_a_candidate_shows_how_it_runs_where_it_went_back_and_what_it_writes() -> None:
    progress = JobProgress(
        done=15,
        total=40,
        unit="tokens",
        per_second=1234.4,
        flops_per_second=2.5e12,
        data_wait=0.02,
        memory_bytes=10**9,
        seconds_left=130.0,
    )
    running = job(7, progress=progress)
    view = search(LOSSES, jobs=(running,))
    told = "1,234 tokens/s, 2.50 TFLOP/s, 1.00 GB, 2 % waiting for text"
    assert f'title="{told}"' in render.search_fragments(view)["row-7"]
    page = Page(render.candidate_page(details(view, 7, LOSSES[7]), view, None))
    assert f"is at 37 %: {told}, 2 min left" in page.text
    rollback = Rollback(step=5, first_sequence=29, quantity="the training loss", value="nan", to_step=3)
    sample = TextSample(prompt="def f(", teacher="x):", student=HOSTILE)
    ended = RetrainingView(job_id=1, kind="trial", rollbacks=(rollback,), samples=(sample,))
    html = render.candidate_page(details(view, 5, LOSSES[5], retrainings=(ended,)), view, None)
    text = Page(html).text
    assert "Rollbacks of job 1" in text and "5 the training loss nan 29 3" in text
    assert f"def f( x): {HOSTILE}" in text and HOSTILE not in html
