"""Requests and replies of unary calls as NATS headers and payload (docs/wire-protocol.md, "Unary calls").

A peer's malformed message is a ``ProtocolError``, never any other exception.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from rpc.deadline import format_timeout, parse_timeout
from rpc.metadata import Metadata, read_headers, write_headers
from rpc.status import Refusal, StatusCode, StatusError, code_from_number, code_number

WIRE_VERSION = "1.1"
"""The version of the wire protocol that this code speaks; it stands in the metadata of every announced service."""

TIMEOUT = "grpc-timeout"
STATUS = "grpc-status"
MESSAGE = "grpc-message"
ENCODING = "grpc-encoding"
GZIP = "gzip"
STREAM = "mesh-stream"
REFUSED = "mesh-refused"
ACCEPTED = "mesh-accepted"
NATS_STATUS = "Status"
NO_RESPONDERS = "503"
SERVICE_ERROR = "Nats-Service-Error"
SERVICE_ERROR_CODE = "Nats-Service-Error-Code"

MAX_DETAILS_BYTES = 4096
"""Status details are cut to this many bytes: headers are for short texts, and they count against the payload limit."""


class ProtocolError(ValueError):
    """What a peer sent is not what the wire protocol allows."""


class Reply(NamedTuple):
    """The end of a unary call as the caller sees it; ``error`` is None for OK."""

    initial_metadata: Metadata
    trailing_metadata: Metadata
    error: StatusError | None
    compressed: bool = False


class Request(NamedTuple):
    """What the headers of a request say. ``timeout``: seconds left; ``stream``: the payload is a packet."""

    timeout: float | None = None
    metadata: Metadata = ()
    compressed: bool = False
    stream: bool = False


_PLAIN_REQUEST = Request()


def request_headers(metadata: Metadata, timeout: float | None, *, compressed: bool = False) -> dict[str, str] | None:
    """Return the headers of a request, or None when it needs none. ``timeout`` is in seconds."""
    if timeout is None and not metadata and not compressed:
        return None
    headers: dict[str, str] = {}
    if timeout is not None:
        headers[TIMEOUT] = format_timeout(timeout)
    if compressed:
        headers[ENCODING] = GZIP
    if metadata:
        write_headers(headers, metadata)
    return headers


def read_request(headers: Mapping[str, str] | None) -> Request:
    """Return what the headers of a request say. Raises ``ProtocolError``; ``StatusError`` for an unknown encoding."""
    if not headers:
        return _PLAIN_REQUEST
    timeout: float | None = None
    text = headers.get(TIMEOUT)
    if text is not None:
        try:
            timeout = parse_timeout(text)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        if len(headers) == 1:
            return Request(timeout)
    return Request(timeout, read_headers(headers)[0], _is_compressed(headers), STREAM in headers)


def _is_compressed(headers: Mapping[str, str]) -> bool:
    encoding = headers.get(ENCODING, "identity")
    if encoding not in (GZIP, "identity"):
        raise StatusError(StatusCode.UNIMPLEMENTED, f"unknown message encoding {encoding[:32]!r}: only gzip is known")
    return encoding == GZIP


def response_headers(initial: Metadata, trailing: Metadata, *, compressed: bool = False) -> dict[str, str] | None:
    """Return the headers of an OK reply: None, unless the handler had metadata to send."""
    if not initial and not trailing and not compressed:
        return None
    headers: dict[str, str] = {ENCODING: GZIP} if compressed else {}
    write_headers(headers, initial)
    write_headers(headers, trailing, trailing=True)
    return headers


def error_headers(
    code: StatusCode, details: str, initial: Metadata = (), trailing: Metadata = (), *, refused: str = ""
) -> dict[str, str]:
    """Return the headers of a reply that is not OK; ``refused`` is the reason when no handler started."""
    message = encode_message(details)
    headers = {
        STATUS: str(code_number(code)),
        MESSAGE: message,
        SERVICE_ERROR: message or code.name,
        SERVICE_ERROR_CODE: str(code_number(code)),
    }
    if refused:
        headers[REFUSED] = refused
    write_headers(headers, initial)
    write_headers(headers, trailing, trailing=True)
    return headers


def read_reply(headers: Mapping[str, str]) -> Reply:
    """Return what the headers of a reply say. (A reply without headers is OK and needs no reading.)."""
    if headers.get(NATS_STATUS) == NO_RESPONDERS:
        return Reply((), (), Refusal("no back-end serves this method now", "no-responders"))
    initial, trailing = read_headers(headers)
    text = headers.get(STATUS, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 3):
        msg = f"malformed grpc-status: {text[:32]!r}"
        raise ProtocolError(msg)
    if int(text) == 0:
        encoding = headers.get(ENCODING, "identity")
        if encoding not in (GZIP, "identity"):
            raise ProtocolError(f"unknown message encoding {encoding[:32]!r}")
        return Reply(initial, trailing, None, encoding == GZIP)
    details = decode_message(headers.get(MESSAGE, ""))
    refused = headers.get(REFUSED)
    error = Refusal(details, refused) if refused else StatusError(code_from_number(int(text)), details)
    return Reply(initial, trailing, error)


def too_large(size: int, limit: int) -> StatusError:
    """Return the error for a message that is larger than its receiver takes; the text is gRPC's."""
    return StatusError(StatusCode.RESOURCE_EXHAUSTED, f"Received message larger than max ({size} vs. {limit})")


def gzip(message: bytes) -> bytes:
    """Compress a message as gRPC's ``gzip`` encoding does."""
    compressor = zlib.compressobj(wbits=31)
    return compressor.compress(message) + compressor.flush()


def gunzip(data: bytes, limit: int) -> bytes:
    """Decompress a message. Raises ``StatusError``: RESOURCE_EXHAUSTED beyond ``limit`` bytes, INTERNAL for no gzip."""
    decompressor = zlib.decompressobj(wbits=31)
    try:
        message = decompressor.decompress(data, limit + 1)
    except zlib.error as error:
        raise StatusError(StatusCode.INTERNAL, f"a message is not valid gzip: {error}") from error
    if len(message) > limit:
        raise StatusError(StatusCode.RESOURCE_EXHAUSTED, f"Received message larger than max ({limit}), decompressed")
    if not decompressor.eof or decompressor.unused_data:
        raise StatusError(StatusCode.INTERNAL, "a compressed message is cut off, or something follows it")
    return message


def encode_message(details: str) -> str:
    """Percent-encode status details as gRPC does (``Status-Message``): printable ASCII but ``%`` stays as it is."""
    plain = details.isascii() and details.isprintable() and "%" not in details and len(details) <= MAX_DETAILS_BYTES
    # A header's value is stripped by those who read it; a space at an end must be kept.
    if plain and details == details.strip():
        return details
    data = details.encode("utf-8", "replace")[:MAX_DETAILS_BYTES].decode("utf-8", "ignore").encode()
    last = len(data) - 1
    return "".join(
        chr(byte) if (0x20 < byte < 0x7F and byte != 0x25) or (byte == 0x20 and 0 < at < last) else f"%{byte:02X}"
        for at, byte in enumerate(data)
    )


def decode_message(text: str) -> str:
    """Undo ``encode_message``; what is not valid percent-encoding or UTF-8 is kept readable, never an error."""
    return unquote_to_bytes(text.encode("utf-8", "replace")).decode("utf-8", "replace") if "%" in text else text
