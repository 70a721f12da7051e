"""Documents from files: which, in what order, and what is said about those that cannot be read."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.data_spec import Text
from nas.errors import DataError, SpecError
from nas.text import check_text, read_file, text_files


def read(path: Path, text_field: str = "text") -> Iterator[str]:
    text = Text("data.train", str(path), text_field)
    for file in text_files(path, field="data.train"):
        yield from read_file(file, text)


def documents(path: Path, text_field: str = "text") -> list[str]:
    return list(read(path, text_field))


def refusal(path: Path, text_field: str = "text") -> DataError:
    with pytest.raises(DataError) as caught:
        documents(path, text_field)
    assert caught.value.field == "data.train"
    return caught.value


def test_a_txt_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo é 語\n", encoding="utf-8")
    assert documents(path) == ["one\n\ntwo é 語\n"]


def test_a_jsonl_file_holds_one_document_a_line(tmp_path: Path) -> None:
    """Separators that some readers take for line ends stay inside their document; empty lines and texts are none."""
    texts = ["one\ntwo", "é 語 \U0001f600", "a\u2028b\x85c\x0bd", "", "last"]
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"id": 1, "text": text}, ensure_ascii=False) for text in texts]
    path.write_text("\n\n".join(lines) + "\n  \n", encoding="utf-8")
    assert documents(path) == [text for text in texts if text]


def test_the_last_line_needs_no_end_and_windows_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\r\n{"text": "b"}')
    assert documents(path) == ["a", "b"]


def test_the_text_field_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "no", "content": "yes"}\n')
    assert documents(path, "content") == ["yes"]


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("c.txt", "b/z.txt", "a.jsonl", "b/a.jsonl", "notes.md", "d.txt.gz"):
        content = json.dumps({"text": name}) if name.endswith(".jsonl") else name
        (tmp_path / name).write_text(content)
    (tmp_path / "folder.txt").mkdir()
    assert documents(tmp_path) == ["a.jsonl", "b/a.jsonl", "b/z.txt", "c.txt"]
    assert text_files(tmp_path, field="data.train") == [
        tmp_path / name for name in ("a.jsonl", "b/a.jsonl", "b/z.txt", "c.txt")
    ]


def test_documents_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\nnot json\n')
    reader = read(path)
    assert next(reader) == "good"
    with pytest.raises(DataError):
        next(reader)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("not json", "is not JSON (Expecting value at column 1)"),
        ('{"text": "a", cut}', "is not JSON (Expecting property name enclosed in double quotes at column 15)"),
        ('{"title": "a", "body": "b"}', "has no text under 'text' (it has 'title', 'body')"),
        ('{"text": 5}', "has no text under 'text' (it has a value of type int there)"),
        ("{}", "has no text under 'text' (it has no field)"),
        ('["text"]', "has no text under 'text' (it has a list)"),
        ('{"text": "half \\ud83d pair"}', "has half of a surrogate pair, which no tokenizer reads"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n\n' + line + "\n")
    assert str(refusal(path)) == (
        f"data.train: {path}, line 3 {problem}; "
        'accepted: one JSON object per line with the text under "text" (data.text_field).'
    )


def test_bytes_that_are_not_utf_8_are_named_with_their_line(tmp_path: Path) -> None:
    """Far into the file, where a reader that decodes in chunks would count from the chunk's start."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "%s"}\n' % (b"x" * 1000) * 50 + b'{"text": "\xff"}\n')
    assert str(refusal(path)).startswith(f"data.train: {path}, line 51 is not UTF-8 (byte 10 of the line); accepted: ")


def test_a_txt_file_that_is_not_utf_8_is_named_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 20_000 + b"\xff")
    assert str(refusal(path)).startswith(f"data.train: {path} is not UTF-8 (byte 20000); accepted: a .jsonl file")


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    assert str(refusal(path)).startswith(f"data.train: {path} does not exist; accepted: a .jsonl file")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text")
    assert str(refusal(path)).startswith(f"data.train: {path} has the ending '.csv'; accepted: a .jsonl file")


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text")
    assert str(refusal(tmp_path)).startswith(
        f"data.train: {tmp_path} holds no .jsonl, .txt or .parquet file; accepted: "
    )


def test_what_can_be_told_without_reading_all_is_checked_at_once(tmp_path: Path) -> None:
    """The first document that is there, and the form of a data set of the Hub; what is in parquet files is not read."""
    (tmp_path / "a.parquet").write_text("none")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.jsonl").write_text('{"content": "good"}\nbad')
    check_text(Text("data.train", str(tmp_path), "content"))
    with pytest.raises(
        DataError, match=r"c\.jsonl, line 1 has no text under 'text' .*\(data.sources.0.text_field\)\.$"
    ):
        check_text(Text("data.sources.0.path", str(tmp_path), "text", key_field="data.sources.0.text_field"))
    check_text(Text("data.train", f"hf://datasets/org/text@{'0' * 40}", "text"))
    with pytest.raises(
        SpecError, match=r"^data\.train: hf://datasets/org/text@main names no pinned revision; accepted: hf"
    ):
        check_text(Text("data.train", "hf://datasets/org/text@main", "text"))
