"""What can be known of a Hugging Face folder without loading a tensor: config, shapes, dtype, vocabulary."""

import json
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas.architecture import Architecture
from nas.errors import TeacherError
from nas.families import Family, family_named

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The weights in one file, or what says which shards hold them."""

Header = dict[str, tuple[str, tuple[int, ...]]]
"""What a safetensors file says of its tensors: name -> stored dtype and shape."""

_ACCEPTED = "a Hugging Face folder with config.json, safetensors weights and tokenizer.json"
_WEIGHTS = "model.safetensors, or shards with model.safetensors.index.json; pickles can run code and are not read"
StoredDtype = Literal["float32", "bfloat16", "float16"]
_DTYPES: dict[str, StoredDtype] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_CHOOSES_CODE = ("auto_map", "attn_implementation", "experts_implementation", "custom_pipelines")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_OF_TRAINING = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt")


@dataclass(frozen=True)
class ModelFolder:
    """A checkpoint that has the shape it claims, or the config of one.

    `files` maps every tensor, by the family table's name for it, to the file that holds it, and is empty where there
    is a config only; `stored_as` has the names that differ there.
    """

    path: Path
    config: dict[str, Any]
    architecture: Architecture
    dtype: StoredDtype
    files: dict[str, Path]
    stored_as: dict[str, str] = field(default_factory=dict)

    @property
    def has_weights(self) -> bool:
        return bool(self.files)

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that the config says the model was made for."""
        given = self.family.rules.read(self.config, "max_position_embeddings")
        return given if isinstance(given, int) else None

    @property
    def sliding_layers(self) -> tuple[bool, ...]:
        """For every layer, whether it attends to a window only."""
        return self.family.rules.sliding_layers(self.config, self.architecture.num_hidden_layers)

    @property
    def family(self) -> Family:
        return family_named(self.architecture.family)

    @property
    def end_of_text(self) -> int | None:
        """The token that ends a document, the first where the config names several."""
        token = self.config.get("eos_token_id")
        first = token[0] if isinstance(token, list) and token else token
        return first if isinstance(first, int) else None


def inspect_model_folder(path: Path) -> ModelFolder:
    """Reads and checks a teacher's folder; raises TeacherError with the first thing that is wrong."""
    folder = inspect_config_folder(path)
    check_whole(folder)
    return folder


def inspect_config_folder(path: Path, headers: Mapping[str, Header] | None = None) -> ModelFolder:
    """Reads and checks a folder that needs to have a config only; raises TeacherError with the first thing wrong.

    Weights and tokenizer are checked if they are there, pickles are refused. `headers`, by file, are those of weights
    that are elsewhere and belong into the folder. Without weights, the dtype is the one that the config names, or
    bfloat16 if it names none.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - unlike Path, not an error for a name that no system takes.
        problem = "is not a folder" if os.path.exists(path) else "does not exist"  # noqa: PTH110
        raise TeacherError("teacher", str(path), problem, _ACCEPTED)
    config = _without_code(_read_json(path / "config.json"))
    family = family_named(config.get("model_type"))
    if config.get("quantization_config") is not None:
        raise TeacherError("teacher", str(path), "is quantised", "weights in float32, bfloat16 or float16")
    architecture = family.architecture(config, source=str(path / "config.json"))
    if headers is None:
        headers = _headers_in(path)
    if headers:
        stored = {name: _Stored(path / file, *of) for file, header in headers.items() for name, of in header.items()}
        names = _table_names(family, architecture, stored)
        dtype = _check_tensors(path, family, architecture, {name: stored[names[name]] for name in names})
    else:
        stored, names, dtype = {}, {}, _named_dtype(path, config)
    folder = ModelFolder(
        path,
        config,
        architecture,
        dtype,
        files={name: stored[names[name]].file for name in names},
        stored_as={name: stored_name for name, stored_name in names.items() if name != stored_name},
    )
    _check_vocabulary(path, architecture, folder.end_of_text)
    return folder


def check_whole(folder: ModelFolder) -> None:
    """Raises TeacherError for a folder that lacks weights or tokenizer."""
    if not folder.has_weights:
        raise TeacherError("teacher", str(folder.path), "has no safetensors weights", _WEIGHTS)
    if not (folder.path / "tokenizer.json").exists():
        raise _has_no(folder.path / "tokenizer.json")


def weight_files(path: Path, names: Collection[str]) -> list[str]:
    """Which of a folder's files hold its weights: those that transformers would load, in its order of preference.

    A stray copy beside the weights is not among them. Of the files only the index needs to be at `path`. Raises
    TeacherError if all the weights are pickles, and for an index that names no safetensors files.
    """
    if WHOLE in names:
        return [WHOLE]
    if INDEX in names:
        weight_map = _read_json(path / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(map(_is_shard, weight_map.values())):
            raise TeacherError("teacher", str(path / INDEX), "has no weight_map from tensors to files", _ACCEPTED)
        return sorted(set(weight_map.values()))
    if pickles := sorted(name for name in names if name.endswith(_PICKLES) and name not in _OF_TRAINING):
        raise TeacherError("teacher", str(path), f"has its weights in pickle files ({pickles[0]})", _WEIGHTS)
    return []


def _without_code(config: dict[str, Any]) -> dict[str, Any]:
    """The config less what could choose code to run: remote classes, kernels by name, private settings."""
    return {key: value for key, value in config.items() if key not in _CHOOSES_CODE and not key.startswith("_")}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise _has_no(path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise TeacherError("teacher", str(path), f"cannot be read as JSON ({error})", _ACCEPTED) from error
    if not isinstance(content, dict):
        raise TeacherError("teacher", str(path), "is not a JSON object", _ACCEPTED)
    return content


def _has_no(file: Path) -> TeacherError:
    return TeacherError("teacher", str(file.parent), f"has no {file.name}", _ACCEPTED)


@dataclass(frozen=True)
class _Stored:
    """A tensor in a safetensors file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def _headers_in(path: Path) -> dict[str, Header]:
    """Of every file that holds weights; none where an index is all that is there of them."""
    try:
        names = [file.name for file in path.iterdir()]
    except OSError as error:
        raise TeacherError("teacher", str(path), f"cannot be read ({error.strerror})", _ACCEPTED) from error
    files = [path / name for name in weight_files(path, names)]
    return {file.name: _header(file) for file in files} if any(file.exists() for file in files) else {}


def _is_shard(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")


def _table_names(family: Family, architecture: Architecture, stored: Iterable[str]) -> dict[str, str]:
    """The table's name of every tensor that is stored -> the name it is stored under.

    Old checkpoints may leave the family's prefix out, call a tensor otherwise, or carry some that nothing reads.
    """
    expected = {name for name, _ in family.tensors(architecture)} | {p.name for p in family.parameters if p.embedding}
    names = {}
    for name in stored:
        candidates = (name, family.renamed.get(name, name), family.prefix + name)
        known = next((candidate for candidate in candidates if candidate in expected), None)
        if known is not None or not name.endswith(family.ignored):
            names[known or name] = name
    return names


def _header(file: Path) -> Header:
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(opened.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if 8 + length + end != file.stat().st_size:
            raise ValueError("it is cut short")
        return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    except OSError as error:
        raise TeacherError("teacher", str(file), f"cannot be read ({error.strerror})", _ACCEPTED) from error
    except (ValueError, struct.error, LookupError, TypeError, AttributeError) as error:
        raise TeacherError("teacher", str(file), f"is not a whole safetensors file ({error})", _ACCEPTED) from error


def _check_tensors(path: Path, family: Family, architecture: Architecture, tensors: dict[str, _Stored]) -> StoredDtype:
    """Holds the tensors against the family's table; returns the dtype they share."""
    expected = dict(family.tensors(architecture))
    accepted = f"the {len(expected)} tensors of a {family.model_type} with its config"
    for name, shape in expected.items():
        if name not in tensors:
            raise TeacherError("teacher", str(path), f"has no tensor {name}", accepted)
        if tensors[name].shape != shape:
            problem = f"has {name} as {tensors[name].shape} where its config says {shape}"
            raise TeacherError("teacher", str(path), problem, accepted)
    # A checkpoint with a tied head may store the head all the same; whoever loads it finds it to be the embedding.
    tolerated = {each.name: each.shape(architecture) for each in family.parameters if each.embedding}
    if unknown := sorted(name for name in set(tensors) - set(expected) if tensors[name].shape != tolerated.get(name)):
        raise TeacherError("teacher", str(path), f"has an unexpected tensor {unknown[0]}", accepted)
    dtypes = {tensors[name].dtype for name in expected}
    if len(dtypes) != 1 or not dtypes <= set(_DTYPES):
        problem = f"has tensors of dtype {', '.join(sorted(dtypes))}"
        raise TeacherError("teacher", str(path), problem, "one dtype for all: " + ", ".join(_DTYPES.values()))
    return _DTYPES[dtypes.pop()]


def _named_dtype(path: Path, config: dict[str, Any]) -> StoredDtype:
    """What a config says that its weights are stored in; older ones call it torch_dtype."""
    given = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    found = [dtype for dtype in _DTYPES.values() if given in (dtype, f"torch.{dtype}")]
    if not found:
        raise TeacherError("teacher", str(path / "config.json"), f"has dtype {given}", ", ".join(_DTYPES.values()))
    return found[0]


def _check_vocabulary(path: Path, architecture: Architecture, end_of_text: int | None) -> None:
    """Holds the ids of the tokenizer, if there is one, and the one that ends a text against the embedding's size."""
    if end_of_text is not None and end_of_text >= architecture.vocab_size:
        raise TeacherError(
            "teacher",
            str(path / "config.json"),
            f"has eos_token_id {end_of_text} where its vocab_size is {architecture.vocab_size}",
            f"an id below {architecture.vocab_size}",
        )
    if not (path / "tokenizer.json").exists():
        return
    tokenizer = _read_json(path / "tokenizer.json")
    try:
        vocab = tokenizer["model"]["vocab"]
        # BPE and WordPiece map tokens to ids; Unigram lists them in the order of their ids.
        largest = max(vocab.values(), default=-1) if isinstance(vocab, dict) else len(vocab) - 1
        largest = max([largest, *(token["id"] for token in tokenizer.get("added_tokens") or [])])
        fits = largest < architecture.vocab_size
    except (LookupError, TypeError) as error:
        problem = "holds no vocabulary"
        raise TeacherError("teacher", str(path / "tokenizer.json"), problem, "a tokenizer's own file") from error
    if not fits:
        raise TeacherError(
            "teacher",
            str(path / "tokenizer.json"),
            f"has token ids up to {largest} where the model's vocab_size is {architecture.vocab_size}",
            f"a tokenizer whose ids are below {architecture.vocab_size}",
        )
