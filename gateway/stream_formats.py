"""How the messages of a server stream look over REST: lines of JSON, server-sent events, or raw bytes.

Sources: https://github.com/ndjson/ndjson-spec; HTML, "Server-sent events"; google/api/httpbody.proto.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterable
from typing import Final, Protocol

from rpc import Metadata

NDJSON: Final = b"application/x-ndjson"
EVENT_STREAM: Final = b"text/event-stream"

STREAM_HEADERS: Final = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
"""Whoever keeps or buffers a response on its way breaks a stream. The second one is for nginx."""

RETRY_MILLISECONDS: Final = (2000, 4000)
"""How long browsers wait before they connect again: each draws its own time between these, so that all those whose
gateway has gone do not come to the next one in the same instant."""

_LAST_EVENT_ID = re.compile(rb"[0-9]{1,15}")


class StreamFormat(Protocol):
    """How one stream is written."""

    @property
    def content_type(self) -> bytes:
        """Empty until the first message says it."""

    @property
    def has_heartbeat(self) -> bool:
        """Tell whether there is anything that keeps a silent stream alive."""

    def heartbeat(self) -> bytes:
        """Return it."""

    def message(self, content_type: bytes, body: bytes) -> bytes:
        """Return a message as it is sent; what it is made of is a unary answer."""

    def error(self, status: bytes) -> bytes | None:
        """Return an error, from its ``google.rpc.Status`` as JSON; None: an error has no place in this format."""

    def end(self, trailing: Metadata) -> bytes:
        """Return what is sent after the last message."""


class Ndjson:
    """A line for each message; after a failure a last line ``{"error": {...}}``."""

    content_type = NDJSON
    has_heartbeat = False

    def heartbeat(self) -> bytes:
        """Return nothing."""
        return b""

    def message(self, _content_type: bytes, body: bytes) -> bytes:
        """Return one line."""
        return body + b"\n"

    def error(self, status: bytes) -> bytes:
        """Return the last line."""
        return b'{"error":' + status + b"}\n"

    def end(self, _trailing: Metadata) -> bytes:
        """Return nothing: trailing metadata has no place here."""
        return b""


class ServerSentEvents:
    """An event for each message, with numbers for ids; then one of the type ``end`` or ``error``."""

    content_type = EVENT_STREAM
    has_heartbeat = True

    def __init__(self, last_id: int) -> None:
        self._id = last_id
        self._retry = b"retry: %d\n" % random.randint(*RETRY_MILLISECONDS)

    def heartbeat(self) -> bytes:
        """Return a comment."""
        return self._first_line() + b":\n\n"

    def message(self, _content_type: bytes, body: bytes) -> bytes:
        """Return one event."""
        self._id += 1
        return b"%bid: %d\ndata: %b\n\n" % (self._first_line(), self._id, body)

    def _first_line(self) -> bytes:
        retry, self._retry = self._retry, b""
        return retry

    def error(self, status: bytes) -> bytes:
        """Return the last event of a stream that failed."""
        return b"event: error\ndata: " + status + b"\n\n"

    def end(self, trailing: Metadata) -> bytes:
        """Return the last event of a stream that did not, with the trailing metadata.

        A browser connects again when a stream ends: this tells it not to.
        """
        return b"event: end\ndata: " + _metadata_json(trailing) + b"\n\n"


class Raw:
    """The bytes of ``google.api.HttpBody`` messages, of the first one's content type."""

    has_heartbeat = False

    def __init__(self) -> None:
        self.content_type = b""

    def heartbeat(self) -> bytes:
        """Return nothing."""
        return b""

    def message(self, content_type: bytes, body: bytes) -> bytes:
        """Return the bytes."""
        self.content_type = self.content_type or content_type
        return body

    def error(self, _status: bytes) -> None:
        """There is no place for errors among somebody else's bytes."""

    def end(self, _trailing: Metadata) -> bytes:
        """Return nothing."""
        return b""


def json_format(headers: Iterable[tuple[bytes, bytes]]) -> Ndjson | ServerSentEvents:
    """Return the format that a client wants for messages that are JSON."""
    accept = b""
    last_id = 0
    for name, value in headers:
        if name == b"accept":
            accept = accept + b"," + value if accept else value
        elif name == b"last-event-id" and _LAST_EVENT_ID.fullmatch(value):
            last_id = int(value)
    return ServerSentEvents(last_id) if _prefers_events(accept) else Ndjson()


def _prefers_events(accept: bytes) -> bool:
    """Tell whether events are named, and not less wanted than lines that are named, too."""
    if EVENT_STREAM not in accept.lower():
        return False
    wanted: dict[str, float] = {}
    for item in accept.decode("latin-1").lower().split(","):
        media_type, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        wanted[media_type] = max(quality, wanted.get(media_type, 0.0))
    events = wanted.get(EVENT_STREAM.decode(), 0.0)
    return events > 0 and events >= wanted.get(NDJSON.decode(), 0.0)


def _metadata_json(metadata: Metadata) -> bytes:
    """Return metadata as JSON, ``{"name": ["value", ...]}``, bytes as base64."""
    values: dict[str, list[str]] = {}
    for name, value in metadata:
        if not name.startswith("grpc-"):
            text = base64.b64encode(value).rstrip(b"=").decode() if isinstance(value, bytes) else value
            values.setdefault(name, []).append(text)
    return json.dumps(values, separators=(",", ":")).encode()
