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
    """The receiver can take so many more bytes (unsigned 32 bit, not 0)."""
    STATUS = 8
    """Back-end to caller: how the call ended; the last frame of a call."""
    CANCEL = 9
    """Either way: the sender is not interested any more; the last frame of a call."""


PACKET_HEADER = struct.Struct(">I")
FRAME_HEADER = struct.Struct(">BI")
PART_HEADER = struct.Struct(">BQ")
CREDIT_BODY = struct.Struct(">I")
STATUS_HEADER = struct.Struct(">BH")

PART_GZIP = 1
"""Flag of a PART: the whole message is compressed with gzip."""

INITIAL_WINDOW = 1024 * 1024
"""Credit in bytes that each end has at the start of a call; a receiver that takes in more grants it at once."""

MESSAGE_COST = 64
"""Bytes of credit that a message costs on top of its size: many tiny messages must not be free."""

MIN_PART = 1024
"""Bytes that each part of a message but the last must have: many tiny parts must not be cheap to send either."""

MAX_CREDIT = 0xFFFFFFFF
"""Bytes of credit that one end may have at once, and so the largest window."""

MAX_SEQUENCE = 0xFFFFFFFF
"""Sequence numbers go on with 0 after this one."""


def frame(kind: FrameType, body: bytes = b"") -> bytes:
    """Return one encoded frame."""
    return FRAME_HEADER.pack(kind, len(body)) + body


def sequence_of(data: bytes) -> int:
    """Return the sequence number of a packet. Raises ``ProtocolError``."""
    if len(data) < PACKET_HEADER.size:
        raise ProtocolError(f"a packet of {len(data)} bytes has no sequence number")
    sequence: int = PACKET_HEADER.unpack_from(data)[0]
    return sequence


def split(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (type number, begin, end) of each frame of a packet; the bounds are those of its body in ``data``.

    Raises ``ProtocolError`` where the packet is cut off. A packet may have very many frames: take them one by one.
    """
    at, end = PACKET_HEADER.size, len(data)
    while at < end:
        begin = at + FRAME_HEADER.size
        if begin > end:
            raise ProtocolError("a packet ends within a frame header")
        number, length = FRAME_HEADER.unpack_from(data, at)
        at = begin + length
        if at > end:
            raise ProtocolError(f"a frame of {length} bytes is cut off")
        yield number, begin, at


def encode_credit(amount: int) -> bytes:
    """Return a CREDIT frame for so many bytes."""
    return frame(FrameType.CREDIT, CREDIT_BODY.pack(amount))


def decode_credit(body: bytes) -> int:
    """Return the bytes of credit that a CREDIT gives. Raises ``ProtocolError``."""
    if len(body) != CREDIT_BODY.size:
        raise ProtocolError("a CREDIT frame has not 4 bytes")
    amount: int = CREDIT_BODY.unpack(body)[0]
    if not amount:
        raise ProtocolError("a CREDIT frame gives nothing")
    return amount


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
    return STATUS_HEADER.pack(code_number(code), len(text)) + text + encode_metadata(trailing, trailing=True)


def decode_status(body: bytes) -> tuple[StatusCode, str, Metadata]:
    """Return (code, details, trailing metadata). Raises ``ProtocolError``."""
    if len(body) < STATUS_HEADER.size:
        raise ProtocolError("a status is cut off")
    number, length = STATUS_HEADER.unpack_from(body)
    end = STATUS_HEADER.size + length
    if len(body) < end:
        raise ProtocolError("the details of a status are cut off")
    details = decode_message(body[STATUS_HEADER.size : end].decode("latin-1"))
    return code_from_number(number), details, decode_metadata(body[end:])[1]
