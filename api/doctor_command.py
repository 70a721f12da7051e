"""`topiary doctor`: says of everything that the service rests on whether it is fit for use."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from api.display import FILE_WIDTH
from api.doctor import Finding, Verdict, findings
from api.exit_codes import FAILURE, SUCCESS
from api.settings import Settings

_STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "bold red"}


def doctor(parsed: argparse.Namespace) -> int:
    settings = Settings.from_environment().replaced(
        runs_folder=parsed.runs,
        database_url=parsed.database,
        artifacts_url=parsed.artifacts,
        ray_address=parsed.ray_address,
    )
    found = findings(settings)
    told = list(found) if parsed.json else list(_printed(found))
    if parsed.json:
        print(json.dumps([dataclasses.asdict(each) for each in told]))
    return FAILURE if any(each.verdict is Verdict.PROBLEM for each in told) else SUCCESS


def _printed(found: Iterator[Finding]) -> Iterator[Finding]:
    """The same, each printed as it comes: some take seconds."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
    for finding in found:
        console.print(line(finding), soft_wrap=True)
        yield finding


def line(finding: Finding) -> Text:
    """`warning  runs       /topiary/runs: 8.20 GB free of 252 GB. Free some, …`."""
    verdict = (f"{finding.verdict:<9}", _STYLES[finding.verdict])
    told = f"{finding.found.removesuffix('.')}. {finding.advice}" if finding.advice else finding.found
    return Text.assemble(verdict, f"{finding.check:<11}{told}")
