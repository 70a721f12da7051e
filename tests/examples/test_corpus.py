"""The demo's text is the same on every machine with the pinned packages, and split by names alone."""

import re
from pathlib import Path

from examples.demo.corpus import PACKAGES, STANDARD_LIBRARY, VALIDATION_FRACTION, Module, modules, versions

ROOT = Path(__file__).parents[2]
SMALL = ("networkx", "click", "rich")


def test_a_module_is_placed_by_its_package_and_path() -> None:
    one, other = Module("rich", "text.py", "a = 1"), Module("rich", "text.py", "b = 2")
    assert one.place == other.place != Module("click", "text.py", "a = 1").place
    # The first eight bytes of sha256("rich/text.py"), as a fraction of 2**64.
    assert f"{one.place:.12f}" == "0.526387918253"


def test_modules_come_in_order_without_copies_tests_or_vendored_files() -> None:
    found = modules(SMALL)
    assert [module.place for module in found] == sorted(module.place for module in found)
    assert len({module.text for module in found}) == len(found) > 200
    assert {module.package for module in found} == set(SMALL)
    assert not [module.name for module in found if re.search(r"(^|/)(tests?|_vendor|vendor)/|(^|/)test_", module.name)]


def test_about_one_module_in_fifty_is_held_out() -> None:
    found = modules((*SMALL, "sympy", "pandas", "sqlalchemy"))
    held_out = sum(module.in_validation for module in found)
    # Four standard deviations of a binomial around the fraction.
    expected = VALIDATION_FRACTION * len(found)
    assert abs(held_out - expected) < 4 * (expected * (1 - VALIDATION_FRACTION)) ** 0.5


def test_every_package_is_pinned_at_the_installed_version() -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().lower().splitlines() if "==" in line
    )
    for package, version in versions(PACKAGES).items():
        assert pinned[package.replace("_", "-") if package not in pinned else package] == version.split("+")[0]
    assert "transformers" not in PACKAGES
    assert STANDARD_LIBRARY not in PACKAGES
