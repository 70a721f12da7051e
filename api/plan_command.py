"""`topiary plan`: what a search would take with each strategy, reckoned here or by a service."""

import argparse
import sys

from rich.console import Console

from api.client_commands import connected
from api.display import FILE_WIDTH
from api.plan_display import plan as shown
from api.services.planning import plan_search
from nas.spec_file import read_spec


def plan(parsed: argparse.Namespace) -> int:
    """Asks the service only where one is named: a spec alone will do, but a service knows what its devices achieve."""
    spec = read_spec(parsed.spec)
    if parsed.server is None:
        found = plan_search(spec, devices=parsed.devices)
    else:
        with connected(parsed) as client:
            found = client.plan(spec, devices=parsed.devices)
    if parsed.json:
        print(found.model_dump_json())
    else:
        console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
        console.print(shown(found, spec), highlight=False)
    return 0
