"""The commands that ask a running service."""

import argparse
import json
import sys
from collections.abc import Sequence

from pydantic import BaseModel, TypeAdapter
from rich.console import Console, Group, RenderableType
from rich.text import Text

from api import display, words
from api.display import FILE_WIDTH, SearchDisplay
from api.settings import Settings
from nas.client import Client
from nas.constraints import parse_constraint
from nas.errors import NotFoundError
from nas.spec_file import read_spec
from nas.views import SearchView


def submit(parsed: argparse.Namespace) -> int:
    spec = read_spec(parsed.spec)  # Here, so that its paths count from its own folder.
    with connected(parsed) as client:
        view = client.submit(spec)
        say_begun(client, view)
        if parsed.watch:
            return _watched(client, view.name, as_json=parsed.json)
    if parsed.json:
        print(view.model_dump_json())
    return 0


def searches(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        return _say(
            parsed,
            found := client.searches(archived=parsed.archived),
            display.searches(found, archived=parsed.archived),
        )


def watch(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        return _watched(client, parsed.search, as_json=parsed.json)


def leaderboard(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        view = client.search(parsed.search)
        return _say(parsed, view.leaderboard, Group(display.leaderboard(view), display.promotions(view)))


def best(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        found = client.best(parsed.search, parsed.where)
    held = [parse_constraint(text, found.costs) for text in parsed.where]
    shown = [Text(f"within          {each}: {found.costs[each.cost]:,.12g}") for each in held]
    return _say(parsed, found, Group(display.best(found), *shown))


def logs(parsed: argparse.Namespace) -> int:
    """Without a job, a list of all attempts; with one, the end of the log of its newest attempt or another."""
    with connected(parsed) as client:
        attempts = client.attempts(parsed.search)
        if parsed.job is None:
            return _say(parsed, attempts, display.attempts(attempts))
        numbers = [each.number for each in attempts if each.job_id == parsed.job]
        if not numbers or parsed.attempt not in (None, *numbers):
            asked = f"{parsed.job}" if parsed.attempt is None else f"{parsed.job}, attempt {parsed.attempt},"
            raise NotFoundError(
                "--job", asked, f"is not in {parsed.search}", f"what `topiary logs {parsed.search}` lists"
            )
        number = parsed.attempt or numbers[-1]
        log = client.log(parsed.job, number)
    if parsed.json:
        print(json.dumps({"job_id": parsed.job, "attempt": number, "log": log}))
    else:
        print(log, end="")
    return 0


def export(parsed: argparse.Namespace) -> int:
    with connected(parsed) as client:
        folder = client.export(parsed.search, parsed.into)
    print(json.dumps({"folder": str(folder)}) if parsed.json else folder)
    return 0


def watch_to_end(client: Client, name: str) -> SearchView:
    """Watches a search under a live display; returns how it ended."""
    with SearchDisplay() as shown:
        for view in client.watch(name):
            shown.update(view)
    return view


def _watched(client: Client, name: str, *, as_json: bool) -> int:
    view = watch_to_end(client, name)
    if as_json:
        print(view.model_dump_json())
    return display.report(view, to=sys.stderr if as_json else sys.stdout)


def say_begun(client: Client, view: SearchView) -> None:
    """On standard error: the search, and where its page is."""
    page = f"{client.url}/searches/{view.name}"
    state = words.state(view.state, view.intent)
    print(f"{view.name}: {state}, {len(view.leaderboard)} candidates; {page}", file=sys.stderr)


def connected(parsed: argparse.Namespace) -> Client:
    """A client of the service that the command names, or its environment."""
    return Client(parsed.server or Settings.from_environment().server_url)


def _say(parsed: argparse.Namespace, found: BaseModel | Sequence[BaseModel], shown: RenderableType) -> int:
    """Prints what was found: as JSON, or as it is shown."""
    if parsed.json:
        print(TypeAdapter(type(found)).dump_json(found).decode() if isinstance(found, BaseModel) else _array(found))
    else:
        Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(shown, highlight=False)
    return 0


def _array(found: Sequence[BaseModel]) -> str:
    return "[" + ",".join(each.model_dump_json() for each in found) + "]"
