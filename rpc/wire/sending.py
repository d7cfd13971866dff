"""The outgoing half of a call: messages go in, packets come out, as far as the peer's credit allows.

What this end does wrong raises ``LocalProtocolError``: that is a bug here, not there.
"""

from __future__ import annotations

from collections import deque

from rpc.wire.envelope import ProtocolError
from rpc.wire.frames import (
    FRAME_HEADER,
    INITIAL_WINDOW,
    MAX_CREDIT,
    MAX_SEQUENCE,
    MESSAGE_COST,
    MIN_PART,
    PACKET_HEADER,
    PART_GZIP,
    PART_HEADER,
    FrameType,
    encode_credit,
    frame,
)

MIN_PACKET = 2 * MIN_PART
"""Bytes that a packet must be allowed to have: the smallest part must fit, with all that stands around it."""

_PART_OVERHEAD = FRAME_HEADER.size + PART_HEADER.size
_HALF_CLOSE = frame(FrameType.HALF_CLOSE)
# Plain numbers: an access to a member of an enum takes longer than all the rest that a small message needs.
_MESSAGE, _GZIP_MESSAGE = int(FrameType.MESSAGE), int(FrameType.GZIP_MESSAGE)


class LocalProtocolError(RuntimeError):
    """This end tried to send what the protocol does not allow in its state."""


class Outgoing:
    """What one end has to say, in the order in which it goes out: headers, credit, messages, the end."""

    __slots__ = (
        "_begun",
        "_credit",
        "_grant",
        "_half_close",
        "_headers",
        "_last",
        "_messages",
        "_started",
        "is_complete",
        "is_over",
        "queued",
        "sequence",
    )

    def __init__(self) -> None:
        self.sequence = 0
        """Number of the next packet, which is the number of packets made, as far as 32 bits go."""
        self.queued = 0
        """Bytes of messages that are not in a packet yet, with what they cost besides."""
        self.is_complete = False
        """True when nothing can be added any more."""
        self.is_over = False
        """True when the call has its end: the last frame is out, or the peer's came; it cannot be cut short then."""
        self._headers: bytes | None = None
        self._grant = 0
        self._messages: deque[tuple[bytes, bool]] = deque()
        self._begun = 0  # bytes of the first message that are in packets already
        self._credit = INITIAL_WINDOW
        self._started = False
        self._half_close = False
        self._last: bytes | None = None

    # ------------------------------------------------------------------------------------------------ what to say

    def headers(self, encoded: bytes) -> None:
        """Send a HEADERS frame; once, and before any message."""
        self._check_open()
        if self._started:
            raise LocalProtocolError("initial metadata is sent once, before any message")
        self._started = True
        self._headers = encoded

    def message(self, data: bytes, compressed: bool) -> None:
        """Send a message as soon as the peer has room for it."""
        if self.is_complete:
            self._check_open()
        self._started = True
        self._messages.append((data, compressed))
        self.queued += len(data) + MESSAGE_COST

    def half_close(self) -> None:
        """Send no more messages after those that wait."""
        self._check_open()
        self._half_close = True
        self.is_complete = True

    def end(self, last: bytes) -> None:
        """Send the last frame of the call, after the messages that wait."""
        self._check_open()
        self._last = last
        self.is_complete = True

    def cut_short(self, last: bytes) -> None:
        """Send the last frame of the call instead of all that waits, the frame of an earlier ``end`` included."""
        self.abandon()
        self._last = last

    def abandon(self) -> None:
        """Say nothing any more."""
        self.drop_messages()
        self._headers = None
        self._grant = 0
        self._half_close = False
        self._last = None
        self.is_complete = True
        self.is_over = True

    def drop_messages(self) -> None:
        """Forget the messages that wait; one that has begun stays unfinished, which only the end may follow."""
        self._messages.clear()
        self.queued = 0
        self._begun = 0

    def _check_open(self) -> None:
        if self.is_complete:
            raise LocalProtocolError("nothing can be sent any more")

    # ------------------------------------------------------------------------------------------------------ credit

    def grant(self, amount: int) -> None:
        """Tell the peer that it may send so many bytes more."""
        self._grant += amount

    def credited(self, amount: int) -> None:
        """The peer takes so many bytes more. Raises ``ProtocolError`` when that is more than there is."""
        self._credit += amount
        if self._credit > MAX_CREDIT:
            raise ProtocolError(f"the peer gave more credit than {MAX_CREDIT} bytes")

    @property
    def has_grant(self) -> bool:
        """True when credit waits to be given, for which a packet should be made even if there is nothing else."""
        return self._grant > 0

    @property
    def has_something(self) -> bool:
        """True when a packet could be due, if there is credit for it."""
        return bool(
            self._messages or self._grant or self._headers is not None or self._last is not None or self._half_close
        )

    @property
    def is_drained(self) -> bool:
        """True when every message is in a packet."""
        return not self._messages

    @property
    def is_finished(self) -> bool:
        """True when this end has said all that it will ever say."""
        return self.is_complete and not (self._messages or self._half_close or self._last)

    # ----------------------------------------------------------------------------------------------------- packets

    def next_packet(self, max_size: int, *, even_empty: bool = False) -> bytes | None:
        """Return the next packet of at most ``max_size`` bytes, or None when nothing can be sent now."""
        if max_size < MIN_PACKET:
            raise LocalProtocolError(f"a packet must be allowed {MIN_PACKET} bytes (got {max_size})")
        pieces: list[bytes | memoryview] = [PACKET_HEADER.pack(self.sequence)]
        room = max_size - PACKET_HEADER.size
        if self._headers is not None:
            room -= len(self._headers)
            if room < 0:
                raise LocalProtocolError(f"initial metadata does not fit into a packet of {max_size} bytes")
            pieces.append(self._headers)
            self._headers = None
        if self._grant:
            credit = encode_credit(self._grant)
            if len(credit) <= room:
                room -= len(credit)
                pieces.append(credit)
                self._grant = 0
        if self._messages:
            room = self._add_messages(pieces, room, max_size)
        if self.is_complete and not self._messages:
            self._add_end(pieces, room)
        if len(pieces) == 1 and not even_empty:
            return None
        self.sequence = (self.sequence + 1) & MAX_SEQUENCE
        return b"".join(pieces)

    def _add_end(self, pieces: list[bytes | memoryview], room: int) -> None:
        if self._half_close and len(_HALF_CLOSE) <= room:
            pieces.append(_HALF_CLOSE)
            self._half_close = False
        if self._last is not None:
            if len(self._last) <= room:
                pieces.append(self._last)
                self._last = None
                self.is_over = True
            elif len(pieces) == 1:
                raise LocalProtocolError(f"a status of {len(self._last)} bytes does not fit into a packet")

    def _add_messages(self, pieces: list[bytes | memoryview], room: int, max_size: int) -> int:
        """Put the messages that wait into a packet, as far as room and credit go; return the room that is left."""
        messages = self._messages
        while messages:
            data, compressed = messages[0]
            size = len(data)
            if self._begun:
                used = self._add_more(pieces, data, room)
            elif size + MESSAGE_COST <= self._credit and size + FRAME_HEADER.size <= room:
                pieces.append(FRAME_HEADER.pack(_GZIP_MESSAGE if compressed else _MESSAGE, size))
                pieces.append(data)
                self._credit -= size + MESSAGE_COST
                self.queued -= size + MESSAGE_COST
                messages.popleft()
                used = size + FRAME_HEADER.size
            elif len(pieces) > 1 and size + FRAME_HEADER.size <= max_size - PACKET_HEADER.size:
                break  # It fits into a packet of its own: not worth to be torn.
            else:
                used = self._add_first_part(pieces, data, compressed, room)
            if not used:
                break
            room -= used
        return room

    def _add_first_part(self, pieces: list[bytes | memoryview], data: bytes, compressed: bool, room: int) -> int:
        size = min(len(data), room - _PART_OVERHEAD, self._credit - MESSAGE_COST)
        if size < MIN_PART:
            return 0  # More credit is coming, or the next packet has more room.
        pieces.append(FRAME_HEADER.pack(FrameType.PART, PART_HEADER.size + size))
        pieces.append(PART_HEADER.pack(PART_GZIP if compressed else 0, len(data)))
        pieces.append(memoryview(data)[:size])
        self._credit -= MESSAGE_COST
        self.queued -= MESSAGE_COST
        self._advance(size, len(data))
        return size + _PART_OVERHEAD

    def _add_more(self, pieces: list[bytes | memoryview], data: bytes, room: int) -> int:
        rest = len(data) - self._begun
        size = min(rest, room - FRAME_HEADER.size, self._credit)
        if size < min(rest, MIN_PART):
            return 0
        pieces.append(FRAME_HEADER.pack(FrameType.MORE, size))
        pieces.append(memoryview(data)[self._begun : self._begun + size])
        self._advance(size, len(data))
        return size + FRAME_HEADER.size

    def _advance(self, size: int, total: int) -> None:
        self._credit -= size
        self.queued -= size
        self._begun += size
        if self._begun == total:
            self._messages.popleft()
            self._begun = 0
