"""The command as a user meets it: one sentence for each thing that is wrong, exit code 2, nothing left behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from api.cli import main
from api.scheduler import utc_now
from api.services.submission import submit
from api.store.database import Database
from nas.spec import SearchSpec
from tests.api.instant_pool import InstantPool
from tests.api.rest.answers import export
from tests.conftest import tiny_spec

Change = Callable[[dict[str, Any], Path], None]


def at(path: str, value: object) -> Change:
    """Sets the field at a dotted path."""

    def change(spec: dict[str, Any], _: Path) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            spec = spec[parent]
        spec[last] = value

    return change


def pickle_weights(spec: dict[str, Any], folder: Path) -> None:
    teacher = folder / "pickled"
    shutil.copytree(spec["teacher"], teacher)
    (teacher / "model.safetensors").unlink()
    torch.save({}, teacher / "pytorch_model.bin")
    spec["teacher"] = str(teacher)


def larger_vocabulary(spec: dict[str, Any], folder: Path) -> None:
    teacher = folder / "vocabulary"
    shutil.copytree(spec["teacher"], teacher)
    tokenizer = json.loads((teacher / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 999, "content": "<|more|>"})
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer))
    spec["teacher"] = str(teacher)


def broken_text(spec: dict[str, Any], folder: Path) -> None:
    (folder / "broken.jsonl").write_text('{"body": "no text here"}\n')
    spec["data"]["train"] = str(folder / "broken.jsonl")


def latin_text(spec: dict[str, Any], folder: Path) -> None:
    (folder / "latin.txt").write_bytes("Gärten".encode("latin-1"))
    spec["data"]["train"] = str(folder / "latin.txt")


BAD: dict[str, tuple[Change, str]] = {
    "unknown field": (
        at("trial.lr", 1e-3),
        "trial.lr: 0.001 is not a field of a spec; accepted: an object with the fields tokens,",
    ),
    "impossible budget": (at("budget.parameters", -5), "budget.parameters: -5 should be greater than 0; accepted: a"),
    "nothing fits": (
        at("budget.parameters", 1e6),
        "budget.parameters: 1,000,000 leaves none of 8 shapes (total parameters from 860,000 to 1,140,000; "
        "nearest: 3 x 48 x 64 x 4/2 with 64,080); accepted: a target such as 64,080, a wider budget.tolerance,",
    ),
    "more heads than there are": (
        at("space.num_attention_heads", [8]),
        "space.num_attention_heads: 8 is more than the teacher's 4; accepted: sizes up to 4.",
    ),
    "missing teacher": (at("teacher", "/nowhere"), "teacher: /nowhere does not exist; accepted: a Hugging Face folder"),
    "pickle weights": (
        pickle_weights,
        "has its weights in pickle files (pytorch_model.bin); accepted: model.safetensors, or",
    ),
    "missing text": (at("data.train", "/no.jsonl"), "data.train: /no.jsonl does not exist; accepted: a .jsonl file"),
    "unreadable text": (broken_text, "broken.jsonl, line 1 has no text under 'text' (it has 'body'); accepted: one"),
    "not UTF-8": (latin_text, "latin.txt is not UTF-8 (byte 1); accepted: a .jsonl file"),
    "another vocabulary": (larger_vocabulary, "has token ids up to 999 where the model's vocab_size is 320; accepted:"),
    "too long sequences": (
        at("data.sequence_length", 65),
        "data.sequence_length: 65 is longer than the teacher's 64 positions; accepted: 2 to 64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_spec_gets_one_sentence_and_exit_code_2(
    case: str, tmp_path: Path, teacher_folder: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, sentence = BAD[case]
    spec = tiny_spec(teacher_folder, text_file).model_dump()
    change(spec, tmp_path)
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert main(["run", str(tmp_path / "spec.json"), "--into", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("topiary: ")
    assert sentence in error
    assert error.count("\n") == 1, error
    assert not (tmp_path / "run" / "jobs").exists()


def refusal_of_folder(folder: Path, spec: SearchSpec, capsys: pytest.CaptureFixture[str]) -> str:
    (folder.parent / "spec.json").write_text(spec.model_dump_json())
    assert main(["run", str(folder.parent / "spec.json"), "--into", str(folder)]) == 2
    return capsys.readouterr().err


def test_a_folder_holds_one_search(
    tmp_path: Path, teacher_folder: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    database = Database(f"sqlite:///{tmp_path / 'run' / 'topiary.db'}")
    database.migrate()
    submit(database, tiny_spec(teacher_folder, text_file, name="first"), utc_now())
    database.close()
    error = refusal_of_folder(tmp_path / "run", tiny_spec(teacher_folder, text_file), capsys)
    assert f"--into: {tmp_path / 'run'} holds the search first; accepted: a folder of its own" in error


def test_a_folder_whose_database_is_gone_is_refused(
    tmp_path: Path, teacher_folder: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "jobs" / "000001").mkdir(parents=True)
    error = refusal_of_folder(tmp_path / "run", tiny_spec(teacher_folder, text_file), capsys)
    assert "holds jobs whose database is gone; accepted: a new folder" in error


def test_a_database_that_is_none_is_told_in_a_sentence(
    tmp_path: Path, teacher_folder: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "topiary.db").write_bytes(b"this is no database" * 100)
    (tmp_path / "spec.json").write_text(tiny_spec(teacher_folder, text_file).model_dump_json())
    assert main(["run", str(tmp_path / "spec.json"), "--into", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("topiary: the database sqlite:///")
    assert "file is not a database; once that is mended, the same command goes on" in error


def test_several_errors_are_told_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.yaml").write_text("name: Bad Name\nteacher: t\ndata: {train: x}\n")
    assert main(["enumerate", str(tmp_path / "spec.yaml")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["name", "budget"]


def test_a_mended_spec_goes_on_after_a_bad_one(
    tmp_path: Path, teacher_folder: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tiny_spec(teacher_folder, text_file)
    path = tmp_path / "spec.json"
    path.write_text(spec.model_copy(update={"teacher": "/nowhere"}).model_dump_json())
    assert main(["enumerate", str(path)]) == 2
    path.write_text(spec.model_dump_json())
    assert main(["enumerate", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [candidate["cost"]["parameters"] for candidate in found["candidates"]] == [48060, 37692, 47856, 38640]
    assert found["teacher_cost"]["parameters"] == 64080


def test_a_run_ends_with_what_it_may_spend_and_goes_on_with_more(
    tmp_path: Path,
    teacher_folder: Path,
    text_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command says that it may not, until its spec lets it; jobs end at once instead of being worked on."""
    monkeypatch.setattr("api.run.LocalPool", lambda: InstantPool(export))
    monkeypatch.setattr("api.run._STEP_SECONDS", 0)
    monkeypatch.setattr("api.scheduler._COUNTED_SECONDS", 0)

    def run(**changes: object) -> tuple[int, str, str]:
        (tmp_path / "spec.json").write_text(tiny_spec(teacher_folder, text_file, **changes).model_dump_json())
        code = main(["run", str(tmp_path / "spec.json"), "--into", str(tmp_path / "run")])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()[-1]

    few: dict[str, object] = {"tokens": 2000}
    used_up = "spending.tokens: 5,120 of 2,000 are used"
    more = "with more `spending` in its spec, the same command goes on"
    code, out, last = run(spending=few)
    assert (code, last) == (1, f"topiary: the search is stopped: {used_up}; {more}")
    assert out.count("1,280") == 4, "the leaderboard as it stands"
    may_not = f"topiary: search: tiny may not go on: {used_up}; accepted: more `spending` in its spec."
    assert run(spending=few) == (2, "", may_not)
    code, _, last = run(spending={"tokens": 9000}, seed=1)
    assert code == 2 and "begun with another seed, spending" in last
    code, out, _ = run(spending={"tokens": 9000})
    assert code == 0 and "winner  " in out
    assert run(spending=few)[0] == 0, "what is finished stays so"


def test_candidates_are_listed_for_a_person(
    tmp_path: Path, teacher_folder: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.json").write_text(tiny_spec(teacher_folder, text_file).model_dump_json())
    assert main(["enumerate", str(tmp_path / "spec.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("4 of 8 shapes fit\n")
    assert "left out, for want of:\n              4  total parameters from 36,980 to 49,020\n" in out
    assert "48,060" in out
    assert max(map(len, out.splitlines())) <= 100
