"""What retention leaves of jobs that hold several runs: all of it until they have ended."""

from datetime import timedelta

from nas.jobs import Sweep
from nas.states import SearchState
from tests.api.instant_pool import fail, succeed
from tests.api.test_retention import NOW, WEEK, Runs, database, names, runs
from workers import artifacts

__all__ = ["database", "runs"]  # The fixtures.

PARTS = {f"run-{number}/checkpoints/step-{number:09d}/state.json": 40 for number in (1, 2)}


def test_runs_within_a_job_are_kept_while_it_may_go_on(runs: Runs) -> None:
    trial = {"tokens": 1280, "batch_size": 4, "learning_rates": [1e-3, 2e-3]}
    runs.submit("swept", trial=trial, max_failures=1)
    runs.run(lambda each: fail(each) if isinstance(each.spec, Sweep) else succeed(each))
    assert runs.state("swept") is SearchState.FAILED
    for name, size in PARTS.items():
        artifacts.write(f"{runs.root}/jobs/000003/attempt-1/{name}", b"x" * size)
    assert not [name for name in names(runs.planned(), runs.root) if "/run-" in name]

    runs.submit("swept", trial=trial, max_failures=1)
    runs.run(at=NOW + timedelta(minutes=1))
    assert runs.state("swept") is SearchState.FINISHED
    removed = names(runs.planned(at=NOW + 2 * WEEK), runs.root)
    assert {name: size for name, size in removed.items() if "/run-" in name} == {
        "000003/attempt-1/run-1": 40,
        "000003/attempt-1/run-2": 40,
    }
