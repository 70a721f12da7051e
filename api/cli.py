"""The `topiary` command."""

import argparse
import importlib.metadata
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TextIO

from rich.console import Console

from api.display import SearchDisplay, candidates, leaderboard, summary
from api.run import run_search
from api.services.submission import enumerate_spec
from api.settings import Settings
from nas.errors import TopiaryError, UserError
from nas.spec import SearchSpec
from nas.spec_file import read_spec
from nas.views import SearchView

_FILE_WIDTH = 160
"""Where output goes to a file there is no width to keep to, only lines not to break."""

SUCCESS, FAILURE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parsed = _parser().parse_args(arguments)
    return guarded(lambda: parsed.command(parsed))


def guarded(command: Callable[[], int]) -> int:
    """The command's exit code, with bad input and interruption turned into a sentence and a code of their own."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return command()
    except UserError as error:
        for each in (error, *error.also):
            print(f"topiary: {each}", file=sys.stderr)
        return BAD_INPUT
    except (TopiaryError, OSError) as error:
        print(f"topiary: {error}; once that is mended, the same command goes on where it was", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        print("topiary: interrupted; the same command goes on from the newest checkpoints", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="topiary", description="Cuts compact language models out of a large one.")
    parser.add_argument("--version", action="version", version=importlib.metadata.version("topiary-nas"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a whole search on this machine, or go on with it")
    run.add_argument("spec", type=Path, metavar="SPEC", help="a YAML or JSON file")
    run.add_argument(
        "--into", type=Path, help="folder for the database and all artifacts (default: NAME below TOPIARY_RUNS or runs)"
    )
    run.add_argument("--json", action="store_true", help="print the finished search as JSON")
    run.set_defaults(command=_run)
    enumerate_ = commands.add_parser("enumerate", help="list a spec's candidates with their costs; starts nothing")
    enumerate_.add_argument("spec", type=Path, metavar="SPEC", help="a YAML or JSON file")
    enumerate_.add_argument("--json", action="store_true", help="print them as JSON")
    enumerate_.set_defaults(command=_enumerate)
    return parser


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(parsed: argparse.Namespace) -> int:
    spec = read_spec(parsed.spec)
    into = parsed.into or Settings.from_environment().runs_folder / spec.name
    started = time.monotonic()
    view = run_to_end(spec, into)
    if parsed.json:
        print(view.model_dump_json())
    return report(view, time.monotonic() - started, to=sys.stderr if parsed.json else sys.stdout)


def run_to_end(spec: SearchSpec, into: Path) -> SearchView:
    """Runs a search under a live display."""
    with SearchDisplay() as display:
        return run_search(spec, into, display.update)


def report(view: SearchView, seconds: float, *, to: TextIO) -> int:
    """Prints how a search ended; returns the exit code that says so."""
    console = Console(file=to, width=None if to.isatty() else _FILE_WIDTH)
    console.print(leaderboard(view))
    if view.state == "failed":
        print(f"topiary: the search failed: {view.reason}", file=sys.stderr)
        return BAD_INPUT if view.user_error else FAILURE
    console.print(summary(view, seconds), highlight=False)
    for promotion in view.promotions:
        console.print(f"model           {promotion.folder}", highlight=False)
    return SUCCESS


def _enumerate(parsed: argparse.Namespace) -> int:
    found = enumerate_spec(read_spec(parsed.spec))
    if parsed.json:
        print(found.model_dump_json())
    else:
        Console(width=None if sys.stdout.isatty() else _FILE_WIDTH).print(candidates(found))
    return SUCCESS


if __name__ == "__main__":
    sys.exit(main())
