"""`topiary retention`: what ended searches do not need any more, told and removed."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from api import words
from api.exit_codes import SUCCESS
from api.retention import Removal, planned, remove
from api.scheduler import utc_now
from api.settings import Settings
from api.store.database import Database

DAYS = 7


def retention(parsed: argparse.Namespace) -> int:
    """Works on the database and the artifacts themselves: it needs no service, and gets along with one."""
    settings = Settings.from_environment().replaced(
        runs_folder=parsed.runs, database_url=parsed.database, artifacts_url=parsed.artifacts
    )
    database = Database(settings.database)
    database.check_version()
    try:
        older_than = timedelta(days=parsed.older_than)
        removals = planned(database, settings.artifacts, utc_now(), older_than=older_than, only=parsed.search)
        if not parsed.dry_run:
            removals = remove(database, removals)
    finally:
        database.close()
    print(_as_json(removals, dry_run=parsed.dry_run) if parsed.json else _told(removals, dry_run=parsed.dry_run))
    return SUCCESS


def _told(removals: Sequence[Removal], *, dry_run: bool) -> str:
    """A line for each, and their sum."""
    lines = [f"{words.size(each.bytes, 'B'):>8}  {each.address}  ({each.why})" for each in removals]
    total = words.size(sum(each.bytes for each in removals), "B")
    said = "would be removed" if dry_run else "removed"
    return "\n".join([*lines, f"{total:>8}  {said}, in {len(removals)} files and folders"])


def _as_json(removals: Sequence[Removal], *, dry_run: bool) -> str:
    total = sum(each.bytes for each in removals)
    return json.dumps({"dry_run": dry_run, "bytes": total, "removals": [asdict(each) for each in removals]})
