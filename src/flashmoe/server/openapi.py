"""The OpenAPI document, from the same types that check requests."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

Json = dict[str, Any]
_FAULTS = {
    "400": "A field is wrong, unknown or not supported; the message names it.",
    "401": "The key is missing or wrong.",
    "404": "There is no such model.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "415": "The body is not called JSON.",
    "429": "Too many requests wait; Retry-After says when to ask again.",
    "503": "The server is shutting down.",
}


@dataclass(frozen=True)
class Operation:
    """One route. body: the type of its JSON, if it takes one."""

    method: str
    path: str
    summary: str
    body: type | None = None
    produces: tuple[str, ...] = ("application/json",)


def document(operations: Sequence[Operation]) -> Json:
    """All operations as OpenAPI 3.1."""
    bodies = [operation.body for operation in operations if operation.body]
    schemas, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(bodies, schemas, strict=True))
    paths: Json = {}
    for operation in operations:
        content: Json = {kind: {} for kind in operation.produces}
        described: Json = {
            "summary": operation.summary,
            "responses": {"200": {"description": "OK", "content": content}},
        }
        if named := re.findall(r"{(\w+)}", operation.path):
            text = {"type": "string", "minLength": 1}
            described["parameters"] = [{"name": n, "in": "path", "required": True, "schema": text} for n in named]
            described["responses"] |= {"404": {"description": _FAULTS["404"]}}
        if operation.body:
            body = {"application/json": {"schema": by_type[operation.body]}}
            described["requestBody"] = {"required": True, "content": body}
            described["responses"] |= {status: {"description": text} for status, text in _FAULTS.items()}
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    scheme = {"type": "http", "scheme": "bearer", "description": "Or the same key in the header x-api-key."}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Flash-MoE", "version": "1"},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": scheme}},
        "security": [{"key": []}, {}],
    }
