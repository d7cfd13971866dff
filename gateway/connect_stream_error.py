"""Errors for clients of Connect's streams, where no call was made: a response that has nothing but an end.

Source: https://connectrpc.com/docs/protocol, "Streaming-Response", "Error-End-Stream": the HTTP status is always 200.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.errors import Headers

_TYPES: Final = (b"application/connect+json", b"application/connect+proto")
_END_STREAM: Final = b"\x02"


def connect_stream_type(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the content type in which a client wants its errors if it speaks Connect's streams, else nothing."""
    for name, value in headers:
        if name == b"content-type":
            return value if value in _TYPES else b""
    return b""


def end_of_stream(content_type: bytes, error: bytes) -> tuple[Headers, bytes]:
    """Return head and body of a response that is an error, given as Connect's JSON."""
    body = b'{"error":' + error + b"}"
    body = _END_STREAM + len(body).to_bytes(4, "big") + body
    return [(b"content-type", content_type), (b"content-length", b"%d" % len(body))], body
