"""Whether what the service rests on is there and fit for use: every check says what it found, and what to do about it.

No check waits for another, none waits for ever, and none changes anything: a service may run beside them.
"""

import fcntl
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import false, make_url, text, update
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from api import words
from api.scheduler import LEASE, utc_now
from api.settings import Settings
from api.store.database import VERSION_TABLE, Database, alembic_config
from api.store.store import Store
from api.store.tables import LeaseRow
from nas.addresses import is_url
from nas.errors import ServiceError, SettingError, StoreError
from workers.artifacts import check as check_store
from workers.inspection import Cluster, Device, Machine, NoAnswer, inspect_cluster, inspect_machine

LITTLE_BYTES, LEAST_BYTES = 10e9, 1e9
"""Of free space: below the first it is told, below the second nothing can be expected to work."""

_SECONDS = 60.0
"""How long torch or Ray may take to load, from a slow disk too."""


_AGAIN = "Try again: a machine that is busy takes its time."


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """`advice` is what to do about it, in one sentence; none where all is well."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """`examine` is given up after `seconds`."""

    name: str
    examine: Callable[[Settings], list[Finding]]
    seconds: float


def findings(settings: Settings, checks: Sequence[Check] | None = None) -> Iterator[Finding]:
    """All checks at once; what they found, in their order, each as soon as it and those before it are there."""
    began = time.monotonic()
    running = [(check, _begun(check, settings)) for check in checks or CHECKS]
    for check, future in running:
        try:
            yield from future.result(timeout=max(0.0, began + check.seconds - time.monotonic()))
        except TimeoutError:
            found = f"no answer within {check.seconds:g} s"
            yield Finding(check.name, Verdict.PROBLEM, found, "Look for what keeps it waiting, and run this again.")


def _begun(check: Check, settings: Settings) -> "Future[list[Finding]]":
    """In a thread that may be left behind: what hangs must not keep the program from ending."""
    future: Future[list[Finding]] = Future()

    def run() -> None:
        try:
            future.set_result(check.examine(settings))
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


# --- the database -------------------------------------------------------------------------------------------


def database(settings: Settings) -> list[Finding]:
    """Whether it is there and can be written, its tables, and whether a scheduler acts on it."""
    try:
        store = Database(_soon_refused(settings.database))
    except SettingError as error:
        return [Finding("database", Verdict.PROBLEM, str(error), "Correct TOPIARY_DATABASE.")]
    if store.is_sqlite and not store.sqlite_file.exists():
        found, advice = f"there is no {store.sqlite_file} yet", "`topiary serve` makes it, or `topiary migrate`."
        return [Finding("database", Verdict.WARNING, found, advice)]
    try:
        with store.reading() as session:
            reached = f"{_kind(session, store)}, can be read"
            tables = _tables(session, store)
        if tables.verdict is not Verdict.OK:
            return [Finding("database", Verdict.OK, reached), tables]
        with store.transaction() as session:  # Of no row, but the database says whether it would be allowed.
            session.execute(update(LeaseRow).where(false()).values(term=LeaseRow.term))
        with store.reading() as session:
            scheduler = _scheduler(session)
    except StoreError as error:
        advice = "Start the server, or correct TOPIARY_DATABASE." if not store.is_sqlite else _SQLITE_ADVICE
        return [Finding("database", Verdict.PROBLEM, " ".join(str(error).split()), advice)]
    finally:
        store.close()
    return [Finding("database", Verdict.OK, f"{reached} and written"), tables, scheduler]


_SQLITE_ADVICE = "Give this user the right to write the file and its folder, or name another file."


def _soon_refused(url: str) -> str:
    """A server that does not answer is given up by the driver itself."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return url  # Who opens it says what is wrong with it.
    if not parsed.drivername.startswith("postgres"):
        return url
    return parsed.update_query_dict({"connect_timeout": "5"}).render_as_string(hide_password=False)


def _kind(session: Session, store: Database) -> str:
    if store.is_sqlite:
        return f"SQLite, {store.sqlite_file}"
    url, version = make_url(store.url), session.scalar(text("SHOW server_version"))
    return f"PostgreSQL {version}, {url.database} at {url.host or 'this machine'}"


def _tables(session: Session, store: Database) -> Finding:
    """Whether their version is the one that this program needs."""
    connection = session.connection()
    script = ScriptDirectory.from_config(alembic_config(connection))
    needed = script.get_current_head()
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if found == needed:
        return Finding("tables", Verdict.OK, f"version {found}, up to date")
    if found is not None and found not in [each.revision for each in script.walk_revisions()]:
        advice = "Use the version of Topiary that made them, or a newer one."
        return Finding("tables", Verdict.PROBLEM, f"version {found}, newer than this program's {needed}", advice)
    told = f"version {found or 'none'}, and this program needs {needed}"
    if store.is_sqlite:
        return Finding("tables", Verdict.WARNING, told, "`topiary serve` brings them up to date, or `topiary migrate`.")
    return Finding("tables", Verdict.PROBLEM, told, "Run `topiary migrate` with the same database.")


def _scheduler(session: Session) -> Finding:
    until = Store(session).leases.until(LEASE)
    if until > utc_now():
        return Finding("scheduler", Verdict.OK, "one acts on this database")
    return Finding("scheduler", Verdict.OK, "none acts on this database now")


# --- where artifacts go -------------------------------------------------------------------------------------


def runs(settings: Settings) -> list[Finding]:
    """Whether the folder of runs can be written, how much it can still hold, and whether a service has it."""
    folder = settings.runs_folder.resolve()
    found = _folder("runs", folder)
    if _is_held(folder / "lock"):
        found = replace(found, found=f"{found.found}; a service that runs here has it")
    return [found]


def artifacts(settings: Settings) -> list[Finding]:
    """Whether jobs can have their folders where they are to be: a file is written there, read back and removed."""
    root = settings.artifacts
    if root == str(settings.runs_folder.resolve()):
        return [Finding("artifacts", Verdict.OK, "with the runs")]
    try:
        check_store(root)
    except SettingError as error:
        advice = "Correct TOPIARY_ARTIFACTS, or the credentials that the environment has for its driver."
        return [Finding("artifacts", Verdict.PROBLEM, " ".join(str(error).split()), advice)]
    if not is_url(root):
        return [_folder("artifacts", Path(root))]
    return [Finding("artifacts", Verdict.OK, f"{root}: a file was written, read back and removed")]


def _folder(name: str, folder: Path) -> Finding:
    """Whether it is, or could be made, and be written; a file without a name shows that."""
    place = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
        usage = shutil.disk_usage(place)
    except OSError as error:
        advice = f"Give this user the right to, or set TOPIARY_{name.upper()} to another folder."
        return Finding(name, Verdict.PROBLEM, f"{place} cannot be written ({error.strerror})", advice)
    told = f"{folder}{'' if place == folder else ', which is not there yet'}"
    return free_space(name, told, usage.free, usage.total)


def free_space(name: str, told: str, free_bytes: float, total_bytes: float) -> Finding:
    """Whether there is enough of it for a folder that is told of."""
    found = f"{told}: {words.size(free_bytes, 'B')} free of {words.size(total_bytes, 'B')}"
    if free_bytes >= LITTLE_BYTES:
        return Finding(name, Verdict.OK, found)
    advice = f"Free some, or set TOPIARY_{name.upper()}: a trial keeps 16 bytes for each parameter while it runs."
    return Finding(name, Verdict.WARNING if free_bytes >= LEAST_BYTES else Verdict.PROBLEM, found, advice)


def _is_held(lock: Path) -> bool:
    """Whether a service or a run holds the lock of its folder; shared, so that nobody who wants it is kept out."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


# --- what computes ------------------------------------------------------------------------------------------


def devices(settings: Settings) -> list[Finding]:
    """What torch finds on this machine, and what `dtype: auto` comes to there."""
    try:
        machine = inspect_machine(_SECONDS)
    except ServiceError as error:
        advice = _AGAIN if isinstance(error, NoAnswer) else "Install Topiary anew, with a torch for this machine."
        return [Finding("devices", Verdict.PROBLEM, f"torch cannot be used: {error}", advice)]
    return [used(machine), dtype(machine)]


def used(machine: Machine) -> Finding:
    """Which of its devices there are, and whether jobs use them."""
    told = f"torch {machine.torch_version}: " + "; ".join(_device(each) for each in machine.devices)
    unused = {each.kind for each in machine.devices} - {machine.used, "cpu"}
    if not unused:
        return Finding("devices", Verdict.OK, told)
    advice = "Nothing can be done: Topiary computes on NVIDIA GPUs and CPUs only."
    return Finding("devices", Verdict.WARNING, f"{told}; jobs compute on the {machine.used}", advice)


def _device(device: Device) -> str:
    return f"{device.kind} ({device.name}, {words.size(device.memory_bytes, 'B')})"


def dtype(machine: Machine) -> Finding:
    """Whether products are computed in bfloat16."""
    if machine.auto_dtype == "bfloat16":
        return Finding("dtype", Verdict.OK, f"bfloat16 is native on the {machine.used}: `auto` means that")
    found = f"bfloat16 is not native on the {machine.used}: `auto` means {machine.auto_dtype}"
    advice = "Leave `resources.dtype` at auto: bfloat16 would be emulated, and slow."
    return Finding("dtype", Verdict.WARNING, found, advice)


def ray(settings: Settings) -> list[Finding]:
    """The cluster at the address that is given; else whether a Ray starts here."""
    try:
        cluster = inspect_cluster(settings.ray_address, _SECONDS)
    except ServiceError as error:
        start = "Start it with `ray start --head`, or correct TOPIARY_RAY_ADDRESS."
        advice = "Install Topiary anew, or set TOPIARY_RAY_ADDRESS." if settings.ray_address is None else start
        advice = _AGAIN if isinstance(error, NoAnswer) else advice
        return [Finding("ray", Verdict.PROBLEM, str(error), advice)]
    place = "one of its own starts here" if settings.ray_address is None else settings.ray_address
    return [Finding("ray", Verdict.OK, f"Ray {cluster.ray_version}, {place}: {_held(cluster)}")]


def _held(cluster: Cluster) -> str:
    """`2 nodes, 16 CPUs, 8 GPUs (A100)`."""
    cpus, gpus = (sum(getattr(node, kind) for node in cluster.nodes) for kind in ("cpus", "gpus"))
    types = ", ".join(sorted({name for node in cluster.nodes for name in node.accelerators}))
    nodes = f"{len(cluster.nodes)} node{'' if len(cluster.nodes) == 1 else 's'}"
    return f"{nodes}, {cpus:g} CPUs, {gpus:g} GPUs{f' ({types})' if types else ''}"


CHECKS = (
    Check("database", database, 15),
    Check("runs", runs, 10),
    Check("artifacts", artifacts, 30),
    Check("devices", devices, _SECONDS + 5),
    Check("ray", ray, _SECONDS + 5),
)
