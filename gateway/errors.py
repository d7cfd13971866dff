"""Errors as HTTP answers: ``google.rpc.Status`` as JSON for REST, Connect's error JSON for Connect.

Nothing of what went wrong inside reaches a client: an unexpected exception is a 500 that names the request's id, by
which the log has the traceback.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as GoogleAny
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from protobuf import Registry, wkt

from gateway.http_status import CONNECT_NAME, HTTP_STATUS
from rpc import StatusCode, StatusError

logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

STATUS_DETAILS_KEY = "grpc-status-details-bin"
"""The trailing metadata in which gRPC carries a serialized ``google.rpc.Status``."""

MAX_DETAILS = 64
"""Error details that are shown; they come from a back-end."""


class HttpError(Exception):
    """A request that is answered without a call.

    ``status`` is the HTTP status; None takes the one that belongs to ``code``. ``plain``: answered as text, because
    whoever asked speaks none of our protocols.
    """

    def __init__(
        self,
        code: StatusCode,
        message: str,
        *,
        status: int | None = None,
        headers: Headers | None = None,
        plain: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = HTTP_STATUS[code] if status is None else status
        self.headers = headers or []
        self.plain = plain
        self.details: list[GoogleAny] = []


class BadRequest(HttpError):  # noqa: N818 - the name that google.rpc and HTTP have for it
    """400: the request does not fit the method. With ``field``, a ``google.rpc.BadRequest`` detail names it."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(StatusCode.INVALID_ARGUMENT, message)
        if field:
            detail = GoogleAny()
            violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
            detail.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
            self.details.append(detail)


def details_of(trailing_metadata: Sequence[tuple[str, str | bytes]]) -> list[GoogleAny]:
    """Return the rich error details that a call ended with; garbage counts as none."""
    for key, value in trailing_metadata:
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                return list(Status.FromString(value).details[:MAX_DETAILS])
            except DecodeError:
                logger.debug("a back-end sent malformed error details")
    return []


def rest_error(code: StatusCode, message: str, details: Sequence[GoogleAny], registry: Registry) -> bytes:
    """Return a ``google.rpc.Status`` as JSON: ``{"code": 5, "message": "...", "details": [...]}``."""
    body: dict[str, Any] = {"code": code.value[0], "message": message}
    if details:
        body["details"] = [_any_as_json(detail, registry) for detail in details]
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def connect_error(code: StatusCode, message: str, details: Sequence[GoogleAny], registry: Registry) -> bytes:
    """Return Connect's error: ``{"code": "not_found", "message": "...", "details": [{"type", "value", "debug"}]}``."""
    body: dict[str, Any] = {"code": CONNECT_NAME[code]}
    if message:
        body["message"] = message
    if details:
        body["details"] = [_connect_detail(detail, registry) for detail in details]
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def status_of(error: StatusError) -> tuple[StatusCode, str]:
    """Return code and message of a failed call. A failure that calls itself OK is UNKNOWN."""
    code = error.code if error.code is not StatusCode.OK else StatusCode.UNKNOWN
    return code, error.details or code.name.lower().replace("_", " ")


def _any_as_json(detail: GoogleAny, registry: Registry) -> dict[str, Any]:
    """Return a detail with its fields if its type is known, else with its bytes."""
    try:
        known = wkt.Any.from_binary(detail.SerializeToString())
        return dict(json.loads(known.to_json(registry=registry)))
    except Exception:  # noqa: BLE001 - a type that nobody knows, or bytes that are none of it
        return {"@type": detail.type_url, "value": base64.b64encode(detail.value).decode()}


def _connect_detail(detail: GoogleAny, registry: Registry) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "type": detail.type_url.rpartition("/")[2],
        "value": base64.b64encode(detail.value).rstrip(b"=").decode(),
    }
    debug = _any_as_json(detail, registry)
    if debug.pop("@type", None) is not None and debug.keys() != {"value"}:
        shown["debug"] = debug
    return shown
