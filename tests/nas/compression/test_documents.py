"""Documents of every kind of text, and which of them are validated on, against the texts themselves."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nas.compression.documents import held_out, read_documents, training_documents, validation_documents
from nas.data_spec import DataSpec, Text
from nas.errors import DataError, TopiaryError
from tests.nas.hub_client import ROOT, environment_of
from tests.nas.hub_server import COMMIT, Hub, serving

DATA_SET = f"hf://datasets/org/text@{COMMIT}"


def write_jsonl(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def write_parquet(path: Path, texts: list[str | None], column: str = "text", **options: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": range(len(texts)), column: texts}), path, **options)
    return str(path)


def split(data: DataSpec) -> tuple[list[list[str]], list[list[str]]]:
    """The documents to validate on, and to train on, of each source."""
    digests: set[bytes] = set()
    held = [list(validation_documents(source, data.validation_fraction, digests)) for source in data.all_sources]
    without = frozenset(digests)
    return held, [list(training_documents(source, data, without=without)) for source in data.all_sources]


def test_no_validation_text_enters_training(tmp_path: Path) -> None:
    shared, own = [f"shared {i}" for i in range(5)], [f"own {i}" for i in range(5)]
    train, validation = write_jsonl(tmp_path / "train.jsonl", own + shared), write_jsonl(tmp_path / "v.jsonl", shared)
    assert split(DataSpec(train=train, validation=validation)) == ([shared], [own])


def test_held_out_documents_are_split_by_their_text(tmp_path: Path) -> None:
    texts = [f"document {i}" for i in range(400)]
    train = write_jsonl(tmp_path / "train.jsonl", texts + texts)
    (held,), (training,) = split(DataSpec(train=train, validation_fraction=0.25))
    assert {*held} | {*training} == {*texts}
    assert not {*held} & {*training}
    assert 70 <= len({*held}) <= 130  # 100 expected; 3.5 standard deviations either way
    assert all(held_out(text, 0.25) for text in held)


def test_what_one_source_is_validated_on_no_source_is_trained_on(tmp_path: Path) -> None:
    """One source holds a part of its own out, one has a text to validate on, and all share documents."""
    shared, first, second = ([f"{name} {i}" for i in range(100)] for name in ("shared", "first", "second"))
    sources = [
        {"path": write_jsonl(tmp_path / "a.jsonl", first + shared)},
        {
            "path": write_parquet(tmp_path / "b.parquet", [*shared, *second, *first[:50]]),
            "validation": write_jsonl(tmp_path / "v.jsonl", [*second[:10], *first[50:60]]),
        },
    ]
    held, training = split(DataSpec.model_validate({"sources": sources, "validation_fraction": 0.2}))
    assert held[1] == [*second[:10], *first[50:60]]
    assert 10 < len({*held[0]} & {*shared}) < 35
    validated = {*held[0], *held[1]}
    assert training[0] == [text for text in first + shared if text not in validated]
    assert training[1] == [text for text in [*shared, *second, *first[:50]] if text not in validated]


# --- parquet ------------------------------------------------------------------------------------------------


def test_rows_of_parquet_files_are_documents_in_the_order_of_paths_and_rows(tmp_path: Path) -> None:
    """Of several row groups; a row without text is none. Brackets are no pattern in a path."""
    folder = tmp_path / "of [all] kinds*"
    write_parquet(folder / "b.parquet", ["é\n語", None, "", "last"], row_group_size=2)
    write_parquet(folder / "a" / "z.parquet", ["first"])
    write_parquet(folder / "0.parquet", [])  # Nothing is in it, and nothing is wrong with it.
    write_jsonl(folder / "c.jsonl", ["line"])
    assert list(read_documents(Text("data.train", str(folder), "text"))) == ["first", "é\n語", "last", "line"]


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("body", "has no column 'body' (it has 'id', 'text')"),
        ("id", "has no text in its column 'id', but int64"),
    ],
)
def test_a_column_that_holds_no_text_is_refused_with_those_there_are(tmp_path: Path, column: str, problem: str) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["a"])
    with pytest.raises(DataError) as caught:
        next(read_documents(Text("data.train", path, column)))
    accepted = f'rows with the text in a column "{column}" (data.text_field)'
    assert str(caught.value) == f"data.train: {path} {problem}; accepted: {accepted}."


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("PAR1")
    with pytest.raises(DataError, match=r"^data\.train: .*a\.parquet cannot be read \(Parquet .*\); accepted: whole"):
        next(read_documents(Text("data.train", str(tmp_path), "text")))


# --- the Hub ------------------------------------------------------------------------------------------------


def main() -> None:
    """What a process of its own reads, since the Hub's client reads its variables once: one line for each question."""
    for field, value in json.loads(sys.argv[1]):
        text = {"path": DATA_SET, "text_field": "content", **({field: value} if field else {})}
        try:
            print(json.dumps(list(read_documents(Text("data.train", **text)))))
        except TopiaryError as error:
            print(json.dumps({type(error).__name__: str(error)}))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("set")
    for part, texts in (("train", ["a", "b"]), ("validation", ["c"])):
        write_parquet(folder / "data" / f"{part}-00000-of-00001.parquet", [*texts], column="content")
    (folder / "code").mkdir()
    (folder / "code" / "code.py").write_text("raise SystemExit('run')")
    with serving() as hub:
        hub.repositories |= {"org/text": folder, "org/code": folder / "code", "org/gated": folder}
        hub.gated.add("org/gated")
        yield hub


def answers(hub: Hub, home: Path, *questions: tuple[str, str]) -> list[object]:
    command = [sys.executable, "-W", "error", "-m", "tests.nas.compression.test_documents", json.dumps(questions)]
    environment = environment_of(hub.url, home)
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_a_data_set_of_the_hub_is_read_at_its_commit_and_no_code_of_it_is_run(hub: Hub, tmp_path: Path) -> None:
    other, none, code, gated = (f"hf://datasets/org/{name}" for name in ("text@" + "f" * 40, "none", "code", "gated"))
    asked = [("", ""), ("split", "validation"), ("split", "test"), ("config", "de"), ("text_field", "text")]
    places = [other, *(f"{name}@{COMMIT}" for name in (none, code, gated))]
    found = answers(hub, tmp_path, *asked, *(("path", place) for place in places))
    assert found[:2] == [["a", "b"], ["c"]]
    sentences = [error["DataError"] for error in found[2:]]  # type: ignore[index]
    there = "a data set of files that the datasets library reads, with a configuration and split that it has"
    assert sentences[0] == (
        f"data.train: {DATA_SET} cannot be read (Bad split: test. Available splits: ['train', 'validation']); "
        f"accepted: {there}."
    )
    assert "(BuilderConfig 'de' not found. Available: ['default'])" in sentences[1]
    assert "has no column 'text' (it has 'id', 'content'); accepted: rows with the text in a column" in sentences[2]
    pinned = "accepted: hf://datasets/ORG/NAME@COMMIT, with a commit of 40 hex digits."
    assert sentences[3] == f"data.train: {other} is not a commit of this repository; {pinned}"
    assert "is not there, or may not be read (the Hub answers 401)" in sentences[4]
    assert "cannot be read (Dataset scripts are no longer supported, but found code.py)" in sentences[5]
    assert sentences[6].startswith(f"data.train: {gated}@{COMMIT} ")


def test_a_hub_that_does_not_answer_may_answer_later(tmp_path: Path) -> None:
    (found,) = answers(Hub(url="http://127.0.0.1:9"), tmp_path, ("", ""))
    assert list(found) == ["ServiceError"]  # type: ignore[call-overload]
    assert f"{DATA_SET} cannot be fetched from the Hub (" in found["ServiceError"]  # type: ignore[index]


if __name__ == "__main__":
    main()
