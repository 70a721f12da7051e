"""Makes the record: `python -m benchmarks.search_record`

Retrains 24 candidates of the demo's teacher, which differ in layers, hidden size, heads and neurons, with three seeds
over 131,072 tokens each, as the demo's trials are, and keeps the loss of every validation sequence at every
measurement. It takes the better part of an hour of two cores, one run on each, behind all that runs beside. A run that
has ended is a file below runs/benchmarks/search_record: a program that is started again goes on from there.
"""

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.demo_runs import Demo
from benchmarks.search_record.kept import FILE, Kept, KeptRun, together, write
from benchmarks.search_record.making import RUNS, SEEDS, file_of, prepare, run
from nas.architecture import sizes_of
from nas.cost import CostModel
from nas.space import SearchSpace

SPACE = SearchSpace.model_validate(
    {
        "num_hidden_layers": [8, 7, 6, 5, 4],
        "hidden_size": [192, 180, 168, 156],
        "intermediate_size": list(range(512, 191, -32)),
        "num_attention_heads": [6, 4],
    }
)
"""With the demo's budget, 24 candidates fit."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: %(default)s")
    processes: int = parser.parse_args().processes
    RUNS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        candidates = Demo(Path(folder)).candidates(SPACE)
    runs = [(candidate, seed) for seed in SEEDS for candidate in candidates]
    missing = [(candidate, seed) for candidate, seed in runs if not file_of(candidate, seed).exists()]
    began = time.monotonic()
    with ProcessPoolExecutor(processes, get_context("spawn"), prepare) as pool:
        ending = [pool.submit(run, candidate, seed) for candidate, seed in missing]
        for done, ended in enumerate(as_completed(ending), start=1):
            left = (time.monotonic() - began) / done * (len(missing) - done) / 60
            print(
                f"{len(runs) - len(missing) + done} of {len(runs)} runs: {ended.result()}; {left:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
    tokens_M, losses_CSMQ, kl_CSM = together(
        [[KeptRun.read(file_of(candidate, seed)) for seed in SEEDS] for candidate in candidates]
    )
    parameters = [CostModel(each).parameters("non_embedding").at(sizes_of(each)) for each in candidates]
    write(Kept(tuple(candidates), np.array(parameters), SEEDS, tokens_M, losses_CSMQ, kl_CSM))
    print(f"{FILE}: losses {losses_CSMQ.shape}, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
