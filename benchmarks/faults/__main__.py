"""Is anything lost when anything dies? `python -m benchmarks.faults --rounds 100`

Searches run on the real service: `topiary serve` over a PostgreSQL server and a Ray of two nodes, with artifacts on a
small disk. In every round, at a random moment, one part is broken: the HTTP server, the scheduler, a worker or a raylet
is killed with signal 9, PostgreSQL crashes and comes back after seconds, or the disk is full for seconds. At the end
every search must have finished, with everything on record once and the result of a search that nothing disturbed, to
the last bit.

`tokens_repeated` are tokens trained again, in ratio to those that these searches train when nothing disturbs them. With
a checkpoint after every step, an attempt that is cut off repeats the step that it was at and, if the checkpoint of the
one before was not whole yet, that one too. A search has 2,000 steps and meets ten to twenty faults, half of which cut
off an attempt: at most 20 steps, so the limit is 1 %. `blamed` are attempts that count against their job, although all
that befell them was ours.
"""

import argparse
import json
import platform
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random

from api.store.database import Database
from benchmarks.faults.audit import Record, audit, read
from benchmarks.faults.faults import FAULTS
from benchmarks.faults.repeated import repeated_tokens
from benchmarks.faults.rounds import Played, Script, kinds_of_rounds, play
from benchmarks.faults.stage import Stage, staged
from benchmarks.faults.work import Work, make_spec, run_undisturbed
from nas.spec import SearchSpec

NODES = 2
DISK_BYTES = 2**30
LIMITS = {"lost": 0, "duplicated": 0, "differing": 0, "blamed": 0, "tokens_repeated": 0.01}

tell = partial(print, flush=True)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # In order: there is a disk to unmount, a server to stop.
    asked = _arguments()
    random = Random(asked.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="topiary-faults-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL's server runs as a user of its own where we are root.
        spec = make_spec(folder)
        undisturbed = _undisturbed(spec, folder / "undisturbed")
        with staged(folder, num_nodes=NODES, disk_bytes=DISK_BYTES) as stage:
            kinds = _possible(asked.kinds, stage)
            script = Script(kinds_of_rounds(asked.rounds, kinds, random), random)
            work = Work(stage, spec)
            played = play(stage, work, script, tell)
            figures = _figures(stage, work, spec, undisturbed, played)
    _report(figures, played, asked.rounds, time.monotonic() - began)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="how many faults to make (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of what is broken, and when (default: 0)")
    parser.add_argument("--kinds", nargs="+", choices=FAULTS, default=list(FAULTS), help="what to break (default: all)")
    return parser.parse_args()


def _undisturbed(spec: SearchSpec, into: Path) -> Record:
    began = time.monotonic()
    database = Database(run_undisturbed(spec, into))
    record = read(database, spec.name)
    database.close()
    if record is None:
        raise RuntimeError(f"{into} holds no search {spec.name}")
    tell(f"undisturbed: {len(record.jobs)} jobs, {record.view.tokens_total:,} tokens, {time.monotonic() - began:.0f} s")
    return record


def _possible(kinds: list[str], stage: Stage) -> list[str]:
    if stage.no_disk is not None and "disk" in kinds:
        tell(f"no disk is made full, for no small one can be mounted here: {stage.no_disk}")
        return [kind for kind in kinds if kind != "disk"]
    return kinds


def _figures(stage: Stage, work: Work, spec: SearchSpec, undisturbed: Record, played: Played) -> dict[str, float]:
    """What came of the searches; tells all that is wrong with them."""
    found = audit(stage, work.names, undisturbed)
    for lines in found.wrong.values():
        for line in lines:
            tell(line)
    num_jobs = len({attempt.job_id for attempt in found.attempts})
    tell(f"{num_jobs} jobs in {len(found.attempts)} attempts, {len(stage.reader.told)} events; of the attempts")
    ended = Counter(f"{attempt.state}: {_without_numbers(attempt.reason)}" for attempt in found.attempts)
    for how, number in ended.most_common():
        tell(f"{number:6} {how}")
    repeated = repeated_tokens(found.attempts, spec)
    return {
        "faults": played.made.total(),
        **{check: len(lines) for check, lines in found.wrong.items()},
        "tokens_repeated": round(repeated / max(len(work.names) * undisturbed.view.tokens_total, 1), 5),
        "searches": len(work.names),
        "disk_bytes": stage.disk.used_bytes,
    }


def _without_numbers(reason: str | None) -> str:
    return re.sub(r"/\S+", "PATH", re.sub(r"\d+", "N", reason or ""))[:100]


def _report(figures: dict[str, float], played: Played, rounds: int, seconds: float) -> None:
    for kind, number in played.made.items():
        print(f"{kind:<16}{number:8} faults")
    for name, value in figures.items():
        print(f"{name:<16}{value:12,.5g}")
    print(f"{seconds / 60:.1f} minutes; Python {platform.python_version()}, Ray {version('ray')}")
    targets: dict[str, list[object]] = {name: ["<=", limit] for name, limit in LIMITS.items()}
    targets["faults"] = [">=", rounds]
    holds = played.hang is None and figures["faults"] >= rounds
    holds = holds and all(figures[name] <= limit for name, limit in LIMITS.items())
    figures = {**figures, "seconds": round(seconds)}
    print(json.dumps({"benchmark": "faults", "figures": figures, "targets": targets, "holds": holds}))


if __name__ == "__main__":
    main()
