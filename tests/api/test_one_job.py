"""What commands with jobs of their own do before the jobs and after them; the jobs are looked at in the commands."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from api.one_job import checked_teacher, move
from nas.errors import DataError, FolderError
from tests.conftest import tiny_spec


def make_file(path: Path, content: str) -> None:
    path.write_text(content)


def make_folder(path: Path, content: str) -> None:
    path.mkdir()
    (path / "weights").write_text(content)


def content_of(path: Path) -> str:
    return (path / "weights" if path.is_dir() else path).read_text()


MAKERS = [make_file, make_folder]


@pytest.mark.parametrize("make", MAKERS)
def test_what_was_made_is_moved_to_its_place(make: Callable[[Path, str], None], tmp_path: Path) -> None:
    make(tmp_path / "made", "student")
    move(tmp_path / "made", tmp_path / "place")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert content_of(tmp_path / "place") == "student"


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("make_other", MAKERS)
def test_what_has_appeared_in_its_place_stays_and_what_was_made_is_kept_beside(
    make: Callable[[Path, str], None], make_other: Callable[[Path, str], None], tmp_path: Path
) -> None:
    (tmp_path / ".jobs").mkdir()
    make(tmp_path / ".jobs" / "made", "student")
    make_other(tmp_path / "place", "another's")
    with pytest.raises(FolderError) as caught:
        move(tmp_path / ".jobs" / "made", tmp_path / "place")
    kept = tmp_path / f"place.kept-{os.getpid()}"
    assert (caught.value.field, caught.value.value) == ("--into", str(tmp_path / "place"))
    assert caught.value.problem.startswith("cannot be written (")
    assert caught.value.problem.endswith(f"); what was to be there is kept as {kept}")
    assert (content_of(tmp_path / "place"), content_of(kept)) == ("another's", "student")
    assert list((tmp_path / ".jobs").iterdir()) == []


def test_questions_are_all_looked_at_before_any_job(teacher_folder: Path, text_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    legal = '{"question": "a", "choices": ["b", "c"], "answer": 1}\n'
    spec = tiny_spec(teacher_folder, text_file, calibration={"depth": "accuracy", "questions": str(path)})
    path.write_text(legal * 3)
    assert checked_teacher(spec).path == teacher_folder
    path.write_text(legal * 3 + "{}\n")
    with pytest.raises(DataError, match=r"line 4 is not a question"):
        checked_teacher(spec)
