"""Errors for gRPC clients, where no call was made.

Over HTTP/2 the status is in the trailers. A head alone ("Trailers-Only") would do for some clients, but gRPC's own
takes it for an error only if the head ends the stream, and servers end it with an empty frame of data. gRPC-Web has no
such frames, so there the head has it all. Source: gRPC, "PROTOCOL-HTTP2", Responses; "PROTOCOL-WEB".
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote

from google.protobuf.any_pb2 import Any as GoogleAny
from google.rpc.status_pb2 import Status

from gateway.errors import STATUS_DETAILS_KEY, Headers
from rpc import StatusCode

_GRPC: Final = b"application/grpc"
_WEB: Final = b"application/grpc-web"


def grpc_kind(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the content type in which a client wants its errors if it speaks gRPC or gRPC-Web, else nothing."""
    for name, value in headers:
        if name == b"content-type":
            if value.startswith(_WEB):
                return _WEB
            return _GRPC if value.startswith(_GRPC) else b""
    return b""


async def send_grpc_error(
    scope: dict[str, Any],
    send: Callable[[dict[str, Any]], Awaitable[None]],
    kind: bytes,
    head: Headers,
    status: Headers,
) -> None:
    """Answer with an error. ``head`` are headers besides the content type, ``status`` is of ``grpc_status``."""
    head = [(b"content-type", kind), *head]
    if kind != _GRPC or "http.response.trailers" not in scope.get("extensions", {}):
        await send({"type": "http.response.start", "status": 200, "headers": [*head, *status]})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": 200, "headers": head, "trailers": True})
    await send({"type": "http.response.body", "body": b""})
    await send({"type": "http.response.trailers", "headers": status})


def grpc_status(code: StatusCode, message: str, details: Sequence[GoogleAny]) -> Headers:
    """Return the status of a call as trailers."""
    number = code.value[0]
    headers = [
        (b"grpc-status", b"%d" % number),
        (b"grpc-message", quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()),
    ]
    if details:
        status = Status(code=number, message=message, details=details).SerializeToString()
        headers.append((STATUS_DETAILS_KEY.encode(), base64.b64encode(status).rstrip(b"=")))
    return headers
