"""How long do readers wait for a full service? `python -m benchmarks.reading`

Fills SQLite with searches of 256 retrained candidates each, nine points a curve, through the store's own methods, and
times what a user or a page asks for, each over HTTP against a server in a process of its own.
"""

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path

import httpx

from api.scheduler import Scheduler, utc_now
from api.services.submission import submit
from api.store.database import Database
from api.store.store import Store
from nas.client import Client
from nas.jobs import DataFiles, Measurement, Trained, Trial
from nas.spec import SearchSpec
from nas.spec_file import parse_spec
from nas.states import Intent
from workers.local import LocalPool

ROOT = Path(__file__).parents[1]
SEARCHES, CANDIDATES, POINTS, ROUNDS = 20, 256, 9, 10
LIMITS = {"list_ms": 1000.0, "search_ms": 250.0, "page_ms": 500.0, "idle_step_ms": 20.0}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/topiary.db")
        database.migrate()
        text = Path(folder) / "text.txt"
        text.write_text("Nobody reads it: the trials of this benchmark are made up.")
        began = time.monotonic()
        for number in range(SEARCHES):
            _fill(database, _spec(number, text))
        print(f"{SEARCHES} searches of {CANDIDATES} candidates written in {time.monotonic() - began:.0f} s")
        figures = {"idle_step_ms": _idle_step(database, Path(folder)), **_answers(Path(folder))}
        database.close()
    for name, value in figures.items():
        print(f"{name:<20}{value:10.1f}")
    targets = {name: ["<=", limit] for name, limit in LIMITS.items()}
    holds = all(figures[name] <= limit for name, limit in LIMITS.items())
    print(f"Python {platform.python_version()}, SQLAlchemy {version('sqlalchemy')}, FastAPI {version('fastapi')}")
    print(json.dumps({"benchmark": "reading", "figures": figures, "targets": targets, "holds": holds}))


def _spec(number: int, text: Path) -> SearchSpec:
    """The demo's teacher in 256 of the shapes that it has."""
    return parse_spec(
        {
            "name": f"search-{number}",
            "teacher": "examples/demo/teacher",
            "budget": {"parameters": 2.5e6, "tolerance": 0.5},
            "space": {
                "num_hidden_layers": [8, 7, 6, 5, 4],
                "hidden_size": [192, 168, 144, 120],
                "intermediate_size": [512, 480, 448, 416, 384, 352, 320, 288, 256],
                "num_attention_heads": [6, 4],
            },
            "sample_size": CANDIDATES,
            "strategy": {"kind": "exhaustive"},
            "data": {"train": str(text), "sequence_length": 128},
        },
        relative_to=ROOT,
    )


def _fill(database: Database, spec: SearchSpec) -> None:
    """A search whose trials have all ended, with its whole curves."""
    search_id = submit(database, spec, utc_now()).search_id
    now = utc_now()
    files = DataFiles(train_file="t", validation_file="v", sequence_length=128, validation_sequences=16)
    with database.transaction() as session:
        store = Store(session)
        for candidate in store.candidates.of_search(search_id):
            trial = Trial(
                teacher=spec.teacher,
                teacher_sha256="",
                scores_file="s",
                architecture=candidate.architecture,
                data=files,
                training=spec.trial,
                until_tokens=spec.trial.tokens,
                seed=0,
                resources=spec.resources,
            )
            store.jobs.add(search_id, trial, now, trial_id=candidate.trials[0].id)
        for job in store.jobs.of_search(search_id):
            started = store.jobs.start_attempt(job, "/f", now, now + timedelta(hours=1))
            if started is None:
                raise RuntimeError(f"job {job.id} was not queued")
            for point in range(POINTS):
                loss = 5 - point / 4 + job.id % 97 / 100
                store.curves.record(
                    started,
                    Measurement(tokens=point * 10**6, loss=loss, kl_to_teacher=0.1, loss_per_sequence=(loss,) * 16),
                    now,
                )
            done = Trained(kind="trial", weights="w", tokens=spec.trial.tokens, dtype="float32")
            store.jobs.succeed(job.id, started.attempt, done, now)
        store.searches.ask(search_id, Intent.CANCEL, now)  # So that the scheduler has nothing more to do for it.


def _idle_step(database: Database, folder: Path) -> float:
    pool = LocalPool()
    scheduler = Scheduler(database, pool, folder)
    scheduler.step()  # Ends the searches.
    seconds = _median(scheduler.step)
    pool.close()
    return seconds


def _answers(folder: Path) -> dict[str, float]:
    """Milliseconds for what is asked most, and how large the answers are in kB."""
    url = "http://127.0.0.1:8469"
    command = [sys.executable, "-m", "api.cli", "http", "--port", "8469", "--runs", str(folder), "--with-parent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as server, Client(url) as client:
        client.wait_until_ready()
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
            figures = {
                f"{name}_ms": _median(partial(http.get, path))
                for name, path in {
                    "list": "/v1/searches",
                    "list_page": "/",
                    "search": "/v1/searches/search-3",
                    "leaderboard": "/v1/searches/search-3/leaderboard",
                    "page": "/searches/search-3",
                }.items()
            }
            figures["page_kb"] = len(http.get("/searches/search-3").content) / 1e3
        server.terminate()
    return figures


def _median(action: Callable[[], object]) -> float:
    """Milliseconds, over a few rounds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times), 1)


if __name__ == "__main__":
    main()
