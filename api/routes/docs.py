"""The OpenAPI document as a plain page: no script, nothing from another server."""

from collections import defaultdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment

router = APIRouter(include_in_schema=False)

_TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}: addresses</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid #8886; padding: .5rem 0 1rem; }
h3 { margin: .5rem 0; font-size: 1rem; }
code { font-family: ui-monospace, monospace; }
td, th { text-align: left; vertical-align: top; padding: .1rem 1.5rem .1rem 0; font-weight: normal; }
p { white-space: pre-line; margin: .5rem 0; }
</style>
</head>
<body>
<h1>{{ title }} {{ version }}</h1>
<p>{{ description }}</p>
<p>The same for programs: <a href="/openapi.json">openapi.json</a>.</p>
{% for tag, operations in tags %}
<h2>{{ tag }}</h2>
{% for operation in operations %}
<section id="{{ operation.operationId }}">
<h3>{{ operation.summary }}</h3>
<code>{{ operation.method }} {{ operation.path }}</code>
<p>{{ operation.description }}</p>
<table>
{% if operation.body %}
<tr><th>body</th><td><code>{{ operation.body }}</code></td></tr>
{% endif %}
{% for parameter in operation.parameters %}
<tr><th>{{ parameter.in }} <code>{{ parameter.name }}</code></th><td>{{ parameter.description }}
{%- if "default" in parameter.schema %}; {{ parameter.schema.default }} if left out{% endif %}</td></tr>
{% endfor %}
{% for status, response in operation.responses %}
<tr><th><code>{{ status }}</code></th><td>{{ response.description }}{% if response.kind %}
 <code>{{ response.kind }}</code>{% endif %}</td></tr>
{% endfor %}
</table>
</section>
{% endfor %}
{% endfor %}
<h2>Schemas</h2>
{% for name, schema in schemas %}
<section id="{{ name }}">
<h3><code>{{ name }}</code></h3>
<p>{{ schema.description or "" }}</p>
<table>
{% for field, rules in schema.properties.items() %}
<tr><th><code>{{ field }}</code></th><td>{{ rules.description or "" }}</td></tr>
{% endfor %}
</table>
</section>
{% endfor %}
</body>
</html>
""")


@router.get("/docs")
def read_docs(request: Request) -> HTMLResponse:
    """Every address with its parameters, its body and its responses."""
    document = request.app.openapi()
    schemas = document.get("components", {}).get("schemas", {})
    return HTMLResponse(
        _TEMPLATE.render(
            **document["info"],
            tags=_operations(document).items(),
            schemas=[(name, schema) for name, schema in sorted(schemas.items()) if "properties" in schema],
        )
    )


def _operations(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """By tag."""
    found = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            responses = [
                (status, {**response, "kind": _kind(response)})
                for status, response in sorted(operation["responses"].items())
            ]
            shown = {
                **operation,
                "method": method.upper(),
                "path": path,
                "body": _kind(operation.get("requestBody", {})),
                "responses": responses,
                "parameters": operation.get("parameters", []),
            }
            found[operation["tags"][0]].append(shown)
    return dict(found)


def _kind(content: dict[str, Any]) -> str:
    """The schema, or else the media type, of a body."""
    for media_type, body in content.get("content", {}).items():
        schema = body.get("schema", {})
        of_items = schema.get("items", {})
        name = str(schema.get("$ref") or of_items.get("$ref") or "").rpartition("/")[2]
        return f"list of {name}" if of_items and name else name or str(media_type)
    return ""
