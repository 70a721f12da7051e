"""Teachers from the Hugging Face Hub: `hf://ORG/NAME@COMMIT`. The only file that knows the Hub's client.

The client is imported within functions, since nobody who names a folder should wait for it. It reads its own variables
(HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE), sends the token itself, and keeps what it fetches in its cache. Only
JSON, tokenizer files and safetensors are ever fetched: nothing of a repository is run.
"""

import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from nas.errors import DataError, ServiceError, SettingError, SpecError, TeacherError
from nas.model_folder import (
    INDEX,
    WHOLE,
    Header,
    ModelFolder,
    check_whole,
    inspect_config_folder,
    inspect_model_folder,
    weight_files,
)

ACCEPTED = "hf://ORG/NAME@COMMIT, with a commit of 40 hex digits"
ACCEPTED_DATA_SET = "hf://datasets/ORG/NAME@COMMIT, with a commit of 40 hex digits"
CONFIG_FILES = ("config.json", "tokenizer.json", INDEX)
"""What the shape of a teacher is read from."""

OTHER_FILES = (
    "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json",
    "merges.txt", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
"""What goes into an exported model besides."""

_PREFIX = "hf://"
_DATA_SETS = f"{_PREFIX}datasets/"
_REPOSITORY = re.compile(r"(?=.{1,96}$)(?!.*(?:--|\.\.|\.git$))(\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?)", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}", re.IGNORECASE)
_IN_REACH = "a repository in reach, or one that the cache has already"
_READABLE = "a public repository, or one that HF_TOKEN, set where the teacher is read, gives access to"
_ANSWER_SECONDS = 10.0
_HEADERS_AT_ONCE = 8


@dataclass(frozen=True)
class Pinned:
    """A repository of the Hub at one commit, which never changes."""

    repository: str
    commit: str

    def __str__(self) -> str:
        return f"{_PREFIX}{self.repository}@{self.commit}"


def pinned(teacher: str) -> Pinned | None:
    """What a spec's teacher names on the Hub; None for a path. Raises SpecError for `hf://` of another form."""
    return _pinned("teacher", teacher, _PREFIX, ACCEPTED)


def pinned_data_set(field: str, path: str) -> Pinned | None:
    """What a path of a spec's data names on the Hub; None for another. Raises SpecError for `hf://` of another form."""
    return _pinned(field, path, _DATA_SETS, ACCEPTED_DATA_SET)


def _pinned(field: str, given: str, prefix: str, accepted: str) -> Pinned | None:
    if not given.startswith(_PREFIX):
        return None
    repository, _, revision = given.removeprefix(prefix).partition("@")
    if not (given.startswith(prefix) and _REPOSITORY.fullmatch(repository)):
        raise SpecError(field, given, "names no repository of the Hub", accepted)
    if not _COMMIT.fullmatch(revision):
        raise SpecError(field, given, "names no pinned revision", accepted)
    return Pinned(repository, revision.lower())


def inspect_teacher(teacher: str, *, whole: bool = True) -> ModelFolder:
    """The teacher that a spec names, a folder or a hub id, without its weights being fetched.

    On the Hub, the tensors are checked by the headers of the safetensors files alone. `files` then says where
    `weights_folder` will put them. Where `whole` is False, weights and tokenizer may be missing: that is enough to
    enumerate candidates, also while the Hub is out of reach and the cache has no more than the config.

    Raises TeacherError, in the user's own words for the teacher; SpecError for a hub id of another form.
    """
    source = pinned(teacher)
    if source is None:
        return inspect_model_folder(Path(teacher)) if whole else inspect_config_folder(Path(teacher))
    with _in_words_of(source):
        folder = _inspect_in_cache(source) or _inspect_on_hub(source)
        if whole:
            check_whole(folder)
    return folder


def config_folder(teacher: str) -> Path:
    """The folder of a teacher's config, and of its tokenizer and index if it has them; a path is returned as it is.

    Raises TeacherError if the repository has its weights as pickles, or cannot be read.
    """
    source = pinned(teacher)
    if source is None:
        return Path(teacher)
    with _in_words_of(source):
        try:
            return _fetch_config(source)[0]
        except _OutOfReach as error:
            return _cached(source) or _refuse(source, error)


def weights_folder(teacher: str) -> Path:
    """The folder of the whole teacher, fetched unless the cache has it; a path is returned as it is.

    Raises TeacherError for a repository that cannot be used, and ServiceError while the Hub is out of reach: that may
    pass, so a worker's job is tried again.
    """
    source = pinned(teacher)
    if source is None:
        return Path(teacher)
    try:
        with _in_words_of(source):
            return _fetch_weights(source)
    except _OutOfReach as error:
        raise ServiceError(f"{source} {error}") from error


def check_data_set(field: str, source: Pinned) -> None:
    """Raises DataError for a data set that is not there or may not be read, ServiceError for a Hub out of reach."""
    from huggingface_hub import HfApi

    try:
        with _explained(source):
            HfApi().dataset_info(source.repository, revision=source.commit, timeout=_ANSWER_SECONDS)
    except TeacherError as error:
        accepted = ACCEPTED_DATA_SET if error.accepted == ACCEPTED else _READABLE.replace("teacher", "text")
        raise DataError(field, f"{_DATA_SETS}{source.repository}@{source.commit}", error.problem, accepted) from error
    except _OutOfReach as error:
        raise ServiceError(f"{_DATA_SETS}{source.repository}@{source.commit} {error}") from error


# --- looking --------------------------------------------------------------------------------------------------


def _inspect_in_cache(source: Pinned) -> ModelFolder | None:
    """The teacher, if all of it was fetched before: a commit never changes, so the Hub need not be asked."""
    folder = _cached(source)
    if folder is None or not _has_weights(folder) or not (folder / "tokenizer.json").exists():
        return None
    return inspect_config_folder(folder)


def _inspect_on_hub(source: Pinned) -> ModelFolder:
    try:
        return _inspect_remote(source)
    except _OutOfReach as error:
        folder = _cached(source) or _refuse(source, error)
        return inspect_config_folder(folder, headers={})


@lru_cache(maxsize=64)
def _inspect_remote(source: Pinned) -> ModelFolder:
    """Kept in memory, since each page of a long list of candidates asks anew."""
    folder, names = _fetch_config(source)
    files = weight_files(folder, names)
    with _explained(source), ThreadPoolExecutor(_HEADERS_AT_ONCE) as threads:
        headers = dict(zip(files, threads.map(lambda name: _header(source, name), files), strict=True))
    return inspect_config_folder(folder, headers)


def _header(source: Pinned, name: str) -> Header:
    """Of a safetensors file on the Hub; its tensors are not fetched."""
    from huggingface_hub import HfApi

    found = HfApi().parse_safetensors_file_metadata(
        source.repository, name, revision=source.commit, timeout=_ANSWER_SECONDS
    )
    return {tensor: (info.dtype, tuple(info.shape)) for tensor, info in found.tensors.items()}


# --- fetching -------------------------------------------------------------------------------------------------


def _fetch_config(source: Pinned) -> tuple[Path, list[str]]:
    """The folder of the small files, and the names of all files; raises TeacherError if the weights are pickles."""
    from huggingface_hub import hf_hub_download

    names = _listed(source)
    fetched = {}
    for name in CONFIG_FILES:
        if name in names:
            with _explained(source):
                fetched[name] = Path(hf_hub_download(source.repository, name, revision=source.commit))
    if "config.json" not in fetched:
        raise TeacherError("teacher", str(source), "has no config.json", "a repository of a Hugging Face model")
    folder = fetched["config.json"].parent
    weight_files(folder, names)
    return folder, names


def _fetch_weights(source: Pinned) -> Path:
    folder = _fetch(source, (*CONFIG_FILES, *OTHER_FILES, WHOLE))
    if not _has_weights(folder):
        shards = weight_files(folder, _names_in(folder))
        if shards:
            folder = _fetch(source, shards)
    if not _has_weights(folder):
        # Of a folder without weights it is the list of files that says whether they are pickles. And a Hub that does
        # not answer is no reason to think that there are none.
        weight_files(folder, _listed(source))
    return folder


def _fetch(source: Pinned, names: Collection[str]) -> Path:
    """Those of the files that the repository has, in its folder of the cache."""
    from huggingface_hub import snapshot_download

    with _explained(source):
        return Path(snapshot_download(source.repository, revision=source.commit, allow_patterns=list(names)))


def _listed(source: Pinned) -> list[str]:
    """The names of the files at the top of the repository."""
    from huggingface_hub import HfApi

    with _explained(source):
        found = HfApi().model_info(source.repository, revision=source.commit, timeout=_ANSWER_SECONDS)
    return [sibling.rfilename for sibling in found.siblings or [] if "/" not in sibling.rfilename]


def _cached(source: Pinned) -> Path | None:
    """The repository's folder of the cache, if it holds the config."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.repository, "config.json", revision=source.commit)
    return Path(found).parent if isinstance(found, str) else None


def _names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()] if folder.is_dir() else []


def _has_weights(folder: Path) -> bool:
    files = weight_files(folder, _names_in(folder))
    return bool(files) and all((folder / name).exists() for name in files)


# --- what goes wrong ------------------------------------------------------------------------------------------


class _OutOfReach(Exception):
    """The Hub does not answer, and the cache does not do. The text follows the teacher in a sentence."""


def _refuse(source: Pinned, error: _OutOfReach) -> NoReturn:
    raise TeacherError("teacher", str(source), str(error), _IN_REACH) from error


@contextmanager
def _in_words_of(source: Pinned) -> Iterator[None]:
    """TeacherErrors about a folder of the cache, said of the hub id that the user gave."""
    try:
        yield
    except TeacherError as error:
        folder = _cached(source)
        if folder is None or not str(error.value).startswith(str(folder)):
            raise
        shown = str(source) + str(error.value).removeprefix(str(folder))
        raise TeacherError(error.field, shown, error.problem, error.accepted) from error


@contextmanager
def _explained(source: Pinned) -> Iterator[None]:
    """Turns what the client raises into TeacherError, or _OutOfReach where asking again may help."""
    from huggingface_hub import errors

    _prepare()
    try:
        yield
    except errors.GatedRepoError as error:
        raise TeacherError("teacher", str(source), "is gated, and no access to it was granted", _READABLE) from error
    except errors.RevisionNotFoundError as error:
        raise TeacherError("teacher", str(source), "is not a commit of this repository", ACCEPTED) from error
    except errors.SafetensorsParsingError as error:
        problem = "has weights that are not whole safetensors files"
        raise TeacherError("teacher", str(source), problem, "safetensors weights") from error
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # httpx's, of any version
        status = _status(error)
        if status in (401, 403, 404):
            problem = f"is not there, or may not be read (the Hub answers {status})"
            raise TeacherError("teacher", str(source), problem, _READABLE) from error
        raise _OutOfReach(f"cannot be fetched from the Hub ({_reason(error, status)})") from error


def _prepare() -> None:
    """Sees to it that the client neither draws over our progress nor tells a token that it cannot send."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not re.fullmatch("[!-~]*", os.environ.get("HF_TOKEN", "").strip()):
        raise SettingError("HF_TOKEN", "its value", "is no token of the Hub", "hf_ with letters and digits, or nothing")
    if "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        disable_progress_bars()


def _status(error: BaseException | None) -> int | None:
    """What the Hub answered, if it did: the client may have wrapped it in an error about its cache."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _reason(error: BaseException, status: int | None) -> str:
    if status is not None:
        return f"it answers {status}"
    while error.__cause__ is not None:
        error = error.__cause__
    if "HF_HUB_OFFLINE" in str(error):
        return "HF_HUB_OFFLINE is set, and the cache does not have it"
    return " ".join(str(error).split()) or type(error).__name__
