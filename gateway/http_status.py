"""gRPC status codes and HTTP: one table each way.

Sources: google/rpc/code.proto ("HTTP Mapping"); Connect, "Error Codes"; gRPC, "HTTP to gRPC Status Code Mapping".
"""

from __future__ import annotations

from typing import Final

from rpc import StatusCode

HTTP_STATUS: Final[dict[StatusCode, int]] = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}

CONNECT_NAME: Final[dict[StatusCode, str]] = {
    code: "canceled" if code is StatusCode.CANCELLED else code.name.lower()
    for code in StatusCode
    if code is not StatusCode.OK
}
"""How the Connect protocol spells a code."""
