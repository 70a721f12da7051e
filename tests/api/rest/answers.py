"""What tests of REST send, and what they expect to be answered with."""

from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from nas.errors import SpecError
from nas.jobs import Calibrate, Export, Exported
from nas.pool import Assignment, Update
from nas.spec_file import parse_spec
from nas.views import ErrorView
from tests.api.instant_pool import succeed
from tests.api.serving import Service
from tests.conftest import tiny_spec
from tests.nas.test_importance_figures import scores


def export(assignment: Assignment) -> Update:
    """Like `succeed`, with a folder behind the export, scores behind the calibration, and a log."""
    Path(assignment.folder).mkdir(parents=True, exist_ok=True)
    (Path(assignment.folder) / "log.txt").write_text("one\ntwo\nthr\N{LATIN SMALL LETTER E WITH ACUTE}e\n")
    if isinstance(assignment.spec, Calibrate):
        file = Path(assignment.folder) / "importance.json"
        file.write_text(scores().model_dump_json())
        update = succeed(assignment).model_dump()
        return Update.model_validate({**update, "result": {**update["result"], "importance_file": str(file)}})
    if not isinstance(assignment.spec, Export):
        return succeed(assignment)
    folder = Path(assignment.folder) / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4000)
    result = Exported(folder=str(folder), parameters=42_000, loss=4.5)
    return Update(job_id=assignment.job_id, attempt=assignment.attempt, result=result)


def raw(service: Service, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """A request as it is, without what a client library would mend."""
    connection = HTTPConnection("127.0.0.1", service.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": f"127.0.0.1:{service.port}", **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def tiny(teacher: Path, text: Path, name: str, **changes: object) -> dict[str, Any]:
    content: dict[str, Any] = tiny_spec(teacher, text, name=name, **changes).model_dump(mode="json")
    return content


def refusal(response: httpx.Response, status: int) -> ErrorView:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    return ErrorView.model_validate_json(response.content)


def expected(content: object) -> SpecError:
    """What the command line says of this spec."""
    with pytest.raises(SpecError) as caught:
        parse_spec(content, relative_to=Path("/"))
    return caught.value
