"""A folder that has a config and perhaps no more: enough to enumerate candidates from."""

from pathlib import Path

import pytest
from safetensors.numpy import save_file

from nas.errors import TeacherError
from nas.hub import inspect_teacher
from nas.model_folder import INDEX, ModelFolder, check_whole, inspect_config_folder, inspect_model_folder
from tests.nas.test_model_folder import CONFIG, SHAPE, TOKENIZER, UP, WEIGHTS, save_shards, tensors_of, write_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json(tmp_path / "config.json", CONFIG)
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(TeacherError) as caught:
        inspect_config_folder(folder)
    return str(caught.value)


def test_a_config_alone_is_enough(folder: Path) -> None:
    found = inspect_config_folder(folder)
    assert found == ModelFolder(path=folder, config=CONFIG, architecture=SHAPE, dtype="bfloat16", files={})
    assert not found.has_weights
    assert inspect_teacher(str(folder), whole=False) == found


@pytest.mark.parametrize(
    ("named", "dtype"),
    [
        ({"dtype": "float16"}, "float16"),
        ({"torch_dtype": "float32"}, "float32"),
        ({"dtype": "bfloat16", "torch_dtype": "float32"}, "bfloat16"),
        ({"dtype": None, "torch_dtype": "float16"}, "float16"),
        ({"torch_dtype": None}, "bfloat16"),
    ],
)
def test_the_dtype_is_then_the_one_that_the_config_names(folder: Path, named: dict[str, object], dtype: str) -> None:
    write_json(folder / "config.json", {**CONFIG, **named})
    assert inspect_config_folder(folder).dtype == dtype


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "auto", 16, {"text_config": "float32"}])
def test_a_dtype_that_is_none_of_ours_is_refused(folder: Path, dtype: object) -> None:
    write_json(folder / "config.json", {**CONFIG, "dtype": dtype})
    expected = f"teacher: {folder / 'config.json'} has dtype {dtype}; accepted: float32, bfloat16, float16."
    assert refusal(folder) == expected


def test_a_whole_folder_is_what_it_is_with_its_weights(folder: Path) -> None:
    write_json(folder / "tokenizer.json", TOKENIZER)
    save_file(tensors_of(), folder / "model.safetensors")
    assert inspect_config_folder(folder) == inspect_model_folder(folder) == inspect_teacher(str(folder))
    assert inspect_config_folder(folder).has_weights
    (folder / "tokenizer.json").unlink()
    assert inspect_config_folder(folder).dtype == "float32"


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_what_a_search_needs_besides_is_asked_for_where_it_matters(folder: Path, missing: str) -> None:
    write_json(folder / "tokenizer.json", TOKENIZER)
    save_file(tensors_of(), folder / "model.safetensors")
    check_whole(inspect_config_folder(folder))
    (folder / missing).unlink()
    with pytest.raises(TeacherError) as asked:
        check_whole(inspect_config_folder(folder))
    with pytest.raises(TeacherError) as whole:
        inspect_model_folder(folder)
    with pytest.raises(TeacherError) as named:
        inspect_teacher(str(folder))
    assert str(asked.value) == str(whole.value) == str(named.value)
    assert inspect_teacher(str(folder), whole=False).architecture == SHAPE


def test_weights_that_are_there_are_checked_all_the_same(folder: Path) -> None:
    tensors = tensors_of()
    save_file({name: tensor for name, tensor in tensors.items() if name != UP}, folder / "model.safetensors")
    assert refusal(folder).startswith(f"teacher: {folder} has no tensor {UP}; ")
    (folder / "model.safetensors").write_bytes(b"x")
    assert refusal(folder).startswith(f"teacher: {folder / 'model.safetensors'} is not a whole safetensors file (")


def test_a_tokenizer_that_is_there_is_checked_all_the_same(folder: Path) -> None:
    write_json(folder / "tokenizer.json", {"model": {"vocab": {"a": 11}}})
    assert refusal(folder).startswith(f"teacher: {folder / 'tokenizer.json'} has token ids up to 11 ")


def test_pickles_are_refused_all_the_same(folder: Path) -> None:
    (folder / "pytorch_model.bin").touch()
    expected = f"teacher: {folder} has its weights in pickle files (pytorch_model.bin); accepted: {WEIGHTS}."
    assert refusal(folder) == expected


def test_an_index_without_any_of_its_shards_is_no_weights_and_with_some_it_is(folder: Path) -> None:
    tensors = tensors_of()
    save_file(tensors, folder / "model.safetensors")
    names = sorted(tensors)
    save_shards(folder, tensors, [names[:5], names[5:]])
    (folder / "model-00001-of-00002.safetensors").unlink()
    assert "model-00001-of-00002.safetensors cannot be read (No such file or directory)" in refusal(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert not inspect_config_folder(folder).has_weights


@pytest.mark.parametrize("shard", ["model.bin", "../model.safetensors", "a/model.safetensors", ".safetensors/..", 1])
def test_an_index_that_names_no_safetensors_file_of_the_folder_is_refused(folder: Path, shard: object) -> None:
    write_json(folder / INDEX, {"weight_map": {UP: shard}})
    assert refusal(folder).startswith(f"teacher: {folder / INDEX} has no weight_map from tensors to files; ")
