"""What nas.hub makes of a teacher, asked in a process of its own: the Hub's client reads its variables once."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from nas.errors import TopiaryError
from nas.hub import config_folder, inspect_teacher, weights_folder
from nas.model_folder import ModelFolder, inspect_config_folder, inspect_model_folder

ROOT = Path(__file__).resolve().parents[2]


def told(folder: ModelFolder) -> dict[str, Any]:
    """All of a ModelFolder as JSON would have it, with its files counted from its path."""
    content = {**asdict(folder), "architecture": folder.architecture.model_dump(), "path": ""}
    content["files"] = {name: str(file.relative_to(folder.path)) for name, file in folder.files.items()}
    return dict(json.loads(json.dumps(content)))


QUESTIONS: dict[str, Callable[[str], object]] = {
    "inspect": lambda teacher: told(inspect_teacher(teacher)),
    "inspect twice": lambda teacher: [told(inspect_teacher(teacher)) for _ in range(2)],
    "inspect for enumeration": lambda teacher: told(inspect_teacher(teacher, whole=False)),
    "config folder": lambda teacher: str(config_folder(teacher)),
    "inspect the config folder": lambda teacher: told(inspect_config_folder(config_folder(teacher))),
    "weights folder": lambda teacher: str(weights_folder(teacher)),
    "inspect the weights folder": lambda teacher: told(inspect_model_folder(weights_folder(teacher))),
}


def environment_of(endpoint: str, home: Path, **variables: str) -> dict[str, str]:
    """This process's environment, with these variables as the only ones of the Hub's client."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {**others, "NO_PROXY": "127.0.0.1", "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **variables}


def ask(question: str, teacher: str, environment: dict[str, str]) -> Any:
    """The answer to one of QUESTIONS. Raises nothing: an error of ours is answered as `{"KIND": "its message"}`.

    Nothing else may be printed, warnings and progress bars neither.
    """
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    print(json.dumps([question, teacher, environment]), file=server.stdin, flush=True)
    returncode, out, err = json.loads(server.stdout.readline())
    assert (returncode, err) == (0, "")
    return json.loads(out)


@cache
def _server() -> "subprocess.Popen[str]":
    """A process that has loaded everything but the Hub's client, and forks another for each question."""
    command = [sys.executable, "-W", "error", "-m", "tests.nas.hub_client"]
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # What has threads should not fork.
    server = subprocess.Popen(command, cwd=ROOT, env=alone, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # The end of its input is its own.
    return server


def _serve() -> None:
    """Answers lines of question, teacher and environment with a line of exit code, standard output and error."""
    assert "huggingface_hub" not in sys.modules
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            child = os.fork()
            if child == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                _answer(*json.loads(line))
                return
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(json.dumps([status, *(file.seek(0) or file.read() for file in (out, err))]), flush=True)


def _answer(question: str, teacher: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    try:
        answer = QUESTIONS[question](teacher)
    except TopiaryError as error:
        answer = {type(error).__name__: str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _serve()
