"""Specs from files: what is read, and the sentence that answers each mistake."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.data_spec import TEXTS
from nas.errors import SpecError
from nas.spec import SearchSpec
from nas.spec_file import check_absolute, parse_spec, read_spec

FULL: dict[str, Any] = {
    "name": "half.llama-1_b",
    "teacher": "models/teacher",
    "budget": {"parameters": 4e9, "tolerance": 0.03, "counting": "non_embedding"},
    "space": {"num_hidden_layers": [32, 28], "hidden_size": [4096, 3072]},
    "data": {"train": "text", "validation": "held-out.jsonl", "sequence_length": 128},
    "trial": {"tokens": 51_200, "peak_learning_rate": 2e-3, "micro_batch_size": 4},
    "promotion": {"tokens": 94e9, "winners": 2},
    "resources": {"cpus": 2, "dtype": "bfloat16"},
    "seed": 7,
}
MINIMAL = {"name": "a", "teacher": "/t", "budget": {"parameters": 1}, "data": {"train": "/x"}}
TOP_LEVEL = (
    "name, teacher, budget, space, sample_size, data, correction, calibration, trial, strategy, promotion, "
    "distillation, resources, serving, hardware, seed, max_failures, max_losses, backoff_seconds, spending"
)
SIZES = (
    "a list of different whole numbers from 1 to the teacher's size, a range (min, max, step), "
    "or ratios of the teacher's size"
)
TOKENS = "a number of tokens, at least 1, completed to whole steps"


def parse(content: object) -> SearchSpec:
    return parse_spec(content, relative_to=Path("/specs"))


def with_(path: str, value: object) -> dict[str, Any]:
    """MINIMAL with one value set at a dotted path."""
    content: dict[str, Any] = deepcopy(MINIMAL)
    *parents, last = path.split(".")
    inner = content
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return content


def without(path: str) -> dict[str, Any]:
    content: dict[str, Any] = deepcopy(MINIMAL)
    *parents, last = path.split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    del inner[last]
    return content


def refusal(content: object) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse(content)
    return caught.value


def file_refusal(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        read_spec(path)
    return str(caught.value)


def test_yaml_and_json_give_the_same_spec(tmp_path: Path) -> None:
    in_yaml, in_json = tmp_path / "spec.yaml", tmp_path / "spec.json"
    in_yaml.write_text(yaml.safe_dump(FULL))
    in_json.write_text(json.dumps(FULL))
    assert read_spec(in_yaml) == read_spec(in_json) == parse_spec(FULL, relative_to=tmp_path)


NUMBERS = """
name: numbers
teacher: t
budget: {parameters: 3.7e9, tolerance: 5e-2}
space: {intermediate_size: [1e3, 9_216, 14336]}
data: {train: x, sequence_length: 4_096}
trial: {tokens: 51_200, peak_learning_rate: 2e-3, min_learning_rate: 4.5e-7}
promotion: {tokens: 94e9}
seed: "9007199254740993"
"""


def test_numbers_may_be_written_as_people_write_them(tmp_path: Path) -> None:
    """YAML 1.1 reads `94e9` and `2e-3` as text, for want of a dot."""
    path = tmp_path / "spec.yaml"
    path.write_text(NUMBERS)
    spec = read_spec(path)
    assert (spec.budget.parameters, spec.budget.tolerance) == (3_700_000_000, 0.05)
    assert spec.space.intermediate_size is not None
    assert spec.space.intermediate_size.values == (1000, 9216, 14336)
    assert (spec.data.sequence_length, spec.trial.tokens, spec.promotion.tokens) == (4096, 51_200, 94_000_000_000)
    assert (spec.trial.peak_learning_rate, spec.trial.min_learning_rate) == (0.002, 0.00000045)
    assert spec.seed == 2**53 + 1


def test_what_is_left_out_has_the_papers_values() -> None:
    spec = parse(MINIMAL)
    assert spec.calibration.samples == 1024
    assert spec.trial.tokens == 400 * 1152 * 4096
    assert spec.promotion.tokens == 94_000_000_000
    assert (spec.budget.tolerance, spec.budget.counting) == (0.05, "total")
    assert spec.space.model_dump(exclude_none=True) == {"multiple_of": {}}


def test_relative_paths_count_from_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "spec.yaml").write_text(yaml.safe_dump({**FULL, "teacher": "../teacher"}))
    monkeypatch.chdir(tmp_path)
    spec = read_spec(Path("specs/spec.yaml"))
    assert Path(spec.teacher).resolve() == tmp_path / "teacher"
    assert spec.data.train == str(tmp_path / "specs" / "text")
    assert spec.data.validation == str(tmp_path / "specs" / "held-out.jsonl")


def test_absolute_paths_stay() -> None:
    spec = parse(MINIMAL)
    assert (spec.teacher, spec.data.train, spec.data.validation) == ("/t", "/x", None)


def test_a_spec_reads_back_from_its_own_json() -> None:
    spec = parse(FULL)
    assert parse(json.loads(spec.model_dump_json())) == spec


UNKNOWN = [
    ("colour", "red", f"colour: red is not a field of a spec; accepted: an object with the fields {TOP_LEVEL}."),
    (
        "budget.params",
        5,
        "budget.params: 5 is not a field of a spec; "
        "accepted: an object with the fields parameters, tolerance, counting, total_parameters, "
        "non_embedding_parameters, active_parameters, memory, flops, latency.",
    ),
    (
        "resources.disks",
        {"a": 1},
        "resources.disks: {'a': 1} is not a field of a spec; accepted: an object with the fields cpus, gpus, dtype, "
        "memory_bytes, accelerator_type, custom.",
    ),
]


@pytest.mark.parametrize(("path", "value", "sentence"), UNKNOWN)
def test_an_unknown_field_is_answered_with_the_fields_at_its_place(path: str, value: object, sentence: str) -> None:
    assert str(refusal(with_(path, value))) == sentence


@pytest.mark.parametrize(("key", "shown"), [(1, "1: 1"), (None, "None: None")])
def test_a_key_that_is_not_text_is_an_unknown_field(key: object, shown: str) -> None:
    content: dict[Any, object] = {**MINIMAL, key: 2}
    error = refusal(content)
    assert str(error) == f"{shown} is not a field of a spec; accepted: an object with the fields {TOP_LEVEL}."


MISSING = [
    ("name", "1 to 63 lower-case letters, digits, dots, dashes, underscores"),
    (
        "teacher",
        "a Hugging Face folder with config.json, safetensors weights and tokenizer.json, or hf://ORG/NAME@COMMIT",
    ),
    ("budget", "how large and costly a candidate may be: parameters, ranges, memory, flops, latency"),
    ("data", "train, and optionally validation and how to read them"),
    ("data.train", TEXTS),
]


@pytest.mark.parametrize(("path", "accepted"), MISSING)
def test_a_missing_field_is_answered_with_what_it_should_hold(path: str, accepted: str) -> None:
    assert str(refusal(without(path))) == f"{path}: nothing is given, but it is required; accepted: {accepted}."


NESTED = [
    ({"space": {"hidden_size": {"ratios": [0.5, 1.5]}}}, "space.hidden_size.ratios.1: 1.5 should be less than"),
    ({"space": {"hidden_size": {"times_hidden": [2]}}}, "space.hidden_size.times_hidden: [2] is not a field of a spec"),
    ({"space": {"multiple_of": {"width": 8}}}, "space.multiple_of.width: width should be 'num_hidden_layers'"),
    ({"budget": {"memory": {}}}, "budget.memory.max_bytes: nothing is given, but it is required; accepted: a number"),
    ({"budget": {"flops": {"max_per_token": 1, "phase": "both"}}}, "budget.flops.phase: both should be 'prefill' or"),
    ({"budget": {"memory": {"max_bytes": 1, "batch": 2}}}, "budget.memory.batch: 2 is not a field of a spec; accepted"),
]


@pytest.mark.parametrize(("changes", "sentence"), NESTED)
def test_a_mistake_further_in_is_named_by_its_whole_path(changes: dict[str, Any], sentence: str) -> None:
    assert str(refusal({**deepcopy(MINIMAL), **changes})).startswith(sentence)


def test_a_table_of_latencies_counts_from_the_file_too() -> None:
    budget = {"latency": {"max_milliseconds": 5, "table": "times.json"}}
    latency = parse({**deepcopy(MINIMAL), "budget": budget}).budget.latency
    assert latency is not None
    assert latency.table == "/specs/times.json"


TWO: list[dict[str, Any]] = [{"path": "a/Some Text.jsonl"}, {"path": f"hf://datasets/org/text@{'0' * 40}", "weight": 2}]


def with_sources(*changes: dict[str, Any]) -> dict[str, Any]:
    """MINIMAL with two sources in place of train, each with its changes."""
    sources = [{**given, **change} for given, change in zip(TWO, (*changes, {}, {}), strict=False)]
    return {**deepcopy(MINIMAL), "data": {"sources": sources}}


def test_sources_have_names_and_places_of_their_own() -> None:
    spec = parse(with_sources({"validation": "held.txt"}, {"config": "en", "text_field": "body"}))
    first, second = spec.data.all_sources
    assert (first.name, first.training.path, first.weight) == ("some-text", "/specs/a/Some Text.jsonl", 1)
    assert first.validation is not None
    assert (first.validation.field, first.validation.path) == ("data.sources.0.validation", "/specs/held.txt")
    assert (second.name, second.training.path, second.weight) == ("text", TWO[1]["path"], 2)
    assert (second.training.config, second.training.split, second.training.text_field) == ("en", "train", "body")
    assert second.validation is None
    assert parse(json.loads(spec.model_dump_json())) == spec
    assert [each.name for each in parse(MINIMAL).data.all_sources] == ["train"]


SOURCES = [
    (with_sources({"path": 5}), "data.sources.0.path: 5 should be a valid string; accepted: a .jsonl, .txt"),
    (with_sources({}, {"weight": 0}), "data.sources.1.weight: 0 should be greater than 0; accepted: its share of the"),
    (with_sources({}, {"wait": 1}), "data.sources.1.wait: 1 is not a field of a spec; accepted: an object with"),
    (with_sources({"name": "a/b"}), "data.sources.0.name: a/b should match pattern"),
    (with_("data.sources", ["/x"]), "data.sources.0: /x is not an object; accepted: in place of train, 1 to 100 texts"),
    (with_("data.sources", TWO), "data.train: /x is given besides data.sources; accepted: a .jsonl, .txt or .parquet"),
    ({**MINIMAL, "data": {"sources": [*TWO, TWO[0]]}}, "has two texts with the name some-text; accepted: in place of"),
    ({**MINIMAL, "data": {"sources": []}}, "data.sources: [] "),
    ({**MINIMAL, "data": {"sources": TWO, "validation": "v"}}, "data.validation: v is given besides data.sources"),
    ({**MINIMAL, "data": {"sources": TWO, "validation_sequences": 1}}, "1 is fewer than the 2 sources;"),
    (with_sources({}, {"path": "hf://datasets/org/text"}), "1.path: hf://datasets/org/text names no pinned"),
    (with_("data.train", "hf://org/text@main"), "data.train: hf://org/text@main names no repository of the Hub"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "sentence"), SOURCES)
def test_a_mistake_in_the_sources_is_answered_in_one_sentence(content: dict[str, Any], sentence: str) -> None:
    assert sentence in str(refusal(content))


def test_where_nobody_knows_from_where_sources_are_absolute_or_on_the_hub() -> None:
    with pytest.raises(SpecError) as caught:
        check_absolute(SearchSpec.model_validate(with_sources({"validation": "v"}, {"validation": "hf://datasets/a"})))
    fields = [error.field for error in (caught.value, *caught.value.also)]
    assert sorted(fields) == ["data.sources.0.path", "data.sources.0.validation", "data.sources.1.validation"]


WRONG_TYPE = [
    ("teacher", 5, "5 should be a valid string; accepted: a Hugging Face folder"),
    ("seed", "x", "x should be a valid integer, unable to parse string as an integer; accepted: a whole number"),
    ("seed", 0.5, "0.5 should be a valid integer, got a number with a fractional part; accepted: a whole number"),
    ("seed", True, "True is not a number; accepted: a whole number from 0"),
    ("trial.peak_learning_rate", True, "True is not a number; accepted: a rate above 0"),
    ("trial.peak_learning_rate", "fast", "fast should be a valid number"),
    ("budget", [1], "[1] is not an object; accepted: an object with the fields parameters, tolerance, counting, "),
    ("space", None, "None is not an object; accepted: an object with the fields num_hidden_layers, hidden_size"),
    ("space.hidden_size", 5, f"5 is neither a list nor an object; accepted: {SIZES}."),
    ("space.hidden_size.0", ["wide", 8], "wide should be a valid integer, unable to parse string as an integer"),
    ("space.hidden_size.1", [8, 7.5], "7.5 should be a valid integer, got a number with a fractional part"),
    ("space.hidden_size.2", [8, 4, False], f"False is not a number; accepted: {SIZES}."),
]
OUT_OF_RANGE = [
    ("budget.parameters", 0, "0 should be greater than 0; accepted: a number of parameters to aim at, above 0."),
    (
        "budget.parameters",
        float("inf"),
        "inf should be a finite number; accepted: a number of parameters to aim at, above 0.",
    ),
    ("budget.tolerance", 1, "1 should be less than 1; accepted: a share of parameters, 0 or more, below 1."),
    ("budget.tolerance", float("nan"), "nan should be"),
    ("budget.counting", "all", "all should be 'total', 'non_embedding' or 'active'; accepted: total, non_embedding"),
    ("space.num_hidden_layers.1", [2, 0], f"0 should be greater than 0; accepted: {SIZES}."),
    ("space.num_hidden_layers.0", [-2], f"-2 should be greater than 0; accepted: {SIZES}."),
    ("data.sequence_length", 1, "1 should be greater than 1; accepted: tokens in a sequence, at least 2."),
    (
        "data.text_field",
        "",
        "'' should have at least 1 character; accepted: the key of the text in a .jsonl record, or",
    ),
    ("trial.tokens", 0, f"0 should be greater than 0; accepted: {TOKENS}."),
    ("trial.tokens", float("inf"), f"inf should be a finite number; accepted: {TOKENS}."),
    ("trial.beta1", 1, "1 should be less than 1; accepted: 0 or more, below 1."),
    ("trial.peak_learning_rate", float("inf"), "inf should be a finite number; accepted: a rate above 0."),
    ("promotion.winners", -1, "-1 should be greater than or equal to 0; accepted: how many candidates are promoted"),
    ("resources.dtype", "float16", "float16 should be 'auto', 'float32' or 'bfloat16'; accepted: auto"),
    ("seed", 2**63, f"{2**63} should be less than {2**63}; accepted: a whole number from 0, below 2^63."),
]
LISTS = [
    ("space.hidden_size", [], f"[] holds no value; accepted: {SIZES}."),
    ("space.hidden_size", {}, f"{{}} holds nothing; accepted: {SIZES}."),
    ("space.hidden_size", {"min": 5, "max": 3}, "{'min': 5, 'max': 3} holds nothing: min 5 is more than max 3"),
    ("space.hidden_size", {"min": 5, "ratios": [0.5]}, "{'min': 5, 'ratios': [0.5]} holds min and ratios"),
    ("space.hidden_size", {"values": [5], "step": 2}, "{'values': [5], 'step': 2} holds values and parts of a range"),
    ("space.multiple_of.hidden_size", 0, "0 should be greater than 0; accepted: for an axis, the number that its"),
    ("budget", {"tolerance": 0.1}, "{'tolerance': 0.1} limits nothing; accepted: how large and costly"),
    ("budget.memory", 5, "5 is not an object; accepted: bytes of weights and KV cache: max_bytes, batch_size"),
    ("budget.active_parameters", {}, "{} holds neither min nor max; accepted: an object with min, max or both."),
    ("budget.total_parameters", {"min": 2, "max": 1}, "{'min': 2, 'max': 1} holds nothing: min 2 is more than max 1"),
    ("serving.dtype", "int4", "int4 should be 'float32', 'bfloat16', 'float16', 'float8' or 'int8'; accepted: float32"),
    ("space.hidden_size", [8, 4, 8], f"[8, 4, 8] holds a value twice; accepted: {SIZES}."),
]


@pytest.mark.parametrize(("field", "value", "sentence"), [*WRONG_TYPE, *OUT_OF_RANGE, *LISTS])
def test_a_bad_value_is_answered_in_one_sentence(field: str, value: Any, sentence: str) -> None:
    path = re.sub(r"\.\d+$", "", field)
    error = refusal(with_(path, value))
    assert str(error).startswith(f"{field}: {sentence}")
    assert str(error).endswith(".")
    assert "\n" not in str(error)
    assert (error.field, error.also) == (field, ())


@pytest.mark.parametrize("name", ["", "Upper", "-dash", "two words", "a/b", "x" * 64, "ends\n"])
def test_a_bad_name_is_answered_with_what_a_name_is(name: str) -> None:
    error = refusal({**MINIMAL, "name": name})
    assert (error.field, error.value) == ("name", name)
    assert str(error).endswith("; accepted: 1 to 63 lower-case letters, digits, dots, dashes, underscores.")


@pytest.mark.parametrize("name", ["a", "0", "x" * 63, "llama-3.1_half"])
def test_a_good_name_is_kept(name: str) -> None:
    assert parse({**MINIMAL, "name": name}).name == name


def test_several_mistakes_arrive_together() -> None:
    content = {**MINIMAL, "seed": -1, "space": {"hidden_size": [0, 8]}, "colour": "red"}
    first = refusal(content)
    assert [error.field for error in (first, *first.also)] == ["space.hidden_size.0", "seed", "colour"]
    assert all(isinstance(error, SpecError) for error in first.also)


@pytest.mark.parametrize(("text", "shown"), [("- a\n- b", "list"), ("just text", "str"), ("", "nothing"), ("7", "int")])
@pytest.mark.parametrize("ending", [".yaml", ".yml"])
def test_a_file_that_holds_no_object_is_refused(tmp_path: Path, text: str, shown: str, ending: str) -> None:
    path = tmp_path / f"spec{ending}"
    path.write_text(text)
    accepted = f"a YAML or JSON file that holds one object with the fields {TOP_LEVEL}"
    assert file_refusal(path) == f"spec: {shown} is not an object; accepted: {accepted}."


@pytest.mark.parametrize(
    ("name", "text"), [("spec.yaml", "name: [a\nteacher: b"), ("spec.json", "{'name': 1}"), ("spec.json", "name: a")]
)
def test_a_file_that_cannot_be_parsed_is_refused_in_one_line(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    sentence = file_refusal(path)
    assert sentence.startswith(f"spec: {path} cannot be parsed (")
    assert "line 1" in sentence or "line 2" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(("name", "text"), [("spec.json", "[" * 100_000), ("spec.yaml", "[" * 10_000)])
def test_a_file_too_deep_to_read_is_refused(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert file_refusal(path).startswith(f"spec: {path} cannot be parsed (maximum recursion depth exceeded")


@pytest.mark.parametrize("path", ["models/teacher", "~/teacher", "./teacher", ""])
@pytest.mark.parametrize("field", ["teacher", "data.train", "data.validation"])
def test_where_nobody_knows_from_where_only_absolute_paths_are_accepted(field: str, path: str) -> None:
    spec = SearchSpec.model_validate(with_(field, path))
    with pytest.raises(SpecError) as caught:
        check_absolute(spec)
    shown = path or "''"
    accepted = "a path on the server that begins with /"
    assert str(caught.value) == f"{field}: {shown} is not an absolute path; accepted: {accepted}."
    check_absolute(SearchSpec.model_validate(MINIMAL))


def test_all_paths_that_count_from_somewhere_are_told_together() -> None:
    spec = SearchSpec.model_validate({**MINIMAL, "teacher": "t", "data": {"train": "x", "validation": "y"}})
    with pytest.raises(SpecError) as caught:
        check_absolute(spec)
    first = caught.value
    assert [error.field for error in (first, *first.also)] == ["teacher", "data.train", "data.validation"]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert file_refusal(path).startswith(f"spec: {path} cannot be read (No such file or directory); accepted: a YAML")


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    assert file_refusal(tmp_path).startswith(f"spec: {tmp_path} cannot be read (Is a directory); accepted: a YAML")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"name: \xff\xfe")
    assert file_refusal(path).startswith(f"spec: {path} cannot be read (it is not UTF-8); accepted: a YAML")
