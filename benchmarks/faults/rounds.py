"""One fault after another, each at a random moment, and the service found well again after each."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from api.services.viewing import view
from benchmarks.faults.faults import FAULTS
from benchmarks.faults.stage import Hang, Look, Stage, wait_for
from benchmarks.faults.work import Work
from nas.errors import StoreError

RECOVERY_SECONDS = 180
"""Ample: what takes longest by itself is a scheduler's successor, that waits for a lease of ten seconds."""

_LOG_LINES = 15


@dataclass(frozen=True)
class Script:
    """What to break in every round, after a pause of random length, in seconds."""

    kinds: Sequence[str]
    random: Random
    longest_pause: float = 5.0


@dataclass
class Played:
    """What came of the rounds. `hang` is what was waited for in vain, if anything was; no round follows that."""

    made: Counter[str] = field(default_factory=Counter)
    hang: str | None = None


def kinds_of_rounds(num_rounds: int, kinds: Sequence[str], random: Random) -> list[str]:
    """In random order, and each about as often as any other."""
    chosen: list[str] = []
    while kinds and len(chosen) < num_rounds:
        chosen += random.sample(kinds, len(kinds))
    return chosen[:num_rounds]


def play(stage: Stage, work: Work, script: Script, tell: Callable[[str], None]) -> Played:
    """Makes the faults, then lets all searches end; tells what happens as it does."""
    played = Played()
    began = time.monotonic()
    try:
        for number, kind in enumerate(script.kinds, start=1):
            told = _round(stage, work, kind, script)
            played.made[kind] += 1
            left = (time.monotonic() - began) / number * (len(script.kinds) - number)
            tell(f"{number:4} of {len(script.kinds)}  {kind:<11}{told}; about {left / 60:.0f} min left")
        tell(f"{len(work.names)} searches; the last ones end")
        last = _let_all_end(stage)
        wait_for(lambda: last in stage.reader.told or None, RECOVERY_SECONDS, "the reader is told of the last event")
    except Hang as hang:
        played.hang = str(hang)
        tell(f"HANG  {hang}\n{diagnosis(stage, work)}")
    return played


def _round(stage: Stage, work: Work, kind: str, script: Script) -> str:
    """One fault, and all of what it broke mended; returns what it was."""
    deadline = time.monotonic() + script.random.uniform(0, script.longest_pause)
    while time.monotonic() < deadline:
        work.top_up()
        time.sleep(max(0.0, min(0.5, deadline - time.monotonic())))
    wait_for(lambda: _is_busy(stage, work), RECOVERY_SECONDS, "there is a worker")
    made = FAULTS[kind](stage, script.random)
    broken = time.monotonic()
    before = wait_for(stage.look, RECOVERY_SECONDS, "the store answers")
    wait_for(lambda: made.is_over() or None, RECOVERY_SECONDS, f"{kind}: {made.told} is noticed")
    wait_for(lambda: stage.is_well() or None, RECOVERY_SECONDS, f"{kind}: {made.told}: the service is well again")
    work.top_up()  # There must be something that can go on.
    wait_for(lambda: _goes_on(stage, before), RECOVERY_SECONDS, f"{kind}: {made.told}: work goes on")
    return f"{made.told}; well after {time.monotonic() - broken:.1f} s"


def _is_busy(stage: Stage, work: Work) -> bool | None:
    """Whether there is something to disturb."""
    work.top_up()
    return bool(stage.workers()) or None


def _goes_on(stage: Stage, before: Look) -> bool | None:
    """Whether the scheduler has recorded anything since."""
    seen = stage.look()
    return (seen is not None and seen.last_of_job > before.last_of_job) or None


def _let_all_end(stage: Stage) -> int:
    """The last event of all, once no search runs."""
    seen = wait_for(stage.look, RECOVERY_SECONDS, "the store answers")
    while seen.num_running:
        seen = wait_for(partial(_later, stage, seen), RECOVERY_SECONDS, "the last searches go on")
    return seen.last_event


def _later(stage: Stage, before: Look) -> Look | None:
    seen = stage.look()
    return seen if seen is not None and seen.last_event > before.last_event else None


def diagnosis(stage: Stage, work: Work) -> str:
    """The state of everything, for whoever is to find out why nothing goes on."""
    lines = [f"well: {stage.is_well()}"]
    lines += [f"{name}: {stage.child(name)}" for name in ("http", "scheduler")]
    lines += [f"worker: {each.process} below raylet {each.raylet}" for each in stage.workers()]
    lines += [f"nodes: {stage.cluster.raylets}"]
    try:
        with stage.database.reading() as session:
            for name in work.names:
                lines += [f"{name}: {job}" for job in view(session, name).jobs]
    except StoreError as error:
        lines.append(str(error))
    for attempt in seen.live if (seen := stage.look()) else []:
        lines.append(f"live: {attempt}: {_files(Path(attempt.folder))}")
    tail = stage.log.read_text().splitlines()[-_LOG_LINES:]
    return "\n".join([*lines, "the end of the service's log:", *tail])


def _files(folder: Path) -> str:
    """What an attempt has written, and how long ago."""
    now = time.time()
    ages = {file.name: now - file.stat().st_mtime for file in sorted(folder.glob("*"))}
    return ", ".join(f"{name} {age:.0f} s" for name, age in ages.items()) or "nothing"
