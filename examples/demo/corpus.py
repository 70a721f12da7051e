"""The demo's text: Python source that every installation of Topiary carries.

It is read from the standard library and from packages that Topiary itself installs, so the demo downloads
nothing. Tests, vendored copies and generated files are left out, and so is transformers, whose model files
repeat one another.
"""

import hashlib
import importlib.metadata
import importlib.util
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STANDARD_LIBRARY = "python"
PACKAGES = (
    "alembic", "click", "fastapi", "fsspec", "httpx", "huggingface_hub", "jinja2", "mpmath", "networkx", "numpy",
    "optuna", "pandas", "plotly", "pyarrow", "pydantic", "pygments", "ray", "requests", "rich", "scipy",
    "sqlalchemy", "starlette", "sympy", "torch", "typer", "urllib3", "uvicorn",
)  # fmt: skip
"""Import names. A version of each is pinned in constraints.txt, so the corpus is the same everywhere."""

VALIDATION_FRACTION = 0.02
_LEFT_OUT_FOLDERS = {
    "_vendor", "_vendored", "vendor", "vendored", "third_party", "thirdparty", "thirdparty_files", "externals",
    "_bundled", "site-packages", "dist-packages", "test", "tests", "testing", "idle_test", "__pycache__",
    "validators", "graph_objs", "_generated", "lib2to3", "pydoc_data", "encodings",
}  # fmt: skip
_SMALLEST_FILE, _LARGEST_FILE = 200, 200_000


@dataclass(frozen=True)
class Module:
    """One source file; `name` is its path below the package's parent, the same on every machine."""

    package: str
    name: str
    text: str

    @property
    def place(self) -> float:
        """Where a hash of package and path puts the module, in [0, 1): it orders and splits the corpus."""
        digest = hashlib.sha256(f"{self.package}/{self.name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    @property
    def in_validation(self) -> bool:
        return self.place < VALIDATION_FRACTION


def modules(packages: tuple[str, ...] = (STANDARD_LIBRARY, *PACKAGES)) -> list[Module]:
    """Every module of `packages` in the order of their places; of identical texts the first is kept."""
    found = sorted((module for package in packages for module in _modules_of(package)), key=lambda m: m.place)
    first: dict[str, Module] = {}
    for module in found:
        first.setdefault(module.text, module)
    return list(first.values())


def versions(packages: tuple[str, ...] = (STANDARD_LIBRARY, *PACKAGES)) -> dict[str, str]:
    """The version of each package that `modules` reads, by import name."""
    distributions = importlib.metadata.packages_distributions()
    return {
        package: platform.python_version()
        if package == STANDARD_LIBRARY
        else importlib.metadata.version(distributions[package][0])
        for package in packages
    }


def _modules_of(package: str) -> Iterator[Module]:
    root = _root(package)
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if _LEFT_OUT_FOLDERS.intersection(parts) or path.name.startswith("test_") or path.name.endswith("_pb2.py"):
            continue
        if not _SMALLEST_FILE <= path.stat().st_size <= _LARGEST_FILE:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # A few old modules are Latin-1.
        yield Module(package, "/".join(parts), text)


def _root(package: str) -> Path:
    if package == STANDARD_LIBRARY:
        return Path(sysconfig.get_paths()["stdlib"])
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the demo's corpus needs the package {package!r}; run scripts/install", name=package)
    return Path(spec.origin).parent
