"""One real service with a finished search, for all tests of REST."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.rest.answers import export, tiny
from tests.api.serving import Service, browsing, serving


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service"), export) as running:
        yield running


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with browsing(service) as client:
        yield client


@pytest.fixture(scope="package")
def finished(service: Service, teacher_folder: Path, text_file: Path) -> str:
    """The name of a search that has ended in a model."""
    with browsing(service) as client:
        client.post("/v1/searches", json=tiny(teacher_folder, text_file, "finished")).raise_for_status()
    service.finish()
    return "finished"
