"""A Ray cluster on one machine: a head without CPUs, and worker nodes of one CPU each that come and go.

`python -m benchmarks.faults.cluster FOLDER NODES` runs it in a process of its own, for a process has one Ray. It prints
a line of JSON when it is ready, and in answer to every line of its standard input, a command; it ends with its input.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_OBJECT_STORE_BYTES = 80 * 2**20
_NOTICED = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""A dead node is noticed after some seconds, where Ray's own settings take some fifteen."""


class RayCluster:
    """The process that the cluster runs in, from `start` to `stop`; `wait_until_ready` comes between."""

    def __init__(self, log: Path, num_nodes: int) -> None:
        self._log = log
        self._num_nodes = num_nodes
        # A short name: the paths of Ray's sockets below it may have 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))
        self._process: subprocess.Popen[str] | None = None
        # Without a token, whoever reaches the head could run what they like; the service joins with the same one.
        self.environment = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_MODE": "token"}
        self.address = ""
        self.raylets: list[int] = []
        """The process ids of the worker nodes' raylets."""

    def start(self) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with self._log.open("a") as log:
            command = [sys.executable, "-m", "benchmarks.faults.cluster", str(self._folder), str(self._num_nodes)]
            self._process = subprocess.Popen(
                command, stderr=log, start_new_session=True, env={**os.environ, **self.environment}, **pipes
            )

    def wait_until_ready(self) -> None:
        self.address, self.raylets = self._answer()

    def add_node(self) -> None:
        """Returns once it takes work."""
        self.raylets.append(int(self._ask("add")))

    def forget_node(self, raylet: int) -> None:
        """Clears away what a dead raylet has left."""
        self.raylets.remove(raylet)
        self._ask(f"forget {raylet}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, command: str) -> Any:
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the Ray cluster is not running")
        print(command, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline() if self._process and self._process.stdout else ""
        if not line:
            raise RuntimeError(f"the Ray cluster's process ended: {self._log.read_text()[-2000:]}")
        return json.loads(line)


def main(folder: str, num_nodes: int) -> None:
    """Answers commands until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What Ray prints is no answer.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, "_system_config": _NOTICED}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": _OBJECT_STORE_BYTES})

    def added() -> int:
        return _raylet(cluster.add_node(num_cpus=1, object_store_memory=_OBJECT_STORE_BYTES))

    def tell(answer: object) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    tell([cluster.address, [added() for _ in range(num_nodes)]])
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "add":
            tell(added())
        else:
            node = next(each for each in cluster.worker_nodes if _raylet(each) == int(arguments[0]))
            cluster.remove_node(node, allow_graceful=False)
            tell(len(cluster.worker_nodes))
    cluster.shutdown()


def _raylet(node: Any) -> int:
    """The process id of a node's raylet; Ray has no public name for it."""
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
