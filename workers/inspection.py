"""What this machine and a Ray cluster have to compute with, asked of processes of their own.

So whoever asks loads neither torch nor Ray, and survives a driver that crashes or does not answer.
"""

import subprocess
import sys
from typing import TypeVar

from nas.border import Border
from nas.errors import ServiceError


class Device(Border):
    """`kind` is cuda, mps or cpu; of the CPU, `memory_bytes` is the machine's."""

    kind: str
    name: str
    memory_bytes: int


class Machine(Border):
    """Its devices, which of them jobs compute on, and in what: the dtype that `auto` stands for there."""

    torch_version: str
    devices: tuple[Device, ...]
    used: str
    auto_dtype: str


class Node(Border):
    """`accelerators` are the types of its GPUs, as Ray names them."""

    cpus: float
    gpus: float
    accelerators: tuple[str, ...] = ()


class Cluster(Border):
    ray_version: str
    nodes: tuple[Node, ...]


Report = TypeVar("Report", bound=Border)


class NoAnswer(ServiceError):
    """It took too long, which on a busy machine need not mean anything."""


def inspect_machine(seconds: float) -> Machine:
    """Raises ServiceError where torch cannot be loaded, or does not answer within so many seconds."""
    return _told(Machine, ["workers.machine_report"], seconds)


def inspect_cluster(address: str | None, seconds: float) -> Cluster:
    """Of the cluster at an address, or of a Ray that is started for this and ended again.

    Raises ServiceError where no Ray answers within so many seconds.
    """
    return _told(Cluster, ["workers.ray_pool.report", *([] if address is None else [address])], seconds)


def _told(report: type[Report], module: list[str], seconds: float) -> Report:
    command = [sys.executable, "-P", "-m", *module]
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"it did not answer within {seconds:.0f} s") from error
    if ended.returncode != 0:
        said = ended.stderr.strip().splitlines()
        raise ServiceError(said[-1] if said else f"its process ended with exit code {ended.returncode}")
    return report.model_validate_json(ended.stdout.strip().splitlines()[-1])
