"""The state machine of one call that is carried by packets: sans-IO, the same for both ends.

Bytes of packets go in, events come out; messages go in, packets come out as far as the peer's credit allows. What a
peer may send in which state stands in ``TRANSITIONS``, and nowhere else; everything that is not in it is a
``ProtocolError``. Our own misuse raises ``LocalProtocolError``: that is a bug here, not there.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from rpc.metadata import Metadata
from rpc.status import StatusCode
from rpc.wire import frames
from rpc.wire.envelope import ProtocolError
from rpc.wire.frames import FRAME_HEADER, MESSAGE_COST, PACKET_HEADER, PART_HEADER, FrameType

INITIAL_WINDOW = 1024 * 1024
"""Credit in bytes that each end has at the start of a call; a receiver that takes in more grants it at once."""

_SMALLEST_PART = 1024
"""Parts are not made smaller than this to use up a rest of credit: more is coming."""


class LocalProtocolError(RuntimeError):
    """This end tried to send what the protocol does not allow in its state."""


class Role(enum.Enum):
    """Which end of the call this is."""

    CLIENT = "client"
    SERVER = "server"


class State(enum.Enum):
    """What the peer may send next."""

    HEADERS = enum.auto()
    """Client only: initial metadata, a message or the status may come."""
    MESSAGES = enum.auto()
    """Messages may come."""
    ASSEMBLING = enum.auto()
    """A message is coming in parts."""
    HALF_CLOSED = enum.auto()
    """Server only: no more messages come; credit and a cancellation may."""
    CLOSED = enum.auto()
    """The call is over; what still arrives was sent before the peer knew."""


_F, _S = FrameType, State

TRANSITIONS: dict[Role, dict[tuple[State, FrameType], State]] = {
    Role.CLIENT: {
        (_S.HEADERS, _F.HEADERS): _S.MESSAGES,
        (_S.HEADERS, _F.MESSAGE): _S.MESSAGES,
        (_S.HEADERS, _F.GZIP_MESSAGE): _S.MESSAGES,
        (_S.HEADERS, _F.PART): _S.ASSEMBLING,
        (_S.HEADERS, _F.CREDIT): _S.HEADERS,
        (_S.HEADERS, _F.STATUS): _S.CLOSED,
        (_S.HEADERS, _F.CANCEL): _S.CLOSED,
        (_S.MESSAGES, _F.MESSAGE): _S.MESSAGES,
        (_S.MESSAGES, _F.GZIP_MESSAGE): _S.MESSAGES,
        (_S.MESSAGES, _F.PART): _S.ASSEMBLING,
        (_S.MESSAGES, _F.CREDIT): _S.MESSAGES,
        (_S.MESSAGES, _F.STATUS): _S.CLOSED,
        (_S.MESSAGES, _F.CANCEL): _S.CLOSED,
        (_S.ASSEMBLING, _F.MORE): _S.ASSEMBLING,  # back to MESSAGES when the message is whole
        (_S.ASSEMBLING, _F.CREDIT): _S.ASSEMBLING,
        (_S.ASSEMBLING, _F.STATUS): _S.CLOSED,  # a handler may end in the middle of a message
        (_S.ASSEMBLING, _F.CANCEL): _S.CLOSED,
    },
    Role.SERVER: {
        (_S.MESSAGES, _F.MESSAGE): _S.MESSAGES,
        (_S.MESSAGES, _F.GZIP_MESSAGE): _S.MESSAGES,
        (_S.MESSAGES, _F.PART): _S.ASSEMBLING,
        (_S.MESSAGES, _F.CREDIT): _S.MESSAGES,
        (_S.MESSAGES, _F.HALF_CLOSE): _S.HALF_CLOSED,
        (_S.MESSAGES, _F.CANCEL): _S.CLOSED,
        (_S.ASSEMBLING, _F.MORE): _S.ASSEMBLING,  # back to MESSAGES when the message is whole
        (_S.ASSEMBLING, _F.CREDIT): _S.ASSEMBLING,
        (_S.ASSEMBLING, _F.CANCEL): _S.CLOSED,
        (_S.HALF_CLOSED, _F.CREDIT): _S.HALF_CLOSED,
        (_S.HALF_CLOSED, _F.CANCEL): _S.CLOSED,
    },
}
"""(state, frame that came) -> next state, for what each role receives. docs/wire-protocol.md draws it."""

_START = {Role.CLIENT: State.HEADERS, Role.SERVER: State.MESSAGES}


@dataclass(frozen=True, slots=True)
class HeadersReceived:
    """Initial metadata came."""

    metadata: Metadata


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A whole message came. ``cost`` goes to ``consumed`` once the application has taken it."""

    data: bytes
    compressed: bool
    cost: int


@dataclass(frozen=True, slots=True)
class HalfClosed:
    """The caller sends no more messages."""


@dataclass(frozen=True, slots=True)
class Credited:
    """The peer can take more."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer ended the call. ``cancelled`` tells a CANCEL from a STATUS."""

    code: StatusCode
    details: str
    trailing_metadata: Metadata
    cancelled: bool


Event = HeadersReceived | MessageReceived | HalfClosed | Credited | Ended


class MessageTooLargeError(ProtocolError):
    """A message is larger than this end takes; known from its first frame, before memory is spent on it."""


@dataclass(slots=True)
class _Assembly:
    total: int
    compressed: bool
    parts: list[bytes]
    size: int


class StreamMachine:
    """One call, seen from one end."""

    def __init__(self, role: Role, *, max_message: int, window: int = INITIAL_WINDOW) -> None:
        """``window``: bytes that this end takes in before the application reads, at least ``INITIAL_WINDOW``.

        ``max_message``: bytes that one message from the peer may have.
        """
        if not INITIAL_WINDOW <= window <= 0xFFFFFFFF:
            raise LocalProtocolError(f"a window must have {INITIAL_WINDOW} to 4294967295 bytes (got {window})")
        self._role = role
        self._table = TRANSITIONS[role]
        self._max_message = max_message
        self._window = window
        self._expected = 0
        self._incoming_credit = window
        self._ungranted = 0
        self._assembly: _Assembly | None = None
        self._sequence = 0
        self._credit = INITIAL_WINDOW
        self._control: deque[bytes] = deque()
        self._messages: deque[tuple[bytes, bool]] = deque()
        self._queued = 0
        self._sent_of_first = 0
        self._last: bytes | None = None
        self._half_close = False
        self._sending_done = False
        self.state = _START[role]
        if window > INITIAL_WINDOW:
            self._control.append(frames.frame(FrameType.CREDIT, frames.CREDIT_BODY.pack(window - INITIAL_WINDOW)))

    # ------------------------------------------------------------------------------------------------ receiving

    def receive(self, data: bytes) -> list[Event]:
        """Take one packet in. Raises ``ProtocolError``: the call cannot go on then."""
        if self.state is State.CLOSED:
            return []
        sequence, parsed = frames.parse_packet(data)
        if sequence != self._expected:
            raise ProtocolError(f"packet {sequence} came where {self._expected} was due: one was lost, doubled or late")
        self._expected = (self._expected + 1) & frames.MAX_SEQUENCE
        events: list[Event] = []
        for kind, body in parsed:
            following = self._table.get((self.state, kind))
            if following is None:
                raise ProtocolError(f"a {kind.name} frame is not allowed in state {self.state.name}")
            self.state = following
            event = self._take(kind, body)
            if event is not None:
                events.append(event)
            if following is State.CLOSED:
                break
        return events

    def _take(self, kind: FrameType, body: bytes) -> Event | None:  # noqa: PLR0911 - one for each type of frame
        if kind is FrameType.MESSAGE or kind is FrameType.GZIP_MESSAGE:
            return self._whole(body, compressed=kind is FrameType.GZIP_MESSAGE)
        if kind is FrameType.MORE:
            return self._more(body)
        if kind is FrameType.PART:
            return self._part(body)
        if kind is FrameType.CREDIT:
            return self._credited(body)
        if kind is FrameType.HALF_CLOSE:
            return HalfClosed()
        if kind is FrameType.HEADERS:
            return HeadersReceived(frames.decode_metadata(body)[0])
        code, details, trailing = frames.decode_status(body)
        self._discard_outgoing()
        return Ended(code, details, trailing, cancelled=kind is FrameType.CANCEL)

    def _spend(self, cost: int) -> None:
        self._incoming_credit -= cost
        if self._incoming_credit < 0:
            raise ProtocolError("the peer sent more than it had credit for")

    def _whole(self, body: bytes, *, compressed: bool) -> Event:
        if len(body) > self._max_message:
            raise MessageTooLargeError(self._too_large(len(body)))
        cost = len(body) + MESSAGE_COST
        self._spend(cost)
        return MessageReceived(body, compressed, cost)

    def _too_large(self, size: int) -> str:
        return f"Received message larger than max ({size} vs. {self._max_message})"

    def _part(self, body: bytes) -> Event | None:
        if len(body) < PART_HEADER.size:
            raise ProtocolError("a PART frame is cut off")
        flags, total = PART_HEADER.unpack_from(body)
        if flags & ~frames.PART_GZIP:
            raise ProtocolError(f"unknown flags {flags} in a PART frame")
        if total > self._max_message:
            raise MessageTooLargeError(self._too_large(total))
        self._assembly = _Assembly(total, bool(flags & frames.PART_GZIP), [], 0)
        self._spend(MESSAGE_COST)
        # What is spent on reassembly is given back at once: its bound is max_message, checked above.
        self.consumed(MESSAGE_COST)
        return self._more(body[PART_HEADER.size :])

    def _more(self, body: bytes) -> Event | None:
        assembly = self._assembly
        assert assembly is not None  # noqa: S101 - the table allows MORE only after PART
        self._spend(len(body))
        assembly.size += len(body)
        if assembly.size > assembly.total or not body:
            raise ProtocolError("the parts of a message do not add up to its size")
        assembly.parts.append(body)
        if assembly.size < assembly.total:
            self.consumed(len(body))
            return None
        self._assembly = None
        self.state = State.MESSAGES
        return MessageReceived(b"".join(assembly.parts), assembly.compressed, len(body))

    def _credited(self, body: bytes) -> Event:
        if len(body) != frames.CREDIT_BODY.size:
            raise ProtocolError("a CREDIT frame has not 4 bytes")
        (amount,) = frames.CREDIT_BODY.unpack(body)
        self._credit += amount
        if self._credit > 0x7FFFFFFFFFFF:
            raise ProtocolError("the peer gave more credit than there is")
        return Credited()

    def consumed(self, cost: int) -> None:
        """The application has taken a message: the peer may send as much again."""
        self._ungranted += cost
        if self._ungranted * 2 >= self._window and self.state not in (State.CLOSED, State.HALF_CLOSED):
            self._control.append(frames.frame(FrameType.CREDIT, frames.CREDIT_BODY.pack(self._ungranted)))
            self._incoming_credit += self._ungranted
            self._ungranted = 0

    # -------------------------------------------------------------------------------------------------- sending

    def send_headers(self, metadata: Metadata) -> None:
        """Server: send initial metadata."""
        self._check_sending(Role.SERVER)
        self._control.append(frames.frame(FrameType.HEADERS, frames.encode_metadata(metadata)))

    def send_message(self, data: bytes, *, compressed: bool = False) -> None:
        """Send a message, as soon as the peer has credit for it."""
        self._check_sending(None)
        self._messages.append((data, compressed))
        self._queued += len(data)

    def half_close(self) -> None:
        """Client: send no more messages, after those that wait for credit."""
        self._check_sending(Role.CLIENT)
        self._half_close = True
        self._sending_done = True

    def end(self, code: StatusCode, details: str = "", trailing: Metadata = (), *, discard: bool = False) -> None:
        """Server: end the call, once the messages that wait for credit are out; ``discard`` drops them instead."""
        self._check_sending(Role.SERVER)
        if discard:
            self._drop_messages()
        self._last = frames.frame(FrameType.STATUS, frames.encode_status(code, details, trailing))
        self._sending_done = True

    def cancel(self, code: StatusCode, details: str) -> None:
        """End the call from this side at once; does nothing when it is over."""
        if self.state is State.CLOSED or self._last is not None:
            return
        self._drop_messages()
        self._half_close = False
        self._last = frames.frame(FrameType.CANCEL, frames.encode_status(code, details))
        self._sending_done = True
        self.state = State.CLOSED

    def _check_sending(self, role: Role | None) -> None:
        if role is not None and role is not self._role:
            raise LocalProtocolError(f"only a {role.value} sends this")
        if self._sending_done:
            raise LocalProtocolError("nothing can be sent any more")

    def _drop_messages(self) -> None:
        # A message that has begun cannot be taken back, but the end of the call may follow in its middle.
        self._messages.clear()
        self._queued = 0
        self._sent_of_first = 0

    def _discard_outgoing(self) -> None:
        self._drop_messages()
        self._control.clear()
        self._half_close = False
        self._last = None
        self._sending_done = True

    @property
    def queued(self) -> int:
        """Bytes of messages that are not in a packet yet."""
        return self._queued

    @property
    def has_credit_to_give(self) -> bool:
        """True when a packet should be made though there is no message to send."""
        return bool(self._control)

    @property
    def is_drained(self) -> bool:
        """True when every message is in a packet."""
        return not self._messages

    @property
    def is_finished(self) -> bool:
        """True when this end has nothing more to say."""
        return self._sending_done and not (self._messages or self._control or self._half_close or self._last)

    def next_packet(self, max_size: int, *, even_empty: bool = False) -> bytes | None:
        """Return the next packet of at most ``max_size`` bytes, or None when nothing can be sent now.

        ``even_empty`` makes a packet without frames then: what opens a call.
        """
        room = max_size - PACKET_HEADER.size
        chosen: list[bytes] = []
        while self._control and len(self._control[0]) <= room:
            room -= len(self._control[0])
            chosen.append(self._control.popleft())
        while self._messages and not self._control and self._add_message(chosen, room):
            room = max_size - PACKET_HEADER.size - sum(map(len, chosen))
        if not self._messages and not self._control:
            if self._half_close and room >= FRAME_HEADER.size:
                room -= FRAME_HEADER.size
                chosen.append(frames.frame(FrameType.HALF_CLOSE))
                self._half_close = False
            if self._last is not None and len(self._last) <= room:
                chosen.append(self._last)
                self._last = None
                if self._role is Role.SERVER:
                    self.state = State.CLOSED
        if not chosen and not even_empty:
            return None
        result = frames.packet(self._sequence, b"".join(chosen))
        self._sequence = (self._sequence + 1) & frames.MAX_SEQUENCE
        return result

    def _add_message(self, chosen: list[bytes], room: int) -> bool:
        """Put the first waiting message, or as much of it as fits, into the packet; False when nothing fits."""
        data, compressed = self._messages[0]
        begun = self._sent_of_first
        if not begun:
            cost = len(data) + MESSAGE_COST
            if cost <= self._credit and len(data) + FRAME_HEADER.size <= room:
                self._credit -= cost
                kind = FrameType.GZIP_MESSAGE if compressed else FrameType.MESSAGE
                chosen.append(frames.frame(kind, data))
                self._messages.popleft()
                self._queued -= len(data)
                return True
            if chosen and len(data) + FRAME_HEADER.size <= room + sum(map(len, chosen)):
                return False  # It fits whole into the next packet, if there is credit.
            return self._add_first_part(chosen, data, compressed, room)
        size = min(len(data) - begun, room - FRAME_HEADER.size, self._credit)
        if size <= 0 or (size < len(data) - begun and size < _SMALLEST_PART):
            return False
        chosen.append(frames.frame(FrameType.MORE, data[begun : begun + size]))
        self._advance(size, len(data))
        return True

    def _add_first_part(self, chosen: list[bytes], data: bytes, compressed: bool, room: int) -> bool:
        size = min(len(data), room - FRAME_HEADER.size - PART_HEADER.size, self._credit - MESSAGE_COST)
        if size < min(len(data), _SMALLEST_PART) or size <= 0:
            return False
        header = PART_HEADER.pack(frames.PART_GZIP if compressed else 0, len(data))
        chosen.append(frames.frame(FrameType.PART, header + data[:size]))
        self._credit -= MESSAGE_COST
        self._advance(size, len(data))
        return True

    def _advance(self, size: int, total: int) -> None:
        self._credit -= size
        self._queued -= size
        self._sent_of_first += size
        if self._sent_of_first == total:
            self._messages.popleft()
            self._sent_of_first = 0
