"""What the README shows must run as it stands there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
import yaml

from nas.spec_file import parse_spec
from tests.api.rest.answers import export
from tests.api.serving import Service, serving

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


CLIENT, LIBRARY = blocks("python")


def test_the_library_example_builds_a_student(tmp_path: Path) -> None:
    for name in ("examples", "nas"):
        (tmp_path / name).symlink_to(ROOT / name)
    program = LIBRARY + "\nprint(student.num_parameters(), teacher.family.count(shape))\n"
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    built, promised = map(int, ran.stdout.split())
    assert built == promised == 2_484_672


def test_the_example_spec_is_a_spec() -> None:
    example, taught = (yaml.safe_load(block) for block in blocks("yaml"))
    spec = parse_spec(example, relative_to=Path("/"))
    assert spec.trial.num_steps(spec.data.sequence_length) == 400
    assert parse_spec({**example, **taught}, relative_to=Path("/")).trial.targets == "sampled"


def test_the_client_example_takes_a_search_to_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the real HTTP server; the jobs end at once instead of being worked on."""
    (tmp_path / "text.txt").write_text("some text")
    content = yaml.safe_load((ROOT / "examples" / "demo" / "search.yaml").read_text())
    content |= {"teacher": str(ROOT / "examples" / "demo" / "teacher")}
    content["data"] = {"train": "text.txt", "sequence_length": 128}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, export) as service, stepping(service):
        monkeypatch.setenv("TOPIARY_URL", service.url)
        exec(CLIENT, {})
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith("finished ")
    assert (tmp_path / "model" / "config.json").exists()


@contextmanager
def stepping(service: Service) -> Iterator[None]:
    """A scheduler that takes steps while the block runs."""
    ended = Event()

    def run() -> None:
        while not ended.wait(0.05):
            service.scheduler.step()

    thread = Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
