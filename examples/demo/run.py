"""`scripts/demo`: writes the demo's text, runs its search, and says what came of it."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from api.cli import FAILURE, INTERRUPTED, report, run_to_end
from examples.demo.corpus import PACKAGES, Module, modules
from nas.errors import UserError
from nas.spec_file import read_spec
from nas.views import SearchView

SPEC = Path(__file__).with_name("search.yaml")
TRAINING_CHARACTERS, VALIDATION_CHARACTERS = 3_000_000, 200_000


def main() -> int:
    """Returns the exit code, and prints how to go on after an interruption."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--into", type=Path, help="the folder of an earlier demo to go on with (default: a new one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a summary to FILE")
    arguments = parser.parse_args()
    started = time.monotonic()
    spec = read_spec(SPEC)
    into = arguments.into or Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    print(f"Searching for a compact model with half of the demo teacher's parameters; artifacts in {into}")
    try:
        write_text(Path(spec.data.train), Path(spec.data.validation or ""))
        view = run_to_end(spec, into)
    except KeyboardInterrupt:
        print(f"Interrupted. `scripts/demo --into {into}` goes on where it was.", file=sys.stderr)
        return INTERRUPTED
    except UserError as error:
        print(f"scripts/demo: {error}", file=sys.stderr)
        return FAILURE
    seconds = time.monotonic() - started
    code = report(view, seconds)
    if arguments.json is not None and view.state == "finished":
        arguments.json.write_text(json.dumps(demo_summary(view, seconds), indent=2) + "\n")
    return code


def write_text(train: Path, validation: Path) -> None:
    """The fixed part of the teacher's corpus that the demo needs, from packages of pinned versions only.

    Several demos may write it at once: the content is the same, and each file appears whole.
    """
    if train.exists() and validation.exists():
        return
    corpus = modules(PACKAGES)
    for path, parts, limit in (
        (train, [module for module in corpus if not module.in_validation], TRAINING_CHARACTERS),
        (validation, [module for module in corpus if module.in_validation], VALIDATION_CHARACTERS),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        with partial.open("w", encoding="utf-8") as out:
            for module in _first(parts, limit):
                out.write(json.dumps({"text": module.text, "module": f"{module.package}/{module.name}"}) + "\n")
        partial.replace(path)


def demo_summary(view: SearchView, seconds: float) -> dict[str, object]:
    """What a program wants to know of a finished demo."""
    promotion = view.promotions[0]
    winner = next(row for row in view.leaderboard if row.candidate_id == promotion.candidate_id)
    return {
        "export": promotion.folder,
        "candidates": [row.model_dump(mode="json") for row in view.leaderboard],
        "winner": {
            "architecture": winner.architecture.model_dump(),
            "parameters": promotion.parameters,
            "loss_after_pruning": winner.loss_after_pruning,
            "loss_after_trial": winner.loss,
            "loss_after_promotion": promotion.curve[-1].loss,
        },
        "teacher_loss": view.teacher_loss,
        "seconds": round(seconds, 1),
    }


def _first(parts: list[Module], characters: int) -> list[Module]:
    """Modules from the front for as long as they stay within so many characters."""
    chosen, total = [], 0
    for module in parts:
        total += len(module.text)
        if total > characters:
            break
        chosen.append(module)
    return chosen


if __name__ == "__main__":
    sys.exit(main())
