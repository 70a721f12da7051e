"""A spec from a YAML or JSON file, or from any parsed object, with errors that name the field."""

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nas.errors import SpecError
from nas.spec import SearchSpec

_ACCEPTED = "a YAML or JSON file that holds one object with the fields " + ", ".join(SearchSpec.model_fields)


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
    except (ValueError, yaml.YAMLError) as error:
        raise SpecError("spec", str(path), f"cannot be parsed ({' '.join(str(error).split())})", _ACCEPTED) from error
    return parse_spec(content, relative_to=path.resolve().parent)


def parse_spec(content: object, *, relative_to: Path) -> SearchSpec:
    """The validated spec, its paths made absolute. Raises SpecError."""
    if not isinstance(content, dict):
        raise SpecError("spec", "nothing" if content is None else type(content).__name__, "is not an object", _ACCEPTED)
    try:
        spec = SearchSpec.model_validate(content)
    except ValidationError as error:
        first, *others = [_sentence(details) for details in error.errors()]
        first.also = tuple(others)
        raise first from error

    def absolute(path: str) -> str:
        # Not Path.expanduser, which raises for a user that does not exist; such a path is then simply not there.
        return str(relative_to / os.path.expanduser(path))  # noqa: PTH111

    validation = None if spec.data.validation is None else absolute(spec.data.validation)
    data = spec.data.model_copy(update={"train": absolute(spec.data.train), "validation": validation})
    return spec.model_copy(update={"teacher": absolute(spec.teacher), "data": data})


def _sentence(details: ErrorDetails) -> SpecError:
    location = [part for part in details["loc"] if isinstance(part, str)]
    field, value = ".".join(map(str, details["loc"])), details["input"]
    if details["type"] in ("extra_forbidden", "invalid_key"):
        parents = [str(part) for part in details["loc"][:-1]]
        return SpecError(field, value, "is not a field of a spec", _fields_at(parents))
    if details["type"] == "model_type":
        return SpecError(field, value, "is not an object", _fields_at(location))
    if details["type"] == "missing":
        return SpecError(field, "nothing", "is given, but it is required", _description(location))
    problem = re.sub("^(Value error, |(Input|String) )", "", details["msg"])
    return SpecError(field, value, problem, _description(location))


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
