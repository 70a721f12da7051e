"""A spec from a YAML or JSON file, or from any parsed object, with errors that name the field."""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nas.data_spec import DataSpec
from nas.errors import SpecError
from nas.hub import pinned, pinned_data_set
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
        raise _no_object(content, SearchSpec)
    try:
        spec = SearchSpec.model_validate(content)
    except ValidationError as error:
        raise spec_error(error.errors()) from error

    def absolute(path: str) -> str:
        # Not Path.expanduser, which raises for a user that does not exist; such a path is then simply not there.
        return str(relative_to / os.path.expanduser(path))  # noqa: PTH111

    data = _with_places(spec.data, absolute)
    teacher = absolute(spec.teacher) if pinned(spec.teacher) is None else spec.teacher
    budget, latency = spec.budget, spec.budget.latency
    if latency is not None:
        latency = latency.model_copy(update={"table": absolute(latency.table)})
        budget = budget.model_copy(update={"latency": latency})
    calibration = spec.calibration
    if calibration.questions is not None:
        calibration = calibration.model_copy(update={"questions": absolute(calibration.questions)})
    promotion = spec.promotion
    if promotion.gate is not None:
        gate = promotion.gate.model_copy(update={"questions": absolute(promotion.gate.questions)})
        promotion = promotion.model_copy(update={"gate": gate})
    places = {"teacher": teacher, "budget": budget, "data": data, "calibration": calibration, "promotion": promotion}
    return spec.model_copy(update=places)


def _with_places(data: DataSpec, absolute: Callable[[str], str]) -> DataSpec:
    """The same with its paths made absolute; a data set on the Hub stays what it is."""

    def place(field: str, path: str | None) -> str | None:
        return path if path is None or pinned_data_set(field, path) is not None else absolute(path)

    sources = data.sources and tuple(
        source.model_copy(
            update={
                "name": source.default_name,
                "path": place(f"data.sources.{number}.path", source.path),
                "validation": place(f"data.sources.{number}.validation", source.validation),
            }
        )
        for number, source in enumerate(data.sources)
    )
    places = {"train": place("data.train", data.train), "validation": place("data.validation", data.validation)}
    prepared = data.prepared and absolute(data.prepared)
    return data.model_copy(update={"sources": sources, "prepared": prepared, **places})


def spec_error(errors: Sequence[ErrorDetails], model: type[BaseModel] = SearchSpec) -> SpecError:
    """What pydantic found wrong with a spec, in our words: the first error, with the others in its `also`.

    Locations count from the spec, whose own is empty. Another `model` is something else that a user gives.
    """
    first, *others = [_sentence(details, model) for details in errors]
    first.also = tuple(others)
    return first


def unreadable(source: str, error: BaseException, model: type[BaseModel] = SearchSpec) -> SpecError:
    """`source`, a file or a request, that is neither YAML nor JSON, with what its parser says."""
    name, accepted = _whole(model)
    return SpecError(name, source, f"cannot be parsed ({' '.join(str(error).split())})", accepted)


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
    latency = spec.budget.latency
    table = {} if latency is None else {"budget.latency.table": latency.table}
    gate = {} if spec.promotion.gate is None else {"promotion.gate.questions": spec.promotion.gate.questions}
    paths = {
        **teacher,
        **table,
        **gate,
        "data.prepared": spec.data.prepared,
        "calibration.questions": spec.calibration.questions,
    }
    for source in spec.data.all_sources:
        for text in (source.training, source.validation):
            try:
                if text is not None and pinned_data_set(text.field, text.path) is None:
                    paths[text.field] = text.path
            except SpecError as error:
                errors.append(error)
    relative = [(field, path) for field, path in paths.items() if path is not None and not path.startswith("/")]
    errors += [SpecError(field, path, "is not an absolute path", _ABSOLUTE) for field, path in relative]
    if errors:
        errors[0].also = tuple(errors[1:])
        raise errors[0]


def _whole(model: type[BaseModel]) -> tuple[str, str]:
    """What all that a user gives is called, and what is accepted for it."""
    return ("spec", _ACCEPTED) if model is SearchSpec else ("request", _fields_at(model, []))


def _no_object(content: object, model: type[BaseModel]) -> SpecError:
    name, accepted = _whole(model)
    return SpecError(name, "nothing" if content is None else type(content).__name__, "is not an object", accepted)


def _sentence(details: ErrorDetails, whole: type[BaseModel]) -> SpecError:
    if not details["loc"]:
        return _no_object(details["input"], whole)
    # Where a list stands for its `values`, they are not spelled out; `[key]` is pydantic's for a key of a mapping.
    location = [part for part in details["loc"] if part not in ("values", "[key]")]
    names = [part for part in location if isinstance(part, str)]
    field, value = ".".join(map(str, location)), details["input"]
    if details["type"] in ("extra_forbidden", "invalid_key"):
        return SpecError(field, value, f"is not a field of a {_whole(whole)[0]}", _fields_at(whole, names[:-1]))
    if details["type"] in ("model_type", "model_attributes_type"):
        return SpecError(field, value, "is not an object", _object_at(whole, names))
    if details["type"] == "missing":
        return SpecError(field, "nothing", "is given, but it is required", _description(whole, names))
    return SpecError(field, value, problem(details), _description(whole, names))


def _object_at(whole: type[BaseModel], names: list[str]) -> str:
    """What a field takes that was given something else: in its own words where an object is not all that it takes."""
    field, fields = _model_at(whole, names[:-1]).model_fields[names[-1]], _fields_at(whole, names)
    return fields if isinstance(field.annotation, type) else field.description or fields


def _fields_at(whole: type[BaseModel], names: list[str]) -> str:
    return "an object with the fields " + ", ".join(_model_at(whole, names).model_fields)


def _model_at(whole: type[BaseModel], names: list[str]) -> type[BaseModel]:
    model = whole
    for name in names:
        model = _model_of(model.model_fields[name].annotation) or model
    return model


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, or may hold, or holds several of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for option in get_args(annotation) if (model := _model_of(option)) is not None), None)


def _description(whole: type[BaseModel], names: list[str]) -> str:
    """Of the innermost field on the way that has one: keys of a mapping have none of their own."""
    described = "another value"
    model: type[BaseModel] | None = whole
    for name in names:
        if model is None or name not in model.model_fields:
            break
        field = model.model_fields[name]
        described, model = field.description or described, _model_of(field.annotation)
    return described
