"""The documents hold: every setting and error is described, every link leads somewhere, every record is listed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nas import errors
from nas.spec import SearchSpec
from nas.spec_file import parse_spec

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DECISIONS = DOCS / "decisions"
SPEC_PAGE = (DOCS / "spec.md").read_text(encoding="utf-8")
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("README.md")])


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted name and definition of every field that holds a value, not further fields."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


FIELDS = dict(fields_of(SearchSpec))


def documented_fields() -> dict[str, list[str]]:
    """The cells after the first of every table row of the spec's page, by each name that the first one holds."""
    rows = [line.strip("| ").split(" | ") for line in SPEC_PAGE.splitlines() if line.startswith("| `")]
    return {name: cells for first, *cells in rows for name in re.findall(r"`([^`]+)`", first)}


def shows(cell: str, field: FieldInfo) -> bool:
    """Whether a cell of the default column says what the field's default is."""
    if field.is_required():
        return cell == "required"
    if field.default is None:
        return cell == "none"
    value = cell.strip("`")
    return value == field.default if isinstance(field.default, str) else float(value) == field.default


def links_of(page: Path) -> list[str]:
    """The relative links of a page without their fragments; code is not looked at."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [target for target in targets if target and ":" not in target]


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_the_spec_is_documented_with_its_default_and_what_it_accepts(name: str) -> None:
    default, accepted, meaning = documented_fields()[name]
    assert shows(default, FIELDS[name])
    assert accepted == FIELDS[name].description
    assert meaning


def test_no_other_field_is_documented() -> None:
    names = {name for name in documented_fields() if not name.startswith("TOPIARY_")}
    assert names == set(FIELDS)


def test_the_example_is_a_spec() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", SPEC_PAGE, flags=re.DOTALL)
    parse_spec(yaml.safe_load(example), relative_to=DOCS)


def test_environment_variables_are_documented() -> None:
    settings = (ROOT / "api" / "settings.py").read_text(encoding="utf-8")
    variables = set(re.findall(r"TOPIARY_[A-Z_]+", settings))
    assert variables
    assert variables == {name for name in documented_fields() if name.startswith("TOPIARY_")}


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
