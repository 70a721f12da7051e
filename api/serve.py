"""`topiary serve`: one command that keeps the HTTP server and the scheduler running.

It holds the listening socket itself, so an HTTP server that has to be started again loses no connection that waits.
Both children end when this process does, however it ends: they read a pipe that closes with it.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from api.exit_codes import BAD_INPUT
from api.run_folder import check_numbering, exclusive
from api.settings import Settings
from api.store.database import Database
from nas.errors import SettingError

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""As the guard of requests knows them."""

_LOOK_SECONDS = 0.1
_FIRST_PAUSE, _LONGEST_PAUSE, _STEADY_SECONDS = 0.2, 30.0, 60.0
_GRACE_SECONDS = 15


def serve(settings: Settings, host: str, port: int, ready: Callable[[str], None]) -> int:
    """Runs the service until it is interrupted; `ready` gets its address. Returns an exit code.

    Raises SettingError for an address that is not this machine's own, or in use, and FolderError for runs that
    another service holds, or artifacts without their database.
    """
    check_loopback(host)
    database = Database(settings.database)
    with _held(settings.runs_folder.resolve(), settings.artifacts, database), listening(host, port) as listener:
        if database.is_sqlite:
            database.migrate()
        else:
            database.check_version()
        database.close()
        http = _Child("the HTTP server", ["http", "--fd", str(listener.fileno())], (listener.fileno(),))
        scheduler = _Child("the scheduler", ["scheduler", *(["--alone"] if database.is_sqlite else [])])
        return _supervise([http, scheduler], settings.environment, lambda: ready(address_of(listener)))


@contextmanager
def _held(runs: Path, artifacts: str, database: Database) -> Iterator[None]:
    """The folder of runs; with SQLite, which has its file there, for this service alone."""
    if not database.is_sqlite:
        runs.mkdir(parents=True, exist_ok=True)
        yield
        return
    with ExitStack() as held:
        # Both: one service for each folder of runs, and, since it takes the scheduler's lease at once, for each file.
        for folder, option in {database.sqlite_file.parent: "--database", runs: "--runs"}.items():
            held.enter_context(exclusive(folder, option=option, accepted="a folder that no other service or run uses"))
        check_numbering(runs, database.sqlite_file, option="--runs")
        check_numbering(artifacts, database.sqlite_file, option="--artifacts")
        yield


def check_loopback(host: str) -> None:
    """Raises SettingError for a host that other machines could reach: there are no keys yet."""
    if host not in _LOOPBACK:
        problem = "is not this machine's own address, and without keys anyone who can reach it could use it"
        raise SettingError("--host", host, problem, " or ".join(_LOOPBACK))


@dataclass
class _Child:
    """A process that is started again whenever it ends."""

    name: str
    arguments: list[str]
    pass_fds: tuple[int, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    pause: float = _FIRST_PAUSE
    due: float = field(default_factory=time.monotonic)

    def look_after(self, environment: Mapping[str, str]) -> int | None:
        """Starts it if it is due; returns the exit code of one that has just ended."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.due:
                self._start(environment)
            return None
        code = self.process.poll()
        if code is not None:
            self.process = None
            self.pause = _FIRST_PAUSE if now - self.started > _STEADY_SECONDS else min(2 * self.pause, _LONGEST_PAUSE)
            self.due = now + self.pause
        return code

    def _start(self, environment: Mapping[str, str]) -> None:
        # -P: packages of the user's, in the folder the command is run from, are not to be imported.
        command = [sys.executable, "-P", "-m", "api.cli", *self.arguments, "--with-parent"]
        # A session of its own: Ctrl-C is for the parent, which then ends its children in order.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            pass_fds=self.pass_fds,
            start_new_session=True,
            env={**os.environ, **environment},  # Not options: the database's password is nobody else's business.
        )
        self.started = time.monotonic()

    def end(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        if self.process is not None:
            try:
                self.process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _supervise(children: list[_Child], environment: Mapping[str, str], ready: Callable[[], None]) -> int:
    try:
        for child in children:
            child.look_after(environment)
        ready()
        while True:
            for child in children:
                code = child.look_after(environment)
                if code == BAD_INPUT:
                    return BAD_INPUT  # It has said why, and would end so again.
                if code is not None:
                    print(f"topiary: {child.name} ended ({_how(code)}) and is started again", file=sys.stderr)
            time.sleep(_LOOK_SECONDS)
    finally:
        for child in children:
            child.end()
        for child in children:
            child.wait()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; port 0 is any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "there is no such port"
            raise SettingError("--port", port, f"cannot be used ({reason})", "a free port, or 0 for any") from error
        listener.listen(256)
        yield listener


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
