"""What the service says of itself."""

from pathlib import Path

import httpx
from fastapi.routing import APIRoute

from api.app import create_app
from api.routes import events, lifecycle, models, searches
from api.settings import Settings

# --- what is documented -------------------------------------------------------------------------------------


def test_openapi_describes_every_address(tmp_path: Path) -> None:
    app = create_app(Settings(runs_folder=tmp_path))
    document = app.openapi()
    app.state.database.close()
    listed = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    ours = {
        (method, route.path)
        for module in (events, lifecycle, models, searches)
        for route in module.router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert listed == ours
    assert len(ours) > 15
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            assert operation["operationId"].islower(), path
            assert all(parameter["description"] for parameter in operation.get("parameters", [])), path
            for status in ("422", "503", *(["404"] if "{" in path else [])):
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorView"}, (path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_the_docs_load_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    for path in http.get("/openapi.json").json()["paths"]:
        assert path in page.text
