"""An OpenAPI 3.1 document made of what is said of each service.

Source: https://spec.openapis.org/oas/v3.1.1.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from gateway.http_status import CONNECT_NAME
from gateway.openapi.components import Components, reference
from gateway.openapi.notes import Notes
from gateway.openapi.operations import Described, Operation
from gateway.openapi.options import DocsOptions
from gateway.openapi.paths import Path
from gateway.openapi.security import Security
from gateway.openapi.values import JsonSchema
from gateway.schema import ERROR_DETAILS

VERSION = "3.1.0"

STATUS = "google.rpc.Status"
CONNECT_ERROR = "connect.Error"


def document(
    described: Iterable[Described], options: DocsOptions, security: Security, root: str, *, connect: bool
) -> dict[str, Any]:
    """Return a document of services.

    Args:
        described: The services, in the order in which they shall stand.
        options: What is said of all of them together.
        security: What callers have to show.
        root: Where the gateway is mounted, ``""`` or ``/path``.
        connect: Whether to list how to call each method by Connect; without it, only those which have no other way.
    """
    info: dict[str, Any] = {"title": options.title, "version": options.version}
    if options.description:
        info["description"] = options.description
    tags: list[dict[str, Any]] = []
    schemas = _own_schemas()
    paths = _Paths()
    for each in described:
        operations = [*each.rest, *(each.connect if connect else each.only_connect)]
        if not operations:
            continue
        names = _renamed(each, schemas)
        tags.append(each.tag)
        for name, schema in each.schemas.items():
            if name != STATUS or name in names:
                schemas[names.get(name, name)] = _with_references(schema, names)
        for operation in operations:
            paths.add(replace(operation, text=_with_references(operation.text, names)))
    result: dict[str, Any] = {
        "openapi": VERSION,
        "info": info,
        "servers": [{"url": root or "/"}],
        "tags": tags,
        "paths": paths.items,
        "components": {"schemas": {}, "responses": _RESPONSES, "headers": _HEADERS},
    }
    if security.schemes:
        result["components"]["securitySchemes"] = security.schemes
        result["security"] = [{name: []} for name in security.schemes]
    result["components"]["schemas"] = _used(result, schemas)
    return result


class _Paths:
    """The path items. An operation that has no place any more is left out."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self._by_shape: dict[str, Path] = {}

    def add(self, operation: Operation) -> None:
        first = self._by_shape.setdefault(operation.path.shape, operation.path)
        path, text = operation.path.named_as(first), operation.text
        if path != operation.path:
            parameters = list(text["parameters"])
            # Those of the path come first, in its order.
            for index, renamed in enumerate(path.parameters):
                parameters[index] = {**parameters[index], "name": renamed.name}
            text = {**text, "parameters": parameters}
        # Two templates may differ in what OpenAPI has no way to say: `*` and `**`. The first one is listed.
        self.items.setdefault(path.text, {}).setdefault(operation.http_method, text)


def _renamed(described: Described, schemas: dict[str, JsonSchema]) -> dict[str, str]:
    """Return other names for types of a service that another service has in another version."""
    clashing = {
        name
        for name, schema in described.schemas.items()
        if schemas.get(name, schema) != schema and not (name == STATUS and _is_status(schema))
    }
    if not clashing:
        return {}
    # Whoever refers to one of them is another type as well.
    users: dict[str, set[str]] = {}
    for name, schema in described.schemas.items():
        for used in _references(schema):
            users.setdefault(used, set()).add(name)
    pending = list(clashing)
    while pending:
        for user in users.get(pending.pop(), ()):
            if user not in clashing:
                clashing.add(user)
                pending.append(user)
    return {name: f"{name}-{described.tag['name']}" for name in clashing}


def _used(text: Any, schemas: dict[str, JsonSchema]) -> dict[str, JsonSchema]:
    """Return the schemas that a document refers to, directly or not, sorted by name."""
    pending = list(_references(text))
    used: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in used:
            used.add(name)
            pending += _references(schemas[name])
    return {name: schemas[name] for name in sorted(used)}


_PREFIX = reference("")


def _references(text: Any) -> Iterator[str]:
    pending = [text]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            target = each.get("$ref")
            if isinstance(target, str) and target.startswith(_PREFIX):
                yield target.removeprefix(_PREFIX)
            pending += each.values()
        elif isinstance(each, list):
            pending += each


def _with_references(text: Any, names: dict[str, str]) -> Any:
    """Return a text that refers to other names."""
    if not names:
        return text
    if isinstance(text, list):
        return [_with_references(each, names) for each in text]
    if not isinstance(text, dict):
        return text
    result = {key: _with_references(value, names) for key, value in text.items()}
    target = result.get("$ref")
    if isinstance(target, str) and (name := names.get(target.removeprefix(_PREFIX))) is not None:
        result["$ref"] = reference(name)
    return result


def _own_schemas() -> dict[str, JsonSchema]:
    components = Components(Notes(ERROR_DETAILS), (), closed=False)
    status = ERROR_DETAILS.message(STATUS)
    assert status is not None  # noqa: S101 - it is what the registry was made of
    components.element(status)
    schemas = components.finish()
    schemas[STATUS] = {**schemas[STATUS], "description": "An error, as https://google.aip.dev/193 describes it."}
    schemas[CONNECT_ERROR] = _CONNECT_ERROR
    return schemas


def _is_status(schema: JsonSchema) -> bool:
    """Tell whether a service means by google.rpc.Status what everybody does, whatever it says of it."""
    return {*schema.get("properties", ())} == {"code", "message", "details"}


_CONNECT_ERROR: JsonSchema = {
    "type": "object",
    "description": "An error of the Connect protocol (https://connectrpc.com/docs/protocol#error-codes).",
    "properties": {
        "code": {"type": "string", "enum": list(CONNECT_NAME.values())},
        "message": {"type": "string"},
        "details": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "type": {"type": "string", "description": "The full name of the detail's type."},
                    "value": {"type": "string", "contentEncoding": "base64", "description": "The detail, in binary."},
                    "debug": {"description": "The detail in JSON, if its type is known."},
                },
                "required": ["type", "value"],
            },
        },
    },
    "required": ["code"],
}

_EXAMPLE = "no such book"

_RESPONSES: dict[str, Any] = {
    "Error": {
        "description": "The call failed. `code` is one of google.rpc.Code; the HTTP status follows from it.",
        "headers": {"x-request-id": {"$ref": "#/components/headers/RequestId"}},
        "content": {
            "application/json": {
                "schema": {"$ref": reference(STATUS)},
                "example": {"code": 5, "message": _EXAMPLE},
            }
        },
    },
    "ConnectError": {
        "description": "The call failed. The HTTP status follows from `code`.",
        "headers": {"x-request-id": {"$ref": "#/components/headers/RequestId"}},
        "content": {
            "application/json": {
                "schema": {"$ref": reference(CONNECT_ERROR)},
                "example": {"code": "not_found", "message": _EXAMPLE},
            },
            "text/plain": {"schema": {"type": "string", "description": "The body has a type that is not read here."}},
        },
    },
}

_HEADERS: dict[str, Any] = {
    "RequestId": {
        "description": "By which the gateway's log knows the request; a client's own is kept.",
        "schema": {"type": "string"},
    }
}
