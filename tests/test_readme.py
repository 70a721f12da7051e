"""What the README shows must run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from nas.spec_file import parse_spec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return str(found)


def test_the_library_example_builds_a_student(tmp_path: Path) -> None:
    for name in ("examples", "nas"):
        (tmp_path / name).symlink_to(ROOT / name)
    program = block("python") + "\nprint(student.num_parameters(), teacher.family.count(shape))\n"
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    built, promised = map(int, ran.stdout.split())
    assert built == promised == 2_484_672


def test_the_example_spec_is_a_spec() -> None:
    spec = parse_spec(yaml.safe_load(block("yaml")), relative_to=Path("/"))
    assert spec.trial.num_steps(spec.data.sequence_length) == 400
