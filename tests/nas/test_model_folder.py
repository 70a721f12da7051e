"""A teacher's folder, looked into without loading a tensor, and the sentence that answers each thing wrong with it."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from nas.errors import TeacherError
from nas.families import FAMILIES
from nas.model_folder import ModelFolder, StoredDtype, inspect_model_folder
from tests.nas.shapes import small_llama

Tensors = dict[str, NDArray[Any]]
SHAPE = small_llama(num_hidden_layers=2)
CONFIG = {"model_type": "llama", "eos_token_id": 10, **SHAPE.model_dump(exclude={"family"})}
TOKENIZER = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 9}}, "added_tokens": [{"id": 10, "content": "<end>"}]}
A_FOLDER = "a Hugging Face folder with config.json, safetensors weights and tokenizer.json"
WEIGHTS = "model.safetensors, or shards with model.safetensors.index.json; pickles can run code and are not read"
TABLE = "the 21 tensors of a llama with its config"
UP = "model.layers.1.mlp.up_proj.weight"


def tensors_of(dtype: type[np.generic] = np.float32) -> Tensors:
    """SHAPE's tensors, written out by hand."""
    shapes = {"model.embed_tokens.weight": (11, 24), "model.norm.weight": (24,), "lm_head.weight": (11, 24)}
    for layer in ("model.layers.0", "model.layers.1"):
        shapes |= {f"{layer}.{name}.weight": (24,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{layer}.self_attn.{name}.weight": (16, 24) for name in ("k_proj", "v_proj")}
        shapes |= {f"{layer}.mlp.{name}.weight": (14, 24) for name in ("gate_proj", "up_proj")}
        shapes[f"{layer}.self_attn.q_proj.weight"] = (48, 24)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (24, 48)
        shapes[f"{layer}.mlp.down_proj.weight"] = (24, 14)
    return {name: np.zeros(shape, dtype) for name, shape in shapes.items()}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good one, for the tests to spoil."""
    path = tmp_path / "teacher"
    path.mkdir()
    write_json(path / "config.json", CONFIG)
    write_json(path / "tokenizer.json", TOKENIZER)
    save_file(tensors_of(), path / "model.safetensors")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(TeacherError) as caught:
        inspect_model_folder(path)
    assert caught.value.field == "teacher"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def save_shards(path: Path, tensors: Tensors, shards: list[list[str]]) -> dict[str, str]:
    """Writes shards and their index in the place of the one file; returns the index's map."""
    (path / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: tensors[name] for name in names}, path / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(path / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return weight_map


@pytest.mark.parametrize(("numpy_dtype", "dtype"), [(np.float32, "float32"), (np.float16, "float16")])
def test_a_good_folder_is_read_for_what_it_is(folder: Path, numpy_dtype: type[np.generic], dtype: StoredDtype) -> None:
    tensors = tensors_of(numpy_dtype)
    save_file(tensors, folder / "model.safetensors")
    assert inspect_model_folder(folder) == ModelFolder(
        path=folder,
        config=CONFIG,
        architecture=SHAPE,
        dtype=dtype,
        files=dict.fromkeys(tensors, folder / "model.safetensors"),
    )


@pytest.mark.parametrize("shard_size", ["1GB", "4KB"])
@pytest.mark.parametrize("tied", [True, False])
def test_what_transformers_saves_is_accepted(tmp_path: Path, shard_size: str, tied: bool) -> None:
    config = LlamaConfig.from_dict({**CONFIG, "tie_word_embeddings": tied, "attention_bias": True})
    LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path, max_shard_size=shard_size)
    write_json(tmp_path / "tokenizer.json", TOKENIZER)
    found = inspect_model_folder(tmp_path)
    assert found.architecture == SHAPE.model_copy(update={"tie_word_embeddings": tied, "attention_bias": True})
    assert found.dtype == "bfloat16"
    assert len(set(found.files.values())) == (1 if shard_size == "1GB" else len(list(tmp_path.glob("*.safetensors"))))


def test_every_tensor_of_a_sharded_checkpoint_is_mapped_to_its_shard(folder: Path) -> None:
    tensors = tensors_of()
    names = sorted(tensors)
    weight_map = save_shards(folder, tensors, [names[:5], names[5:6], names[6:]])
    assert inspect_model_folder(folder).files == {name: folder / file for name, file in weight_map.items()}


def test_a_stray_copy_beside_the_weights_is_not_read(folder: Path) -> None:
    """transformers would not read it either; its name sorts last, so that it would win were all files read."""
    save_file(tensors_of(np.float16), folder / "weights-backup.safetensors")
    found = inspect_model_folder(folder)
    assert set(found.files.values()) == {folder / "model.safetensors"}
    assert found.dtype == "float32"


def test_a_tied_checkpoint_may_store_its_head_all_the_same(folder: Path) -> None:
    write_json(folder / "config.json", {**CONFIG, "tie_word_embeddings": True})
    assert inspect_model_folder(folder).architecture.tie_word_embeddings
    tensors = tensors_of()
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert inspect_model_folder(folder).architecture.tie_word_embeddings


@pytest.mark.parametrize(
    ("eos_token_id", "end_of_text"), [(10, 10), (0, 0), ([7, 8], 7), ([], None), (None, None), ("10", None)]
)
def test_the_end_of_text_is_the_first_that_the_config_names(
    folder: Path, eos_token_id: object, end_of_text: int | None
) -> None:
    write_json(folder / "config.json", {**CONFIG, "eos_token_id": eos_token_id})
    assert inspect_model_folder(folder).end_of_text == end_of_text


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"teacher: {tmp_path / 'none'} does not exist; accepted: {A_FOLDER}."


def test_a_file_in_the_place_of_a_folder_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    assert refusal(file) == f"teacher: {file} is not a folder; accepted: {A_FOLDER}."


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_without_its_json_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"teacher: {folder} has no {name}; accepted: {A_FOLDER}."


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{'model_type': 1}", "cannot be read as JSON (Expecting property name enclosed in double quotes"),
        (b"\xff\xfe", "cannot be read as JSON ('utf-8' codec can't decode byte 0xff in position 0"),
        (b"[]", "is not a JSON object; accepted: a Hugging Face folder"),
    ],
)
def test_json_that_is_none_is_refused(folder: Path, name: str, content: bytes, problem: str) -> None:
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith(f"teacher: {folder / name} {problem}")


@pytest.mark.parametrize("model_type", ["t5", None])
def test_another_family_is_answered_with_the_supported_ones(folder: Path, model_type: str | None) -> None:
    write_json(folder / "config.json", {**CONFIG, "model_type": model_type})
    assert refusal(folder) == (
        f"teacher: {model_type} is not a supported model_type; "
        f"accepted: a folder whose model_type is {', '.join(FAMILIES)}."
    )


def test_a_config_without_a_size_is_refused(folder: Path) -> None:
    write_json(folder / "config.json", {**CONFIG, "hidden_size": None})
    expected = f"teacher: {folder / 'config.json'} has no hidden_size; accepted: a complete llama config."
    assert refusal(folder) == expected


def test_quantised_weights_are_refused(folder: Path) -> None:
    write_json(folder / "config.json", {**CONFIG, "quantization_config": {"quant_method": "gptq"}})
    assert refusal(folder) == (f"teacher: {folder} is quantised; accepted: weights in float32, bfloat16 or float16.")
    write_json(folder / "config.json", {**CONFIG, "quantization_config": None})
    assert inspect_model_folder(folder).architecture == SHAPE


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_unread(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert refusal(folder) == (f"teacher: {folder} has its weights in pickle files ({name}); accepted: {WEIGHTS}.")


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == f"teacher: {folder} has no safetensors weights; accepted: {WEIGHTS}."


def cut_in_the_middle(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_in_the_header(content: bytes) -> bytes:
    return content[:40]


def cut_in_the_length(content: bytes) -> bytes:
    return content[:4]


def garbled(content: bytes) -> bytes:
    return struct.pack("<Q", 20) + b"not a header at all!" + content[28:]


def a_list_for_a_header(content: bytes) -> bytes:
    return struct.pack("<Q", 2) + b"[]"


def no_offsets(content: bytes) -> bytes:
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": []}}'
    return struct.pack("<Q", len(header)) + header


def one_byte_short(content: bytes) -> bytes:
    return content[:-1]


DAMAGES = [
    cut_in_the_middle,
    cut_in_the_header,
    cut_in_the_length,
    one_byte_short,
    garbled,
    a_list_for_a_header,
    no_offsets,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_safetensors_file_is_refused(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    sentence = refusal(folder)
    assert sentence.startswith(f"teacher: {file} is not a whole safetensors file (")
    assert sentence.endswith(f"); accepted: {A_FOLDER}.")


def test_a_shard_that_is_not_there_is_refused(folder: Path) -> None:
    tensors = tensors_of()
    names = sorted(tensors)
    save_shards(folder, tensors, [names[:5], names[5:]])
    shard = folder / "model-00002-of-00002.safetensors"
    shard.unlink()
    assert refusal(folder) == f"teacher: {shard} cannot be read (No such file or directory); accepted: {A_FOLDER}."


@pytest.mark.parametrize("index", [{}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_map_is_refused(folder: Path, index: object) -> None:
    (folder / "model.safetensors").unlink()
    path = folder / "model.safetensors.index.json"
    write_json(path, index)
    assert refusal(folder) == f"teacher: {path} has no weight_map from tensors to files; accepted: {A_FOLDER}."


def test_a_missing_tensor_is_named(folder: Path) -> None:
    tensors = tensors_of()
    del tensors[UP]
    save_file(tensors, folder / "model.safetensors")
    assert refusal(folder) == f"teacher: {folder} has no tensor {UP}; accepted: {TABLE}."


def test_an_unexpected_tensor_is_named(folder: Path) -> None:
    extra = "model.layers.2.mlp.up_proj.weight"
    save_file({**tensors_of(), extra: np.zeros((14, 24), np.float32)}, folder / "model.safetensors")
    assert refusal(folder) == f"teacher: {folder} has an unexpected tensor {extra}; accepted: {TABLE}."


@pytest.mark.parametrize("shape", [(24, 14), (14, 23), (14, 24, 1), (336,)])
def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path, shape: tuple[int, ...]) -> None:
    save_file({**tensors_of(), UP: np.zeros(shape, np.float32)}, folder / "model.safetensors")
    assert refusal(folder) == (
        f"teacher: {folder} has {UP} as {shape} where its config says (14, 24); accepted: {TABLE}."
    )


@pytest.mark.parametrize(
    ("changes", "shown"), [({UP: np.float16}, "F16, F32"), (dict.fromkeys(tensors_of(), np.int8), "I8")]
)
def test_weights_that_share_no_dtype_of_ours_are_refused(
    folder: Path, changes: dict[str, type[np.generic]], shown: str
) -> None:
    tensors = {name: tensor.astype(changes.get(name, np.float32)) for name, tensor in tensors_of().items()}
    save_file(tensors, folder / "model.safetensors")
    assert refusal(folder) == (
        f"teacher: {folder} has tensors of dtype {shown}; accepted: one dtype for all: float32, bfloat16, float16."
    )


BPE = {"model": {"vocab": {"a": 0, "b": 11}}}
UNIGRAM = {"model": {"vocab": [["a", -1.0]] * 12}, "added_tokens": None}
ADDED = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 11, "content": "<end>"}]}


@pytest.mark.parametrize("tokenizer", [BPE, UNIGRAM, ADDED])
def test_a_vocabulary_larger_than_the_models_is_refused(folder: Path, tokenizer: object) -> None:
    path = folder / "tokenizer.json"
    write_json(path, tokenizer)
    assert refusal(folder) == (
        f"teacher: {path} has token ids up to 11 where the model's vocab_size is 11; "
        "accepted: a tokenizer whose ids are below 11."
    )


@pytest.mark.parametrize("vocab", [{"a": 10}, [["a", -1.0]] * 11, {}])
def test_a_vocabulary_up_to_the_models_is_accepted(folder: Path, vocab: object) -> None:
    write_json(folder / "tokenizer.json", {"model": {"vocab": vocab}})
    assert inspect_model_folder(folder).architecture == SHAPE


@pytest.mark.parametrize("tokenizer", [{}, {"model": None}, {"model": {"vocab": {"a": "0"}}}, {"model": {"vocab": 5}}])
def test_a_tokenizer_without_a_vocabulary_is_refused(folder: Path, tokenizer: object) -> None:
    path = folder / "tokenizer.json"
    write_json(path, tokenizer)
    assert refusal(folder) == f"teacher: {path} holds no vocabulary; accepted: a tokenizer's own file."
