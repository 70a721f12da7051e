"""WorkerPool on Ray: one detached, named actor for each attempt. The only file that knows Ray.

The actor is a shell: a thread of it runs the attempt as a local child process would, and what it writes into the
attempt's folder is what counts. So the attempt depends on nobody who asks about it and outlives the scheduler.
"""

import logging
import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.durable import write_text
from nas.errors import ServiceError, SettingError
from nas.jobs import Assignment, Failure, Resources, Update
from workers.attempt import AttemptFolder
from workers.placement import Share, fits, share_of
from workers.run_attempt import run, threads_environment

# Both are read when Ray is imported: that it reports to nobody, and that a token given is one to use.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
if os.environ.get("RAY_AUTH_TOKEN"):
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray._private.state import available_resources_per_node
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)
from ray.job_config import JobConfig

_CONNECT_SECONDS = 5.0


class _Shell:
    """What runs on a Ray worker. Its methods return at once, also while the attempt computes in its thread."""

    def __init__(self, assignment: str, num_gpus: float) -> None:
        attempt = AttemptFolder(Assignment.model_validate_json(assignment))
        os.environ.update(threads_environment(attempt.assignment.resources.cpus))
        if num_gpus == 0:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from an actor that asked for none.
        _print_into(attempt.path / "log.txt")
        self._reader = AttemptFolder(attempt.assignment)
        self._node = ray.get_runtime_context().get_node_id()
        threading.Thread(target=_run_or_die, args=(attempt,), daemon=True).start()

    def news(self, num_received: int) -> tuple[str, Update]:
        """The node that this runs on, and what is new to a pool that has received so many measurements."""
        self._reader.num_received = num_received
        assignment = self._reader.assignment
        nothing = Update(job_id=assignment.job_id, attempt=assignment.attempt)
        return self._node, self._reader.news() or nothing


def _run_or_die(attempt: AttemptFolder) -> None:
    try:
        run(attempt)
    finally:
        if not attempt.has_outcome:
            os._exit(1)  # An actor that lives on without its work would be waited for without end.


def _print_into(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)


_ACTOR: Any = ray.remote(_Shell)


@dataclass
class _Live:
    """An attempt with an actor. `node` is empty until the actor has first answered."""

    folder: AttemptFolder
    actor: Any
    node: str = ""
    question: Any = None

    @property
    def key(self) -> tuple[int, int]:
        return self.folder.assignment.job_id, self.folder.assignment.attempt


class RayPool:
    """Runs attempts on a Ray cluster, or on an embedded Ray that ends with this process.

    `address` is None for an embedded Ray of `num_cpus` cores, all by default; else "auto" or the host:port of a running
    cluster, whose nodes must see the same files and have Topiary installed. All attempts whose actors stand in
    `namespace` are taken for this pool's: two services on one cluster need two. A process has one Ray: where it is
    connected already, the pool joins that and leaves it open.

    Raises SettingError for an address of another form, ServiceError where no Ray answers.
    """

    def __init__(self, address: str | None, namespace: str, num_cpus: int | None = None) -> None:
        self._namespace = namespace
        self._embedded = address is None
        self._live: list[_Live] = []
        self._adopted: list[AttemptFolder] = []
        self._opened = not ray.is_initialized()
        if self._opened:
            _connect(address, namespace, num_cpus)

    def has_room(self, wanted: Resources, claimed: Sequence[Resources]) -> bool:
        """Whether a node has the cores and GPUs free now; what others occupy on the cluster counts.

        A job larger than every node gets the largest, as placement.share_of says.
        """
        nodes = _nodes()
        shares = [share_of(resources, list(nodes.values())) for resources in (*claimed, wanted)]
        free = dict(nodes)
        waiting = []
        for live in self._live:
            share = share_of(live.folder.assignment.resources, list(nodes.values()))
            if live.node in free:
                free[live.node] = free[live.node].minus(share)
            else:
                waiting.append(share)
        if not self._embedded:  # Ray's own count lags a little, so what we know to be taken is taken in any case.
            available = _available()
            now = {node: _share(available.get(node, {})) for node in free}
            free = {
                node: Share(min(share.cpus, now[node].cpus), min(share.gpus, now[node].gpus))
                for node, share in free.items()
            }
        return fits([*waiting, *shares], list(free.values()))

    def submit(self, assignment: Assignment) -> None:
        folder = Path(assignment.folder)
        folder.mkdir(parents=True)  # Never one that is there: what another attempt left must not pass for this one's.
        write_text(folder / "assignment.json", assignment.model_dump_json())
        share = share_of(assignment.resources, list(_nodes().values()))
        try:
            # Its name is taken once this returns, whether or not the actor runs yet.
            actor = _ACTOR.options(
                name=_name(assignment.job_id, assignment.attempt),
                namespace=self._namespace,
                lifetime="detached",
                max_restarts=0,
                num_cpus=share.cpus,
                num_gpus=share.gpus,
                enable_task_events=False,
            ).remote(assignment.model_dump_json(), share.gpus)
        except (RayError, ValueError) as error:
            raise OSError(f"Ray did not take it: {_one_line(error)}") from error
        self._live.append(_Live(AttemptFolder(assignment), actor))

    def adopt(self, assignment: Assignment) -> None:
        actor = self._find(_name(assignment.job_id, assignment.attempt))
        if actor is None:
            self._adopted.append(AttemptFolder(assignment))
        else:
            self._live.append(_Live(AttemptFolder(assignment), actor))

    def poll(self) -> list[Update]:
        gone = Failure(reason="its worker is no longer there", lost=True)
        updates = [folder.outcome_or(gone) for folder in self._adopted]
        self._adopted = []
        for live in self._live:
            if live.question is None:
                live.question = live.actor.news.remote(live.folder.num_received)
        answered = self._answered()
        for live in list(self._live):
            if live.question not in answered:
                continue  # The actor is starting, or stopped, or out of reach: no sign of life.
            update = self._answer(live)
            if update is not None:
                updates.append(update)
        return updates

    def _answered(self) -> set[Any]:
        questions = [live.question for live in self._live]
        return set(ray.wait(questions, num_returns=len(questions), timeout=0)[0]) if questions else set()

    def _answer(self, live: _Live) -> Update | None:
        question, live.question = live.question, None
        try:
            answer: tuple[str, Update] = ray.get(question)
        except ActorUnavailableError:
            return None  # It may come back; asked again at the next poll.
        except RayError as error:
            self._end(live)
            return live.folder.outcome_or(_failure(error, live.node))
        live.node, update = answer
        live.folder.num_received += len(update.measurements)
        if update.result is not None or update.failure is not None:
            self._end(live)  # Its cores are free once it is gone.
        return update

    def cancel(self, job_id: int, attempt: int) -> None:
        self._adopted = [
            folder
            for folder in self._adopted
            if (folder.assignment.job_id, folder.assignment.attempt) != (job_id, attempt)
        ]
        known = [live for live in self._live if live.key == (job_id, attempt)]
        for live in known:
            self._end(live)
        if not known and (actor := self._find(_name(job_id, attempt))) is not None:
            ray.kill(actor)

    def keep_only(self, current: Collection[tuple[int, int]]) -> None:
        wanted = {_name(*key) for key in current}
        for named in ray.util.list_named_actors(all_namespaces=True):
            ours = named["namespace"] == self._namespace and _NAME.fullmatch(named["name"])
            if ours and named["name"] not in wanted and (actor := self._find(named["name"])) is not None:
                ray.kill(actor)
        self._live = [live for live in self._live if live.key in current]

    def release(self) -> None:
        """The actors of a cluster go on; nobody else could find those of an embedded Ray."""
        if self._embedded and self._opened:
            for live in self._live:
                ray.kill(live.actor)
        self._live = []
        self._adopted = []

    def close(self) -> None:
        self.release()
        if self._opened:
            self._opened = False
            ray.shutdown()

    def _end(self, live: _Live) -> None:
        self._live.remove(live)
        ray.kill(live.actor)

    def _find(self, name: str) -> Any:
        try:
            return ray.get_actor(name, namespace=self._namespace)
        except ValueError:  # Ray's way to say that there is none.
            return None


_NAME = re.compile(r"attempt-\d{6,}-\d+")


def _name(job_id: int, attempt: int) -> str:
    return f"attempt-{job_id:06d}-{attempt}"


# Ray has types for neither.
_listed: Callable[[], list[dict[str, Any]]] = ray.nodes
_available: Callable[[], dict[str, dict[str, float]]] = available_resources_per_node


def _nodes() -> dict[str, Share]:
    """What every node has when it is empty."""
    return {node["NodeID"]: _share(node["Resources"]) for node in _listed() if node["Alive"]}


def _share(resources: dict[str, float]) -> Share:
    return Share(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def _failure(error: RayError, node: str) -> Failure:
    """Why the actor is gone: a process that died counts against the job, a node or Ray itself that did does not."""
    reason = f"its worker died: {_one_line(error)}"
    if isinstance(error, RayTaskError | OutOfMemoryError | RuntimeEnvSetupError | ActorUnschedulableError):
        return Failure(reason=reason)  # The next attempt may well end so too.
    if not isinstance(error, RayActorError) or error.preempted or "node has died" in str(error):
        return Failure(reason=reason, lost=True)
    return Failure(reason=reason, lost=bool(node) and node not in _nodes())


def _one_line(error: Exception) -> str:
    """The sentence of Ray's message that says what happened, without the table before it and the advice after it."""
    if "Worker unexpectedly exits" in str(error):
        return "its process ended without a word: it was killed, or the machine ran out of memory"
    told = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    told = told.split(" Some common causes")[0].strip().removeprefix("The actor is dead because ")
    return told if len(told) <= 300 else told[:297] + "..."


def _connect(address: str | None, namespace: str, num_cpus: int | None) -> None:
    if address is None:
        place: dict[str, Any] = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
        if not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
            # A token for this process and its workers only; Ray would leave one in the user's home.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    else:
        place = {"address": address}
        _check_form(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None:
            _check_listening(address)
        ray.init(
            **place,
            namespace=namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # As for a job from elsewhere: the folder that the command is run from is not on the workers' import path.
            job_config=JobConfig(_client_job=True),
        )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        where = "Ray cannot be started here" if address is None else f"the Ray cluster at {address} cannot be reached"
        hint = "; its token is needed as RAY_AUTH_TOKEN" if "AuthToken" in str(error.__cause__) else ""
        raise ServiceError(f"{where}: {_one_line(error)}{hint}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray puts its own there; how to end is not for a pool to say.


def _check_form(address: str) -> None:
    if address != "auto" and not re.fullmatch(r"[^\s/]+:\d+", address):
        raise SettingError("TOPIARY_RAY_ADDRESS", address, "is no address of a Ray cluster", "auto, or host:port")


def _check_listening(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would try for a quarter of an hour before it gave up."""
    host, _, port = (canonicalize_bootstrap_address(address) or address).rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
