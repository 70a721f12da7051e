"""Every environment variable that Topiary reads, typed, read once."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`runs_folder` (TOPIARY_RUNS): where searches keep their database and artifacts; `runs` by default."""

    runs_folder: Path = Path("runs")

    @classmethod
    def from_environment(cls) -> "Settings":
        found = os.environ.get("TOPIARY_RUNS")
        return cls(runs_folder=Path(found)) if found else cls()
