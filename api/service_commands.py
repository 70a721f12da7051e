"""The commands that are the service, or do without one."""

import argparse
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from sqlalchemy import make_url

from api.display import FILE_WIDTH, SearchDisplay, report
from api.enumeration_display import enumeration
from api.run import run_search
from api.serve import address_of, check_loopback, listening
from api.serve import serve as supervise
from api.services.submission import enumerate_spec
from api.settings import Settings
from api.store.database import Database
from nas.spec import SearchSpec
from nas.spec_file import read_spec
from nas.views import SearchView
from workers.parent import end_with_parent


def serve(parsed: argparse.Namespace) -> int:
    settings = _settings(parsed)
    if parsed.with_parent:
        end_with_parent()

    def ready(address: str) -> None:
        print(f"Topiary serves {address} (REST under /v1, described at /docs); Ctrl-C ends it")
        print(f"runs in {settings.runs_folder.resolve()}", flush=True)
        if settings.artifacts_url:
            print(f"artifacts in {settings.artifacts}", flush=True)

    try:
        return supervise(settings, parsed.host, parsed.port, ready)
    except KeyboardInterrupt:  # The way in which a server ends.
        print("ended; the same command goes on with every search from its newest checkpoints")
        return 0


def http(parsed: argparse.Namespace) -> int:
    from api.app import Server, create_app  # Here: the other commands need no web.

    if parsed.with_parent:
        end_with_parent()
    # The server ends in order on this one, and knows nothing of a terminal that hangs up.
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    settings = _settings(parsed)
    server = Server(create_app(settings), host=parsed.host, port=parsed.port)
    with suppress(KeyboardInterrupt):  # It ends in order, then tells the signal on.
        if parsed.fd is not None:
            server.run(sockets=[socket.socket(fileno=parsed.fd)])
            return 0
        check_loopback(parsed.host)
        database = Database(settings.database)
        database.check_version()
        database.close()
        with listening(parsed.host, parsed.port) as listener:
            print(f"HTTP server at {address_of(listener)}; Ctrl-C ends it", flush=True)
            server.run(sockets=[listener])
    return 0


def scheduler(parsed: argparse.Namespace) -> int:
    from api.scheduling import run_scheduler

    if parsed.with_parent:
        end_with_parent()
    run_scheduler(_settings(parsed), alone=parsed.alone)
    return 0


def migrate(parsed: argparse.Namespace) -> int:
    settings = _settings(parsed)
    settings.runs_folder.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database)
    shown = make_url(database.url).render_as_string()
    if parsed.down:
        database.step_down()
        print(f"{shown} is one version older; `topiary migrate` brings it up to date again")
    else:
        database.migrate()
        print(f"{shown} is up to date")
    database.close()
    return 0


def run(parsed: argparse.Namespace) -> int:
    spec = read_spec(parsed.spec)
    into = parsed.into or Settings.from_environment().runs_folder / spec.name
    view = run_to_end(spec, into)
    if parsed.json:
        print(view.model_dump_json())
    to = sys.stderr if parsed.json else sys.stdout
    return report(view, to=to, next_step="with more `spending` in its spec, the same command goes on")


def run_to_end(spec: SearchSpec, into: Path) -> SearchView:
    """Runs a search under a live display."""
    with SearchDisplay() as display:
        return run_search(spec, into, display.update)


def enumerate_(parsed: argparse.Namespace) -> int:
    spec = read_spec(parsed.spec)
    found = enumerate_spec(spec, limit=parsed.limit, offset=parsed.offset)
    if parsed.json:
        print(found.model_dump_json())
    else:
        console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
        console.print(enumeration(found, spec, console.width))
    return 0


def _settings(parsed: argparse.Namespace) -> Settings:
    """The environment's, with the command's options in their place."""
    return Settings.from_environment().replaced(
        runs_folder=parsed.runs,
        database_url=parsed.database,
        artifacts_url=getattr(parsed, "artifacts", None),
        ray_address=getattr(parsed, "ray_address", None),
    )
