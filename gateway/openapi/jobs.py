"""Durable jobs in an OpenAPI document: what their operation will hold, and the headers that they heed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from protobuf import DescMessage, Registry

from gateway.openapi.components import Components
from gateway.openapi.values import JsonSchema, well_known_schema
from rpc import MethodInfo

MAX_FIELDS: Final = 200
"""Fields of a response that is described; what has more is shown as any message."""

ACCEPTED: Final = (
    "The job is accepted, whether or not a worker is up. `GET /v1/{name}` tells what becomes of it, "
    "`POST /v1/{name}:wait` as soon as it is done."
)

PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Requests with the same key are one job, which each of them is answered with.",
        "schema": {"type": "string", "maxLength": 256},
    },
    {
        "name": "natsmesh-run-at",
        "in": "header",
        "description": "When the job is to be run, if not at once: RFC 3339.",
        "schema": {"type": "string", "format": "date-time"},
    },
]


def operation_schema(
    info: MethodInfo, operation: DescMessage, components: Components, registry: Registry
) -> JsonSchema:
    """Return the schema of a job's operation, with the types that its response and its progress have."""
    schema = components.object(operation)
    if info.job is not None:
        for name, full_name in (("response", info.job.response_type), ("metadata", info.job.metadata_type)):
            message = registry.message(full_name) if full_name else None
            if message is not None and well_known_schema(message, closed=False) is None:
                _describe(schema["properties"], name, message, components)
    return schema


def operation_example(
    info: MethodInfo, registry: Registry, example: Callable[[DescMessage], Any], nothing: object
) -> dict[str, Any]:
    """Return an example of the operation when the job is done. ``example`` makes one of a message, or ``nothing``."""
    shown: dict[str, Any] = {"name": f"operations/{info.full_name}/0193a5c07e5f7c3f8c21d5e0a1b2c3d4", "done": True}
    message = None if info.job is None else registry.message(info.job.response_type)
    if message is not None:
        value = example(message)
        fields = value if isinstance(value, dict) else {} if value is nothing else {"value": value}
        shown["response"] = {"@type": _url(message), **fields}
    return shown


def _describe(properties: dict[str, Any], name: str, message: DescMessage, components: Components) -> None:
    if name in properties and len(message.fields) <= MAX_FIELDS:
        # As a component it would not allow for "@type" beside its fields.
        described = components.object(message)
        described["properties"] = {"@type": {"const": _url(message)}, **described["properties"]}
        properties[name] = described


def _url(message: DescMessage) -> str:
    return f"type.googleapis.com/{message.type_name}"
