"""``google.longrunning.Operation`` as JSON: what is in its ``Any`` fields depends on whose operation it is.

Response and progress have the types of the service that the operation's name says; error details have those, too, or
those of ``google.rpc``. What has a type that its schema does not know, or has no more, is shown by that type alone: the
operation itself can be read nevertheless.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as GoogleAny
from protobuf import Registry, wkt

OPERATION = "google.longrunning.Operation"
LIST = "google.longrunning.ListOperationsResponse"

Registries = Callable[[str], Registry]
"""Gives the types of an operation, by its name."""


def operation_encoder(registry_of: Registries) -> Callable[[bytes], bytes]:
    """Return what makes JSON of a serialized Operation. It raises whatever the message is wrong with."""

    def encode(data: bytes) -> bytes:
        operation = operations_pb2.Operation.FromString(data)
        return _dumps(_shown(operation, registry_of(operation.name)))

    return encode


def operations_encoder(registry_of: Registries) -> Callable[[bytes], bytes]:
    """Return what makes JSON of a serialized ListOperationsResponse, likewise."""

    def encode(data: bytes) -> bytes:
        response = operations_pb2.ListOperationsResponse.FromString(data)
        shown: dict[str, Any] = {}
        if response.operations:
            shown["operations"] = [_shown(each, registry_of(each.name)) for each in response.operations]
        if response.next_page_token:
            shown["nextPageToken"] = response.next_page_token
        return _dumps(shown)

    return encode


def service_of(operation: str) -> str:
    """Return the service that an operation is one of, by its name: ``operations/<package.Service>/<Method>/<id>``."""
    parts = operation.split("/", 2)
    return parts[1] if len(parts) == 3 else ""


def _shown(operation: Any, registry: Registry) -> dict[str, Any]:
    # By ProtoJSON: fields in their order, those that hold their default left out.
    shown: dict[str, Any] = {}
    if operation.name:
        shown["name"] = operation.name
    if operation.HasField("metadata"):
        shown["metadata"] = _any(operation.metadata, registry)
    if operation.done:
        shown["done"] = True
    if operation.HasField("error"):
        shown["error"] = error = {}
        if operation.error.code:
            error["code"] = operation.error.code
        if operation.error.message:
            error["message"] = operation.error.message
        if operation.error.details:
            error["details"] = [_any(each, registry) for each in operation.error.details]
    elif operation.HasField("response"):
        shown["response"] = _any(operation.response, registry)
    return shown


def _any(value: GoogleAny, registry: Registry) -> dict[str, Any]:
    try:
        known = wkt.Any.from_binary(value.SerializeToString())
        return dict(json.loads(known.to_json(registry=registry)))
    except Exception:  # noqa: BLE001 - a type that is not known here, or bytes that are none of it
        return {"@type": value.type_url}


def _dumps(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
