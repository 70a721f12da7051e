"""How long do jobs take that do next to nothing, on Ray? `python -m benchmarks.dispatch_ray topiary|tune NUMBER`

Both start an embedded Ray of two CPUs by the same settings, hand out so many jobs of one CPU each, every one in a
process of its own, and print the seconds from the first dispatch to the last result as JSON.

`topiary` is a search of so many candidates by the scheduler as the service runs it, with a database in a file. Its
trials are refused once they have looked at their teacher, as one that has changed: the smallest of real jobs, by the
same path as any other, with all that a job imports. `tune` is Ray Tune with a trainable that returns a number, and
`tune-importing` one that imports the same as Topiary's jobs before it does.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from api.scheduler import Scheduler, utc_now
from api.scheduling import STEP_SECONDS
from api.services.submission import submit
from api.store.database import Database
from api.store.store import Store
from benchmarks.dispatch import InstantPool, demo_spec
from nas.states import SearchState
from workers.ray_pool import RayPool

CPUS = 2


def main() -> None:
    what, number = sys.argv[1], int(sys.argv[2])
    pool = RayPool(None, "benchmark", num_cpus=CPUS)
    with tempfile.TemporaryDirectory() as folder:
        if what == "topiary":
            seconds = _topiary(pool, number, Path(folder))
        else:
            seconds = _tune(number, Path(folder), imports=what == "tune-importing")
        pool.close()
    print(json.dumps({"seconds": round(seconds, 2), "jobs": number}))


def _topiary(pool: RayPool, number: int, folder: Path) -> float:
    database = Database(f"sqlite:///{folder / 'topiary.db'}")
    database.migrate()
    (folder / "text.txt").write_text("Nobody reads it: no trial gets as far.")
    submit(database, demo_spec("ray", folder, number), utc_now())
    before = InstantPool(1)
    scheduler = Scheduler(database, before, folder)
    for room in (1, 1, 0):  # Its data, its calibration, and then trials that wait.
        before.room = room
        scheduler.step()
    scheduler.stop()
    scheduler = Scheduler(database, pool, folder)
    began = time.perf_counter()
    while scheduler.step():
        time.sleep(STEP_SECONDS)
    seconds = time.perf_counter() - began
    with database.reading() as session:
        search = Store(session).searches.named("ray")
        refused = [job for job in Store(session).jobs.of_search(search.id) if job.user_error]
    if search.state is not SearchState.FAILED or len(refused) != number:
        raise RuntimeError(f"{len(refused)} jobs were refused, and the search is {search.state}: {search.reason}")
    scheduler.stop()
    database.close()
    return seconds


def _tune(number: int, folder: Path, *, imports: bool) -> float:
    from ray import tune

    def nothing(config: dict[str, Any]) -> dict[str, float]:
        if imports:
            import workers.tasks  # noqa: F401
        return {"loss": 1.0}

    tuner = tune.Tuner(
        tune.with_resources(nothing, {"cpu": 1}),
        param_space={"number": tune.grid_search(list(range(number)))},
        tune_config=tune.TuneConfig(reuse_actors=False),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    began = time.perf_counter()
    results = tuner.fit()
    seconds = time.perf_counter() - began
    if len(results) != number or results.num_errors:
        raise RuntimeError(f"{len(results)} trials, {results.num_errors} of them with errors")
    return seconds


if __name__ == "__main__":
    main()
