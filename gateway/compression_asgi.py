"""Compression around an ASGI application: bodies of requests come decompressed, bodies of responses go compressed.

What is sent in several parts, the streams, is left alone. NDJSON and events would have to be flushed with each message,
and each stream would hold a compressor, of gzip 256 KiB, where it now holds 30 by all. Connect's and gRPC's own streams
compress message by message (``connect_compression``).
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import Any, Final

from gateway.asgi import Message, Receive, Send
from gateway.body import BodyReader
from gateway.compression import Coding, Codings, choose, compressed, decompressed
from gateway.headers import RequestHead

# What is not named here is compressed already (images, video, archives), or nobody knows.
_COMPRESSIBLE: Final = re.compile(
    rb"(text/(?!event-stream)|"
    rb"application/(json|proto|protobuf|x-protobuf|xml|javascript|x-javascript|ecmascript|wasm|yaml|x-yaml|sql|rtf|"
    rb"manifest|vnd\.ms-fontobject|x-www-form-urlencoded)(?![^;\s])|"
    rb"application/(?!grpc|connect)[^;\s]+\+(json|xml|yaml)(?![^;\s])|"
    rb"image/(svg\+xml|bmp|x-icon|vnd\.microsoft\.icon)|font/(otf|ttf)|"
    rb"model/|message/)",
    re.IGNORECASE,
)


@lru_cache(maxsize=256)
def is_compressible(content_type: bytes) -> bool:
    """Tell whether content of this type gets smaller."""
    return _COMPRESSIBLE.match(content_type.lstrip()) is not None


class CompressingSend:
    """Stands in front of ``send`` of one request: compresses its response if its client likes that, and it pays.

    Its head is held until the body comes, unless what follows is a stream.
    """

    __slots__ = ("_coding", "_minimum", "_send", "_start")

    def __init__(self, send: Send, accept: bytes, minimum: int) -> None:
        """``accept`` is the request's ``accept-encoding``."""
        self._send = send
        self._coding = choose(accept)
        self._minimum = minimum
        self._start: dict[str, Any] | None = None

    async def __call__(self, message: dict[str, Any]) -> None:
        """Send the next part of the response."""
        start = self._start
        if start is None:
            if message["type"] == "http.response.start" and _may_be_compressed(message["headers"]):
                self._start = message
            else:
                await self._send(message)
            return
        self._start = None
        body: bytes = message.get("body", b"")
        if len(body) >= self._minimum and not message.get("more_body"):
            start, body = await self._compressed(start, body)
            message = {**message, "body": body}
        await self._send(start)
        await self._send(message)

    async def _compressed(self, start: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        # Caches must know that another client may get other bytes, whether these are compressed or not.
        headers = [*_without_vary(start["headers"]), (b"vary", _vary(start["headers"]))]
        coding = self._coding
        if coding is not None and len(smaller := await compressed(coding, body)) < len(body):
            headers = [_changed(pair) for pair in headers if pair[0] not in (b"content-length", b"content-encoding")]
            headers += [(b"content-encoding", coding.name.encode()), (b"content-length", b"%d" % len(smaller))]
            body = smaller
        return {**start, "headers": headers}, body


def _changed(pair: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return a header as it is with compressed content: a strong entity tag would promise the same bytes."""
    name, value = pair
    return (name, b"W/" + value) if name == b"etag" and not value.startswith(b"W/") else pair


def _may_be_compressed(headers: list[tuple[bytes, bytes]]) -> bool:
    """Tell by the head: not if it is compressed already, or shall not be changed (RFC 9111, 5.2.2.6)."""
    compressible = False
    for name, value in headers:
        if name == b"content-type":
            compressible = is_compressible(value)
        elif (name == b"content-encoding" and value != b"identity") or (
            name == b"cache-control" and b"no-transform" in value.lower()
        ):
            return False
    return compressible


def _without_vary(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [pair for pair in headers if pair[0] != b"vary"]


def _vary(headers: list[tuple[bytes, bytes]]) -> bytes:
    others = [value for name, value in headers if name == b"vary" and value.lower() != b"accept-encoding"]
    return b", ".join([*others, b"accept-encoding"])


_WORTH_COUNTING: Final = 64 * 1024
"""Bytes; larger bodies count among what all requests together may hold."""


class DecompressingReceive:
    """Stands in front of ``receive`` of one request: its body comes whole, and decompressed."""

    __slots__ = ("_announced", "_bodies", "_coding", "_receive", "_taken")

    def __init__(self, receive: Receive, coding: Coding, bodies: BodyReader, announced: int) -> None:
        """``announced`` is the length of the compressed body, by the headers."""
        self._receive = receive
        self._coding = coding
        self._bodies = bodies
        self._announced = announced
        self._taken = False

    async def __call__(self) -> Message:
        """Return the body, and later what else comes. Raises what ``BodyReader.read`` raises."""
        if self._taken:
            return await self._receive()
        self._taken = True
        bodies = self._bodies
        body = await bodies.read(self._receive, self._announced)
        if body:  # An empty one is an empty message, whatever it is said to be compressed with.
            body = await decompressed(self._coding, body, bodies.limit)
            if len(body) > _WORTH_COUNTING:
                task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # an application has one
                bodies.hold(task, len(body))
        return {"type": "http.request", "body": body, "more_body": False}


_OWN_COMPRESSION: Final = ("application/grpc", "application/connect+")
"""These compress each message, and say so in headers of their own."""


def decompressing(head: RequestHead, codings: Codings, receive: Receive, bodies: BodyReader) -> Receive:
    """Return what a request's body comes from: decompressed, if it is compressed as a whole in a way we know."""
    coding = codings.of_body
    if coding is None or head.content_type.lower().startswith(_OWN_COMPRESSION):
        return receive
    return DecompressingReceive(receive, coding, bodies, head.content_length)


def compressing(head: RequestHead, send: Send, minimum: int) -> Send:
    """Return what a response goes to that is not known yet."""
    codings = head.codings
    if codings is None or not codings.accept or head.content_type.lower().startswith(_OWN_COMPRESSION):
        return send
    return CompressingSend(send, codings.accept, minimum)
