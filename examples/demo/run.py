"""`scripts/demo`: writes the demo's text, runs its search through the service, and says what came of it."""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from api.cli import guarded
from api.client_commands import watch_to_end
from api.display import report
from examples.demo.corpus import PACKAGES, Module, modules, versions
from nas.client import Client
from nas.durable import write_text
from nas.errors import FolderError
from nas.spec_file import read_spec
from nas.states import SearchState
from nas.views import SearchView

SPEC = Path(__file__).with_name("search.yaml")
RUNS = Path(__file__).parents[2] / "runs"
TRAINING_CHARACTERS, VALIDATION_CHARACTERS, EXCERPT = 1_000_000, 120_000, 3_000


def main() -> int:
    """Returns the exit code of the search."""
    arguments = _arguments()
    started = time.monotonic()
    spec = read_spec(SPEC)
    into = arguments.into or RUNS / f"demo-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    print(f"Searching for a compact model with half of the demo teacher's parameters; artifacts in {into}")
    print(f"`scripts/demo --into {into}` goes on with it if it is interrupted", flush=True)
    write_corpus(Path(spec.data.train or ""), Path(spec.data.validation or ""))
    with service(into, arguments.port) as client:
        print(f"Watch it at {client.url}/searches/{spec.name}", flush=True)
        client.submit(spec)
        view = watch_to_end(client, spec.name)
        seconds = time.monotonic() - started
        code = report(view, to=sys.stdout)
        if arguments.json is not None and view.state is SearchState.FINISHED:
            arguments.json.write_text(json.dumps(demo_summary(view, seconds), indent=2) + "\n")
        if arguments.keep_serving:
            print(f"The page stays at {client.url}/searches/{spec.name}; Ctrl-C ends it", flush=True)
            wait_for_interrupt()
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--into", type=Path, help="the folder of an earlier demo to go on with (default: a new one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a summary to FILE")
    parser.add_argument("--port", type=int, default=0, help="of the page (default: any free one)")
    parser.add_argument("--keep-serving", action="store_true", help="leave the page up when the search has ended")
    arguments = parser.parse_args()
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise FolderError(
            "--json", str(arguments.json), "is in no folder that exists", "a file in a folder that exists"
        )
    return arguments


@contextmanager
def service(runs: Path, port: int) -> Iterator[Client]:
    """`topiary serve` over a folder of its own, for as long as the block runs; a client of it that is ready."""
    command = [sys.executable, "-P", "-m", "api.cli", "serve", "--runs", str(runs), "--port", str(port)]
    # A session of its own: Ctrl-C is for the demo, which then ends the service in order. However the demo ends, the
    # service finds its standard input closed.
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--with-parent"], start_new_session=True, **pipes) as process:
        try:
            # It has said what is wrong, and so says no address.
            address = re.search(r"http://\S+", process.stdout.readline() if process.stdout else "")
            if address is None:
                sys.exit(process.wait())
            with Client(address[0]) as client:
                client.wait_until_ready()
                yield client
        finally:
            process.terminate()
            process.wait()


def wait_for_interrupt() -> None:
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def write_corpus(train: Path, validation: Path) -> None:
    """The fixed part of the teacher's corpus that the demo needs, from packages of pinned versions only.

    Several demos may write it at once: the content is the same, and each file appears whole.
    """
    installed, made_of = json.dumps(versions(PACKAGES)), train.with_name("versions.json")
    if made_of.exists() and made_of.read_text() == installed:
        return
    corpus = modules(PACKAGES)
    # Validation takes the beginning of each module, so that a few thousand tokens come from many of them.
    excerpts = [replace(module, text=module.text[:EXCERPT]) for module in corpus if module.in_validation]
    for path, parts, limit in (
        (train, [module for module in corpus if not module.in_validation], TRAINING_CHARACTERS),
        (validation, excerpts, VALIDATION_CHARACTERS),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = (module.text for module in _first(parts, limit))
        write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in texts))
    write_text(made_of, installed)


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
            "loss_as_exported": promotion.exported_loss,
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
    sys.exit(guarded(main, again="`--into` with the same folder goes on from the newest checkpoints"))
