"""Every environment variable that Topiary reads, typed, read once."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from nas.addresses import is_url

DEFAULT_PORT = 8460


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the service and the command need to know of their surroundings.

    runs_folder   TOPIARY_RUNS         where SQLite has its database, and jobs their folders; `runs` by default
    database_url  TOPIARY_DATABASE     an SQLAlchemy URL of SQLite or PostgreSQL; topiary.db in `runs_folder` by default
    artifacts_url TOPIARY_ARTIFACTS    where jobs have their folders instead: a path, or the URL of a store
    ray_address   TOPIARY_RAY_ADDRESS  a running Ray cluster; by default the scheduler starts a Ray of its own
    server_url    TOPIARY_URL          where the client finds the service

    Workers, and whoever reads from a store, look for TOPIARY_SCRATCH themselves: a folder on their own node's disk.
    """

    runs_folder: Path = Path("runs")
    database_url: str = ""
    artifacts_url: str = ""
    ray_address: str | None = None
    server_url: str = f"http://127.0.0.1:{DEFAULT_PORT}"

    @classmethod
    def from_environment(cls) -> "Settings":
        given = {
            "runs_folder": os.environ.get("TOPIARY_RUNS"),
            "database_url": os.environ.get("TOPIARY_DATABASE"),
            "artifacts_url": os.environ.get("TOPIARY_ARTIFACTS"),
            "ray_address": os.environ.get("TOPIARY_RAY_ADDRESS"),
            "server_url": os.environ.get("TOPIARY_URL"),
        }
        return cls().replaced(**given)

    def replaced(self, **given: "str | Path | None") -> "Settings":
        """These settings with whatever is given, and not empty, in place of their own."""
        changed = {name: value for name, value in given.items() if value}
        if "runs_folder" in changed:
            changed["runs_folder"] = Path(changed["runs_folder"])
        return dataclasses.replace(self, **changed)  # type: ignore[arg-type]

    @property
    def environment(self) -> dict[str, str]:
        """What a child process reads these settings from."""
        return {
            "TOPIARY_RUNS": str(self.runs_folder),
            "TOPIARY_DATABASE": self.database,
            "TOPIARY_ARTIFACTS": self.artifacts,
            "TOPIARY_RAY_ADDRESS": self.ray_address or "",
        }

    @property
    def artifacts(self) -> str:
        """The root of all artifacts: the URL of a store, or an absolute path."""
        given = self.artifacts_url.removeprefix("file://")
        return given.rstrip("/") if is_url(given) else str(Path(given or self.runs_folder).resolve())

    @property
    def database(self) -> str:
        """The database's URL; the run folder's own SQLite file where none is given."""
        return self.database_url or f"sqlite:///{self.runs_folder.resolve() / 'topiary.db'}"
