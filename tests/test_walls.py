"""Which package may load what, seen from fresh interpreters: an import inside a function breaks no wall."""

import json
import pkgutil
import subprocess
import sys

import pytest

import nas
import nas.families

HEAVY = {"torch", "ray", "transformers"}
DOMAIN = [
    f"{package.__name__}.{module.name}"
    for package in (nas, nas.families)
    for module in pkgutil.iter_modules(package.__path__)
    if module.name != "compression"
]
CONTROL = ["api.app", "api.cli", "api.scheduler", "api.scheduling", "api.run", "workers.local", "workers.placement"]
WORK = ["nas.compression.student", "nas.compression.importance", "nas.compression.prune", "workers.tasks"]

_LOADED_BY = """
import importlib, json, sys
loaded = {}
for name in sys.argv[1:]:
    before = set(sys.modules)
    importlib.import_module(name)
    loaded[name] = sorted(set(sys.modules) - before)
print(json.dumps(loaded))
"""


def crossings(modules: list[str], forbidden: set[str]) -> dict[str, list[str]]:
    """Of a fresh interpreter that imports `modules` in turn: what each newly loaded of the forbidden packages."""
    command = [sys.executable, "-c", _LOADED_BY, *modules]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    crossed = {
        name: [module for module in loaded if any(f"{module}.".startswith(f"{wall}.") for wall in forbidden)]
        for name, loaded in json.loads(ended.stdout).items()
    }
    return {name: modules for name, modules in crossed.items() if modules}


def test_the_domain_loads_no_torch_no_database_and_no_other_package_of_ours() -> None:
    assert len(DOMAIN) > 10
    assert crossings(DOMAIN, HEAVY | {"sqlalchemy", "fastapi", "nas.compression", "workers", "api"}) == {}


@pytest.mark.parametrize("module", CONTROL)
def test_what_a_user_waits_for_loads_no_torch_ray_or_transformers(module: str) -> None:
    assert crossings([module], HEAVY | {"nas.compression"}) == {}


def test_compression_and_workers_load_neither_ray_nor_the_database_nor_the_web() -> None:
    assert crossings(WORK, {"api", "ray", "sqlalchemy", "fastapi"}) == {}


def test_the_scheduler_loads_ray_but_no_torch_of_its_own() -> None:
    assert list(crossings(["workers.ray_pool"], {"ray"})) == ["workers.ray_pool"]
    assert crossings(["workers.ray_pool"], {"torch", "transformers", "api"}) == {}


def test_a_crossed_wall_is_seen() -> None:
    assert list(crossings(["json", "nas.cost"], {"nas.families"})) == ["nas.cost"]
