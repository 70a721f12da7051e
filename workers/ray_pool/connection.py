"""From this process to its Ray: connecting, and noticing that the other end is gone."""

import logging
import os
import re
import secrets
import signal
import socket
import threading
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import RayError
from ray.job_config import JobConfig

from nas.errors import ServiceError, SettingError
from workers.ray_pool.shell import one_line

_ANSWER_SECONDS = 5.0
_worker: Any = ray._private.worker.global_worker


def connect(address: str | None, namespace: str, num_cpus: int | None) -> None:
    """Makes this process a driver of the cluster at `address`, or of a Ray of its own.

    Raises SettingError for an address of another form, ServiceError where no Ray answers.
    """
    if address is None:
        place: dict[str, Any] = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
        if not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
            # A token for this process and its workers only; Ray would leave one in the user's home.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    else:
        place = {"address": address}
        check_form(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None:
            _check_listening(canonicalize_bootstrap_address(address) or address)
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
        raise ServiceError(f"{where}: {one_line(error)}{hint}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray puts its own there; how to end is not for a pool to say.


def check_form(address: str) -> None:
    """Raises SettingError for what is no address of a cluster."""
    if address != "auto" and not re.fullmatch(r"[^\s/]+:\d+", address):
        raise SettingError("TOPIARY_RAY_ADDRESS", address, "is no address of a Ray cluster", "auto, or host:port")


def check_answers() -> None:
    """Raises ServiceError once the head that this process connected to is gone, also where a new one is in its place.

    Ray itself would wait for a minute, and then end the process; with a new head, it would crash or wait without end.
    """
    context = ray.get_runtime_context()
    problem = None
    try:
        _check_listening(context.gcs_address)
        # Of the head it is asked whether this node is alive; a new head refuses to answer.
        (alive,) = _worker.gcs_client.check_alive([ray.NodeID.from_hex(context.get_node_id())], _ANSWER_SECONDS)
        problem = None if alive else "this node is no longer part of it"
    except (OSError, RayError) as error:
        problem = one_line(error)
    if problem is not None:
        raise ServiceError(f"the Ray cluster at {context.gcs_address} is lost: {problem}")


def _check_listening(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would try for a quarter of an hour before it gave up."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
