"""Packets and frames of calls that need more than one message each way (docs/wire-protocol.md, "Packets").

A packet is the payload of one NATS message: a sequence number, then frames. A frame is a type, a length and a body.
Whatever bytes a peer sends, parsing gives frames or a ``ProtocolError``.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

from rpc.metadata import Metadata, read_headers, write_headers
from rpc.status import StatusCode, code_from_number, code_number
from rpc.wire.envelope import ProtocolError, decode_message, encode_message


class FrameType(enum.IntEnum):
    """What a frame says. The numbers are the wire's."""

    HEADERS = 1
    """Back-end to caller: initial metadata; before any message, at most once."""
    MESSAGE = 2
    """One whole message."""
    GZIP_MESSAGE = 3
    """One whole message, compressed with gzip."""
    PART = 4
    """The beginning of a message that is sent in parts: flags and total size, then the first bytes."""
    MORE = 5
    """The next bytes of a message that is sent in parts."""
    HALF_CLOSE = 6
    """Caller to back-end: there are no more messages. Empty."""
    CREDIT = 7
    """The receiver can take so many more bytes (unsigned 32 bit)."""
    STATUS = 8
    """Back-end to caller: how the call ended; the last frame of a call."""
    CANCEL = 9
    """Either way: the sender is not interested any more; the last frame of a call."""


Frame = tuple[FrameType, bytes]

PACKET_HEADER = struct.Struct(">I")
FRAME_HEADER = struct.Struct(">BI")
PART_HEADER = struct.Struct(">BQ")
CREDIT_BODY = struct.Struct(">I")

PART_GZIP = 1
"""Flag of a PART: the whole message is compressed with gzip."""

MESSAGE_COST = 64
"""Bytes of credit that a message costs on top of its size: many tiny messages must not be free."""

MAX_SEQUENCE = 0xFFFFFFFF

_TYPES = {int(kind): kind for kind in FrameType}


def frame(kind: FrameType, body: bytes = b"") -> bytes:
    """Return one encoded frame."""
    return FRAME_HEADER.pack(kind, len(body)) + body


def packet(sequence: int, frames: bytes) -> bytes:
    """Return the payload of a NATS message."""
    return PACKET_HEADER.pack(sequence & MAX_SEQUENCE) + frames


def parse_packet(data: bytes) -> tuple[int, list[Frame]]:
    """Return (sequence number, frames). Raises ``ProtocolError`` for anything but a whole packet of known frames."""
    if len(data) < PACKET_HEADER.size:
        raise ProtocolError(f"a packet of {len(data)} bytes has no sequence number")
    (sequence,) = PACKET_HEADER.unpack_from(data)
    return sequence, list(_frames(data))


def _frames(data: bytes) -> Iterator[Frame]:
    at, end, header = PACKET_HEADER.size, len(data), FRAME_HEADER.size
    while at < end:
        if end - at < header:
            raise ProtocolError("a packet ends within a frame header")
        number, length = FRAME_HEADER.unpack_from(data, at)
        kind = _TYPES.get(number)
        if kind is None:
            raise ProtocolError(f"unknown frame type {number}")
        at += header
        if end - at < length:
            raise ProtocolError(f"a {kind.name} frame of {length} bytes is cut off")
        yield kind, data[at : at + length]
        at += length


def encode_metadata(metadata: Metadata, *, trailing: bool = False) -> bytes:
    """Return metadata as header lines, ``name: value`` and CR LF each: the form it has in NATS headers."""
    headers: dict[str, str] = {}
    write_headers(headers, metadata, trailing=trailing)
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


def decode_metadata(body: bytes) -> tuple[Metadata, Metadata]:
    """Return the (initial, trailing) metadata of header lines. Raises ``ProtocolError``."""
    headers: dict[str, str] = {}
    try:
        lines = body.decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise ProtocolError("metadata is not ASCII") from None
    for line in lines:
        if line:
            name, separator, value = line.partition(": ")
            if not separator:
                raise ProtocolError("a metadata line has no ': '")
            headers[name] = value
    return read_headers(headers)


def encode_status(code: StatusCode, details: str, trailing: Metadata = ()) -> bytes:
    """Return the body of a STATUS or CANCEL frame: the code, the length of the details, both, and trailing metadata."""
    text = encode_message(details).encode()
    return struct.pack(">BH", code_number(code), len(text)) + text + encode_metadata(trailing, trailing=True)


def decode_status(body: bytes) -> tuple[StatusCode, str, Metadata]:
    """Return (code, details, trailing metadata). Raises ``ProtocolError``."""
    if len(body) < 3:
        raise ProtocolError("a status is cut off")
    number, length = struct.unpack_from(">BH", body)
    text = body[3 : 3 + length]
    if len(text) < length:
        raise ProtocolError("the details of a status are cut off")
    return code_from_number(number), decode_message(text.decode("latin-1")), decode_metadata(body[3 + length :])[1]
