"""Addresses of artifacts: paths, or URLs of a store; where attempts write, and which fields of jobs name artifacts."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from nas.border import Border

Content = TypeVar("Content", bound=Border)


@dataclass(frozen=True)
class Artifact:
    """Marks a field as the address of a file or folder that a job wrote, not one that a user gave.

    `beside` are the suffixes of files next to it, of the same name, that it is read with.
    """

    beside: tuple[str, ...] = ()


Address = Annotated[str, Artifact()]
TokenFile = Annotated[str, Artifact(beside=(".json",))]


def is_url(address: str) -> bool:
    """Whether it leads to a store, and not to a file system of this machine."""
    return "://" in address


def attempt_folder(root: Path | str, job_id: int, attempt: int) -> str:
    """Where an attempt writes, below the root of all artifacts."""
    return f"{str(root).rstrip('/')}/jobs/{job_id:06d}/attempt-{attempt}"


def attempt_folder_of(address: str) -> tuple[str, str] | None:
    """The attempt's folder that an artifact lies in, and its path there; None of what no attempt wrote."""
    found = re.fullmatch(r"(.*/jobs/\d{6,}/attempt-\d+)/(.+)", address)
    return None if found is None else (found[1], found[2])


def mapped(content: Content, change: Callable[[str, Artifact], str]) -> Content:
    """The same job or result with every address of an artifact in it, however deep, replaced by what `change` says."""
    fields = type(content).model_fields
    values = {name: _mapped(getattr(content, name), _mark(field), change) for name, field in fields.items()}
    return content.model_copy(update=values)


def _mapped(value: Any, mark: Artifact | None, change: Callable[[str, Artifact], str]) -> Any:
    if isinstance(value, Border):
        return mapped(value, change)
    if isinstance(value, tuple):
        return tuple(_mapped(each, mark, change) for each in value)
    return value if value is None or mark is None else change(value, mark)


def _mark(field: Any) -> Artifact | None:
    """That of a field, or of what its tuples and options hold."""
    return next((each for each in (*field.metadata, *_parts(field.annotation)) if isinstance(each, Artifact)), None)


def _parts(annotation: Any) -> Iterator[Any]:
    for each in get_args(annotation):
        yield each
        yield from _parts(each)
