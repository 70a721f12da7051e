"""A spec from a YAML or JSON file, or from any parsed object, with errors that name the field."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nas.errors import SpecError
from nas.hub import pinned
from nas.spec import SearchSpec

_ACCEPTED = "a YAML or JSON file that holds one object with the fields " + ", ".join(SearchSpec.model_fields)
_ABSOLUTE = "a path on the server that begins with /"


def read_spec(path: Path) -> SearchSpec:
    """The spec in `path`; relative paths in it count from the file's folder.

    Raises SpecError; its `also` lists the further errors where there is more than one.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SpecError("spec", str(path), f"cannot be read ({reason})", _ACCEPTED) from error
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise unreadable(str(path), error) from error
    return parse_spec(content, relative_to=path.resolve().parent)


def parse_spec(content: object, *, relative_to: Path) -> SearchSpec:
    """The validated spec, its paths made absolute; a teacher on the Hub stays what it is. Raises SpecError."""
    if not isinstance(content, dict):
        raise _no_object(content)
    try:
        spec = SearchSpec.model_validate(content)
    except ValidationError as error:
        raise spec_error(error.errors()) from error

    def absolute(path: str) -> str:
        # Not Path.expanduser, which raises for a user that does not exist; such a path is then simply not there.
        return str(relative_to / os.path.expanduser(path))  # noqa: PTH111

    validation = None if spec.data.validation is None else absolute(spec.data.validation)
    data = spec.data.model_copy(update={"train": absolute(spec.data.train), "validation": validation})
    teacher = absolute(spec.teacher) if pinned(spec.teacher) is None else spec.teacher
    return spec.model_copy(update={"teacher": teacher, "data": data})


def spec_error(errors: Sequence[ErrorDetails]) -> SpecError:
    """What pydantic found wrong with a spec, in our words: the first error, with the others in its `also`.

    Locations count from the spec, whose own is empty.
    """
    first, *others = [_sentence(details) for details in errors]
    first.also = tuple(others)
    return first


def unreadable(source: str, error: BaseException) -> SpecError:
    """`source`, a file or a request, that is neither YAML nor JSON, with what its parser says."""
    return SpecError("spec", source, f"cannot be parsed ({' '.join(str(error).split())})", _ACCEPTED)


def problem(details: ErrorDetails) -> str:
    """What pydantic says is wrong with a value, to follow the value in a sentence."""
    return re.sub("^(Value error, |(Input|String) )", "", details["msg"])


def check_absolute(spec: SearchSpec) -> None:
    """Raises SpecError for paths that count from somewhere, for use where nobody knows from where.

    A teacher may be on the Hub instead, if it is pinned.
    """
    errors = []
    try:
        on_hub = pinned(spec.teacher) is not None
    except SpecError as error:
        on_hub = True
        errors.append(error)
    teacher = {} if on_hub else {"teacher": spec.teacher}
    paths = {**teacher, "data.train": spec.data.train, "data.validation": spec.data.validation}
    relative = [(field, path) for field, path in paths.items() if path is not None and not path.startswith("/")]
    errors += [SpecError(field, path, "is not an absolute path", _ABSOLUTE) for field, path in relative]
    if errors:
        errors[0].also = tuple(errors[1:])
        raise errors[0]


def _no_object(content: object) -> SpecError:
    shown = "nothing" if content is None else type(content).__name__
    return SpecError("spec", shown, "is not an object", _ACCEPTED)


def _sentence(details: ErrorDetails) -> SpecError:
    if not details["loc"]:
        return _no_object(details["input"])
    location = [part for part in details["loc"] if isinstance(part, str)]
    field, value = ".".join(map(str, details["loc"])), details["input"]
    if details["type"] in ("extra_forbidden", "invalid_key"):
        parents = [str(part) for part in details["loc"][:-1]]
        return SpecError(field, value, "is not a field of a spec", _fields_at(parents))
    if details["type"] in ("model_type", "model_attributes_type"):
        return SpecError(field, value, "is not an object", _fields_at(location))
    if details["type"] == "missing":
        return SpecError(field, "nothing", "is given, but it is required", _description(location))
    return SpecError(field, value, problem(details), _description(location))


def _fields_at(location: list[str]) -> str:
    return "an object with the fields " + ", ".join(_model_at(location).model_fields)


def _model_at(location: list[str]) -> type[BaseModel]:
    model: type[BaseModel] = SearchSpec
    for part in location:
        annotation: Any = model.model_fields[part].annotation
        model = annotation
    return model


def _description(location: list[str]) -> str:
    return _model_at(location[:-1]).model_fields[location[-1]].description or "another value"
