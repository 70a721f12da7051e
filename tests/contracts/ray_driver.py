"""A scheduler's process in miniature: `ray_driver.py ADDRESS (submit | adopt | close) ASSIGNMENT`.

ADDRESS is of a cluster, or "embedded". Prints a line of JSON for every update; ends after the outcome, or with a
sentence about a cluster that is lost. `close` submits, and closes the pool as soon as the worker shows life.
"""

import sys
import time
from pathlib import Path

from nas.errors import ServiceError
from nas.pool import Assignment
from workers.ray_pool import RayPool


def main(address: str, what: str, file: str) -> None:
    assignment = Assignment.model_validate_json(Path(file).read_text())
    pool = RayPool(None if address == "embedded" else address, "driver", num_cpus=1)
    (pool.adopt if what == "adopt" else pool.submit)(assignment)
    ended = False
    while not ended:
        time.sleep(0.05)
        try:
            updates = pool.poll()
        except ServiceError as error:
            print(error, flush=True)
            break
        for update in updates:
            print(update.model_dump_json(), flush=True)
            ended = update.result is not None or update.failure is not None or what == "close"
    pool.release()
    pool.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
