"""The documents hold: all settings, commands, requests and errors are described, and every link leads somewhere."""

import argparse
import json
import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from api.app import create_app
from api.cli import _parser
from api.settings import Settings
from nas import errors
from nas.space import IntermediateSizes, Sizes
from nas.spec import SearchSpec
from nas.spec_file import parse_spec
from nas.views import ErrorView, EventKind, EventView, ProgressView

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DECISIONS = DOCS / "decisions"
SPEC_PAGE, REST_PAGE, COMMANDS_PAGE = (
    (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("spec", "rest", "commands")
)
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("README.md")])


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted name and definition of every field that holds a value, not further fields."""
    for name, field in model.model_fields.items():
        held = model_of(field.annotation)
        several = next((each for each in map(model_of, get_args(field.annotation)) if each is not None), None)
        if held is None or issubclass(held, Sizes):
            yield f"{prefix}{name}", field
        if held is not None and not issubclass(held, Sizes):
            yield from fields_of(held, f"{prefix}{name}.")
        elif held is None and several is not None:  # A list of them.
            yield from fields_of(several, f"{prefix}{name}.")


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, or may hold."""
    options = (annotation,) if isinstance(annotation, type) else get_args(annotation)
    return next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), None)


FIELDS = dict(fields_of(SearchSpec))


def documented_fields() -> dict[str, list[str]]:
    """The cells after the first of every table row of the spec's page, by each name that the first one holds."""
    return {name: cells for first, *cells in rows_of(SPEC_PAGE) for name in in_code(first)}


def rows_of(page: str) -> list[list[str]]:
    """The cells of every table row of a page that begins with something in code."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in page.splitlines() if line.startswith("| `")]


def in_code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def shows(cell: str, field: FieldInfo) -> bool:
    """Whether a cell of the default column says what the field's default is."""
    if field.is_required():
        return cell == "required"
    if field.default is None or field.default_factory is dict:
        return cell == "none"
    value = cell.strip("`")
    if isinstance(field.default, bool):
        return value == str(field.default).lower()
    if isinstance(field.default, str):
        return value == field.default
    return bool(json.loads(value.replace("_", "")) == json.loads(json.dumps(field.default)))


def links_of(page: Path) -> list[str]:
    """The relative links of a page without their fragments; code is not looked at."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [target for target in targets if target and ":" not in target]


def block(page: str, language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
    return str(found)


# --- the spec -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_the_spec_is_documented_with_its_default_and_what_it_accepts(name: str) -> None:
    default, accepted, meaning = documented_fields()[name]
    assert shows(default, FIELDS[name])
    assert accepted == FIELDS[name].description
    assert meaning


def test_no_other_field_is_documented() -> None:
    names = {name for name in documented_fields() if not name.startswith("TOPIARY_")}
    assert names == set(FIELDS)


def test_every_way_to_give_sizes_is_documented() -> None:
    section = SPEC_PAGE.split("## space")[1].split("## data")[0]
    assert all(re.search(rf"\b{name}\b", section) for name in IntermediateSizes.model_fields)


def test_the_example_is_a_spec() -> None:
    parse_spec(yaml.safe_load(block(SPEC_PAGE, "yaml")), relative_to=DOCS)


def test_environment_variables_are_documented() -> None:
    settings = (ROOT / "api" / "settings.py").read_text(encoding="utf-8")
    variables = set(re.findall(r"TOPIARY_[A-Z_]+", settings))
    assert variables
    assert variables == {name for name in documented_fields() if name.startswith("TOPIARY_")}


# --- commands -----------------------------------------------------------------------------------------------


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Those that are shown; --help is understood."""
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return {name for action in shown for name in action.option_strings if name.startswith("--")} - {"--help"}


(COMMANDS,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]


def test_every_command_is_documented_with_its_options_and_no_other() -> None:
    documented = {in_code(cells[0])[0]: cells[1:] for cells in rows_of(COMMANDS_PAGE) if "`topiary " in cells[0]}
    assert {usage: (does, set(in_code(options))) for usage, (does, options) in documented.items()} == {
        " ".join([f"topiary {name}", *(str(each.metavar) for each in parser._get_positional_actions())]): (
            parser.description,
            options_of(parser),
        )
        for name, parser in COMMANDS.choices.items()
    }


def test_every_option_is_explained_and_no_other() -> None:
    explained = [in_code(cells[0])[0] for cells in rows_of(COMMANDS_PAGE) if cells[0].startswith("`--")]
    assert sorted(explained) == sorted(set().union(*map(options_of, COMMANDS.choices.values())))


# --- REST ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What OpenAPI says of every address, by method and path."""
    app = create_app(Settings(runs_folder=tmp_path_factory.mktemp("runs")))
    document = app.openapi()
    app.state.database.close()
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def documented_requests() -> dict[str, list[str]]:
    return {in_code(cells[0])[0]: cells[1:] for cells in rows_of(REST_PAGE) if "/v1/" in cells[0]}


def test_every_request_is_documented_and_no_other(operations: dict[str, dict[str, Any]]) -> None:
    assert list(documented_requests()) == list(operations)


@pytest.mark.parametrize("request_", documented_requests())
def test_a_request_is_documented_with_its_parameters_its_answer_and_its_errors(
    operations: dict[str, dict[str, Any]], request_: str
) -> None:
    parameters, answer, refused = documented_requests()[request_]
    operation = operations[request_]
    given = {each["name"] for each in operation.get("parameters", []) if each["in"] != "path"}
    assert {name.lower() for name in in_code(parameters)} == given
    statuses = set(operation["responses"])
    assert set(re.findall(r"\b20\d\b", answer)) == {status for status in statuses if status < "300"}
    assert {"422", "503", *re.findall(r"\d+", refused)} == {status for status in statuses if status > "300"}
    content = operation["responses"][min(statuses)].get("content")
    if content is None:
        assert min(statuses) == "204" and not in_code(answer)
        return
    ((media_type, body),) = content.items()
    schema = body.get("schema", {})
    reference = schema.get("$ref") or schema.get("items", {}).get("$ref")
    assert in_code(answer)[:1] == ([reference.rpartition("/")[2]] if reference else [media_type])
    assert ("a list of" in answer) == (schema.get("type") == "array")


def test_the_requests_of_the_examples_are_possible(operations: dict[str, dict[str, Any]]) -> None:
    possible = [re.sub(r"\{\w+\}", "[^/]+", request_) for request_ in operations]
    examples = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines() if "curl -" in line]
    assert len(examples) > 4
    for example in examples:
        words = shlex.split(example)
        method = "POST" if {"-d", "POST"} & set(words) else "GET"
        (path,) = [re.sub(r"^http://[^/]+|\?.*", "", word) for word in words if word.startswith("http://")]
        assert any(re.fullmatch(pattern, f"{method} {path}") for pattern in possible), example


def test_the_example_of_an_error_is_one() -> None:
    view = ErrorView.model_validate_json(block(REST_PAGE, "json"))
    assert view.message == str(getattr(errors, view.kind)(view.field, view.value, view.problem, view.accepted))
    mistaken = {**yaml.safe_load(block(SPEC_PAGE, "yaml")), "budget": {"parameters": 1, "tolerance": 2}}
    with pytest.raises(errors.SpecError, match=re.escape(view.message)):
        parse_spec(mistaken, relative_to=DOCS)


def is_among(kind: str, kinds: str) -> bool:
    """Whether a kind is named in a list of kinds, some of which end in a star."""
    return any(fnmatch(kind, each) for each in kinds.split(", "))


def test_every_kind_of_event_is_documented_and_no_other() -> None:
    data = {in_code(cells[0])[0]: cells[2] for cells in rows_of(REST_PAGE) if len(cells) == 3}
    assert list(data) == list(EventKind)
    described = " ".join((EventView.__doc__ or "").split()).rstrip(".").partition("by kind: ")[2].split("; ")
    for kind, holds in data.items():
        told = [held for kinds, _, held in (each.partition(": ") for each in described) if is_among(kind, kinds)]
        assert bool(told) == bool(holds)
        assert all(name in " ".join(told) for name in holds.split(" (")[0].split(", ")), kind


def test_the_example_of_a_stream_is_one() -> None:
    example = block(REST_PAGE, "text")
    event, progress = re.findall(r"^data: (.*)$", example, flags=re.MULTILINE)
    told = EventView.model_validate_json(event)
    assert f"\nid: {told.id}\nevent: {told.kind}\ndata: " in example
    ProgressView.model_validate_json(progress)


# --- errors, links, decisions -------------------------------------------------------------------------------


def test_the_tree_of_errors_is_the_tree_of_classes() -> None:
    drawn: dict[str, str] = {}
    above = ["Exception"]
    tree = (errors.__doc__ or "").split("\n\n")[1]
    for branch, name in re.findall(r"^([│├└─ ]*)(\w+)", tree, flags=re.MULTILINE):
        depth = len(branch) // 4
        drawn[name] = above[depth]
        above[depth + 1 :] = [name]
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert drawn == {error.__name__: error.__bases__[0].__name__ for error in classes}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in links_of(page) if not (page.parent / link).exists()]
    assert not missing


def test_every_decision_is_listed() -> None:
    records = {record.name for record in DECISIONS.glob("*.md")} - {"README.md"}
    assert records == set(links_of(DECISIONS / "README.md"))
