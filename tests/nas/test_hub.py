"""Teachers from the Hub: what is asked of it and what is fetched, against a server that speaks its protocol."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nas.compression.checkpoint import COPIED_FILES
from nas.errors import SpecError
from nas.families import family_named
from nas.hub import CONFIG_FILES, OTHER_FILES, Pinned, config_folder, inspect_teacher, pinned, weights_folder
from nas.model_folder import inspect_model_folder
from nas.spec import SearchSpec
from nas.spec_file import check_absolute, parse_spec
from tests.nas.hub_client import ask, environment_of, told
from tests.nas.hub_server import COMMIT, Hub, serving
from tests.nas.test_model_folder import CONFIG, SHAPE, TOKENIZER, WEIGHTS, save_shards, write_json

TEACHER = f"hf://org/name@{COMMIT}"
ACCEPTED = "hf://ORG/NAME@COMMIT, with a commit of 40 hex digits"
READABLE = "a public repository, or one that HF_TOKEN, set where the teacher is read, gives access to"
IN_REACH = "a repository in reach, or one that the cache has already"
VOCABULARY = 2000
"""Enough that the weights are several times what is asked for to read their headers."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path, hub: Hub) -> Path:
    """A good teacher, served as org/name, with much beside it that nobody needs."""
    path = tmp_path / "teacher"
    (path / "onnx").mkdir(parents=True)
    write_json(path / "config.json", {**CONFIG, "vocab_size": VOCABULARY, "auto_map": {"AutoModel": "code.Model"}})
    write_json(path / "tokenizer.json", TOKENIZER)
    save_file(tensors(), path / "model.safetensors")
    for name in (*OTHER_FILES, "code.py", "pytorch_model.bin", "training_args.bin", "adapter_config.json", "README.md"):
        (path / name).write_text("{}")
    save_file(tensors(), path / "consolidated.safetensors")
    save_file(tensors(), path / "onnx" / "model.safetensors")
    hub.repositories["org/name"] = path
    return path


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return environment_of(hub.url, tmp_path / "home")


def tensors(**changes: Any) -> dict[str, Any]:
    """Zeros in the shapes of the teacher's family, but for `changes`."""
    shapes = family_named("llama").tensors(SHAPE.model_copy(update={"vocab_size": VOCABULARY}))
    return {name: np.zeros(changes.get(name, shape), np.float32) for name, shape in shapes}


def into_shards(path: Path) -> None:
    names = sorted(tensors())
    save_shards(path, tensors(), [names[:5], names[5:]])


def refusal(teacher: str, environment: dict[str, str], question: str = "inspect") -> str:
    answer = ask(question, teacher, environment)
    assert list(answer) == ["TeacherError"]
    message = str(answer["TeacherError"])
    assert message.startswith("teacher: hf://")
    assert "\n" not in message
    return message


# --- hub ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repository", ["org/name", "meta-llama/Llama-3.1-8B", "a/b_c.d"])
def test_a_hub_id_names_a_repository_and_a_commit(repository: str) -> None:
    assert pinned(f"hf://{repository}@{COMMIT}") == Pinned(repository, COMMIT)
    assert pinned(f"hf://{repository}@{COMMIT.upper()}") == Pinned(repository, COMMIT)
    assert str(pinned(f"hf://{repository}@{COMMIT}")) == f"hf://{repository}@{COMMIT}"


@pytest.mark.parametrize("path", ["/models/teacher", "org/name", "./hf://org/name", ""])
def test_anything_else_is_a_path_and_stays_one(path: str) -> None:
    assert pinned(path) is None
    assert config_folder(path) == weights_folder(path) == Path(path)


@pytest.mark.parametrize("revision", ["", "@", "@main", "@v1.0", f"@{COMMIT[:12]}", f"@{COMMIT}0", f"@{COMMIT}/x"])
def test_a_revision_that_is_no_commit_is_refused(revision: str) -> None:
    teacher = f"hf://x/y{revision}"
    with pytest.raises(SpecError) as caught:
        pinned(teacher)
    assert str(caught.value) == f"teacher: {teacher} names no pinned revision; accepted: {ACCEPTED}."
    for use in (inspect_teacher, config_folder, weights_folder):
        with pytest.raises(SpecError):
            use(teacher)


@pytest.mark.parametrize(
    "name", ["", "x", "x/", "/y", "x/y/z", "x/../y", "x/y..z", "-x/y", "x/y-", "x/y.git", "é/y", f"x/{'y' * 95}"]
)
def test_what_is_no_name_of_a_repository_is_refused(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        pinned(f"hf://{name}@{COMMIT}")
    teacher = f"hf://{name}@{COMMIT}"
    assert str(caught.value) == f"teacher: {teacher} names no repository of the Hub; accepted: {ACCEPTED}."


def test_a_spec_keeps_its_hub_id_and_is_accepted_where_paths_must_be_absolute() -> None:
    content = {"name": "a", "teacher": TEACHER, "budget": {"parameters": 1}, "data": {"train": "x"}}
    spec = parse_spec(content, relative_to=Path("/specs"))
    assert (spec.teacher, spec.data.train) == (TEACHER, "/specs/x")
    check_absolute(spec)


def test_a_spec_with_a_hub_id_that_is_not_pinned_is_refused_on_every_way_in() -> None:
    content = {"name": "a", "teacher": "hf://x/y@main", "budget": {"parameters": 1}, "data": {"train": "x"}}
    sentence = f"teacher: hf://x/y@main names no pinned revision; accepted: {ACCEPTED}."
    with pytest.raises(SpecError) as caught:
        parse_spec(content, relative_to=Path("/specs"))
    assert str(caught.value) == sentence
    with pytest.raises(SpecError) as caught:
        check_absolute(SearchSpec.model_validate(content))
    assert str(caught.value) == sentence
    assert [error.field for error in caught.value.also] == ["data.train"]


# --- what is fetched ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharded", [False, True])
def test_a_teacher_is_inspected_as_the_same_folder_on_disk_without_its_weights_being_fetched(
    hub: Hub, folder: Path, environment: dict[str, str], sharded: bool
) -> None:
    if sharded:
        into_shards(folder)
    assert ask("inspect", TEACHER, environment) == told(inspect_model_folder(folder))
    of_weights = hub.of_files(".safetensors")
    assert {each.path.rpartition("/")[2] for each in of_weights} == {
        file.name for file in inspect_model_folder(folder).files.values()
    }
    assert all(each.range is not None for each in of_weights)
    assert max(each.num_bytes for each in of_weights) < 101_000 < (folder / "consolidated.safetensors").stat().st_size
    fetched = {each.path.rpartition("/")[2] for each in hub.of_files(".json") if each.method == "GET"}
    assert fetched == {name for name in CONFIG_FILES if (folder / name).exists()}


@pytest.mark.parametrize("sharded", [False, True])
def test_only_safetensors_json_and_tokenizer_files_are_fetched_for_the_work(
    hub: Hub, folder: Path, environment: dict[str, str], sharded: bool
) -> None:
    if sharded:
        into_shards(folder)
    here = Path(ask("weights folder", TEACHER, environment))
    weights = {file.name for file in inspect_model_folder(folder).files.values()}
    index = ["model.safetensors.index.json"] * sharded
    assert {file.name for file in here.iterdir()} == {"config.json", *COPIED_FILES, *weights, *index}
    assert all((here / file.name).read_bytes() == (folder / file.name).read_bytes() for file in here.iterdir())
    assert told(inspect_model_folder(here)) == told(inspect_model_folder(folder))
    num_asked = len(hub.asked)
    assert ask("inspect the weights folder", TEACHER, environment) == told(inspect_model_folder(folder))
    assert all("/resolve/" not in each.path for each in hub.asked[num_asked:])


def test_what_was_inspected_once_is_not_asked_for_again(hub: Hub, folder: Path, environment: dict[str, str]) -> None:
    once, again = ask("inspect twice", TEACHER, environment)
    assert once == again
    assert len(hub.of_files("model.safetensors")) == 1
    ask("weights folder", TEACHER, environment)
    num_asked = len(hub.asked)
    assert ask("inspect", TEACHER, environment) == once
    assert len(hub.asked) == num_asked  # Everything is in the cache, and a commit does not change.


def test_the_token_is_sent_and_without_it_nothing_is_there(hub: Hub, folder: Path, environment: dict[str, str]) -> None:
    hub.token = "hf_secret"
    problem = f"{TEACHER} is not there, or may not be read (the Hub answers"
    assert refusal(TEACHER, environment) == f"teacher: {problem} 401); accepted: {READABLE}."
    wrong = {**environment, "HF_TOKEN": "hf_other"}
    for question in ("inspect", "weights folder"):
        assert refusal(TEACHER, wrong, question) == f"teacher: {problem} 404); accepted: {READABLE}."
    hub.asked.clear()
    given = {**environment, "HF_TOKEN": "hf_secret"}
    assert ask("inspect", TEACHER, given) == ask("inspect the weights folder", TEACHER, given)
    of_repository = [each for each in hub.asked if "org/name" in each.path]
    assert len(of_repository) > 10
    assert {each.authorization for each in of_repository} == {"Bearer hf_secret"}


def test_a_token_that_cannot_be_sent_is_not_told(hub: Hub, folder: Path, environment: dict[str, str]) -> None:
    answer = ask("inspect", TEACHER, {**environment, "HF_TOKEN": "hf_sec ret\x01"})
    assert answer == {
        "SettingError": "HF_TOKEN: its value is no token of the Hub; accepted: hf_ with letters and digits, or nothing."
    }
    assert not hub.asked


def test_everything_works_a_second_time_while_the_hub_is_out_of_reach(
    hub: Hub, folder: Path, environment: dict[str, str]
) -> None:
    online = ask("inspect", TEACHER, environment)
    hub.failing = 503
    enumerated = ask("inspect for enumeration", TEACHER, environment)
    assert enumerated == {**online, "files": {}, "dtype": "bfloat16"}  # As the config says, which here says nothing.
    assert ask("inspect the config folder", TEACHER, environment) == enumerated
    sentence = f"teacher: {TEACHER} has no safetensors weights; accepted: {WEIGHTS}."
    assert refusal(TEACHER, environment) == sentence
    hub.failing = None
    ask("weights folder", TEACHER, environment)
    hub.asked.clear()
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    assert ask("inspect", TEACHER, offline) == ask("inspect the weights folder", TEACHER, offline) == online
    assert not hub.asked


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["inspect", "inspect for enumeration", "config folder", "weights folder"])
def test_pickles_are_refused_as_those_of_a_folder_and_not_fetched(
    hub: Hub, folder: Path, environment: dict[str, str], question: str
) -> None:
    (folder / "model.safetensors").unlink()
    expected = f"teacher: {TEACHER} has its weights in pickle files (pytorch_model.bin); accepted: {WEIGHTS}."
    assert refusal(TEACHER, environment, question) == expected
    assert not hub.of_files(".bin")


def test_a_repository_of_a_config_alone_is_enough_to_enumerate_and_for_nothing_else(
    hub: Hub, folder: Path, environment: dict[str, str]
) -> None:
    hub.repositories["org/config"] = folder.parent / "config"
    (folder.parent / "config").mkdir()
    write_json(folder.parent / "config" / "config.json", {**CONFIG, "dtype": "float16"})
    teacher = TEACHER.replace("name", "config")
    found = ask("inspect for enumeration", teacher, environment)
    assert (found["dtype"], found["files"]) == ("float16", {})
    assert found["architecture"] == SHAPE.model_dump()
    sentence = f"teacher: {teacher} has no safetensors weights; accepted: {WEIGHTS}."
    assert refusal(teacher, environment) == sentence
    (folder.parent / "config" / "config.json").unlink()
    environment["HF_HOME"] += "-empty"
    assert refusal(teacher, environment).startswith(f"teacher: {teacher} has no config.json; accepted: a repository")


def test_weights_that_are_not_what_the_config_says_are_refused_before_they_are_fetched(
    hub: Hub, folder: Path, environment: dict[str, str]
) -> None:
    save_file(tensors(**{"model.norm.weight": (25,)}), folder / "model.safetensors")
    assert refusal(TEACHER, environment, "inspect for enumeration") == (
        f"teacher: {TEACHER} has model.norm.weight as (25,) where its config says (24,); "
        "accepted: the 21 tensors of a llama with its config."
    )
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    assert refusal(TEACHER, environment).startswith(
        f"teacher: {TEACHER} has weights that are not whole safetensors files; accepted: safetensors"
    )


def test_what_is_wrong_with_a_file_is_said_of_the_hub_id(hub: Hub, folder: Path, environment: dict[str, str]) -> None:
    write_json(folder / "tokenizer.json", {"model": {"vocab": {"a": VOCABULARY}}})
    expected = f"teacher: {TEACHER}/tokenizer.json has token ids up to {VOCABULARY} where the model's vocab_size is "
    assert refusal(TEACHER, environment).startswith(expected)
    (folder / "tokenizer.json").unlink()
    environment["HF_HOME"] += "-empty"
    assert refusal(TEACHER, environment).startswith(f"teacher: {TEACHER} has no tokenizer.json; accepted: ")


@pytest.mark.parametrize("question", ["inspect for enumeration", "weights folder"])
def test_what_is_not_there_or_gated_is_answered_in_a_sentence(
    hub: Hub, folder: Path, environment: dict[str, str], question: str
) -> None:
    environment["HF_TOKEN"] = "hf_any"
    nowhere = TEACHER.replace("name", "nowhere")
    problem = "is not there, or may not be read (the Hub answers 404)"
    assert refusal(nowhere, environment, question) == f"teacher: {nowhere} {problem}; accepted: {READABLE}."
    another = TEACHER.replace(COMMIT, "f" * 40)
    problem = "is not a commit of this repository"
    assert refusal(another, environment, question) == f"teacher: {another} {problem}; accepted: {ACCEPTED}."
    hub.gated.add("org/name")
    problem = "is gated, and no access to it was granted"
    assert refusal(TEACHER, environment, question) == f"teacher: {TEACHER} {problem}; accepted: {READABLE}."


def test_a_hub_out_of_reach_is_answered_in_a_sentence(hub: Hub, folder: Path, environment: dict[str, str]) -> None:
    def sentence(reason: str) -> str:
        return f"teacher: {TEACHER} cannot be fetched from the Hub ({reason}); accepted: {IN_REACH}."

    hub.failing = 503
    assert refusal(TEACHER, environment) == sentence("it answers 503")
    nobody = {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert refusal(TEACHER, nobody, "config folder") == sentence("[Errno 111] Connection refused")
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    assert refusal(TEACHER, offline) == sentence("HF_HUB_OFFLINE is set, and the cache does not have it")


def test_a_worker_may_try_again_what_the_hub_did_not_answer(
    hub: Hub, folder: Path, environment: dict[str, str]
) -> None:
    """A TeacherError would end the search at once."""
    ask("inspect", TEACHER, environment)  # The small files are in the cache, which is no verdict on the others.
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    reason = "HF_HUB_OFFLINE is set, and the cache does not have it"
    expected = {"ServiceError": f"{TEACHER} cannot be fetched from the Hub ({reason})"}
    assert ask("weights folder", TEACHER, offline) == expected
    into_shards(folder)
    environment["HF_HOME"] += "-empty"
    ask("weights folder", TEACHER, environment)
    (shard,) = Path(environment["HF_HOME"]).glob("hub/*/snapshots/*/model-00002-of-00002.safetensors")
    shard.unlink()
    assert ask("weights folder", TEACHER, {**environment, "HF_HUB_OFFLINE": "1"}) == expected


# --- the rest -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["nas.hub", "nas.spec_file", "nas.client", "api.app", "api.cli", "api.scheduler"])
def test_nobody_loads_the_hubs_client_before_a_teacher_is_there(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps('huggingface_hub' in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ended.stdout) is False
