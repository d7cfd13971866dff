"""Errors for gRPC clients, where no call was made: "Trailers-Only", all of it in the head of the response.

Source: gRPC, "PROTOCOL-HTTP2", Responses.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Final
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


def grpc_error(kind: bytes, code: StatusCode, message: str, details: Sequence[GoogleAny]) -> Headers:
    """Return the headers of a response that is an error. Its HTTP status is 200, its body empty."""
    number = code.value[0]
    headers = [
        (b"content-type", kind),
        (b"grpc-status", b"%d" % number),
        (b"grpc-message", quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()),
    ]
    if details:
        status = Status(code=number, message=message, details=details).SerializeToString()
        headers.append((STATUS_DETAILS_KEY.encode(), base64.b64encode(status).rstrip(b"=")))
    return headers
