"""The incoming half of a call: bytes of packets go in, events come out.

What a peer may send in which state stands in ``states.TRANSITIONS``, and nowhere else; everything that is not in it is
a ``ProtocolError``, as is whatever else does not fit: lost and doubled packets, messages beyond the credit.

Of the window, at each moment, a part is what the peer may still send, a part is taken by messages that the application
has not read yet (a message that is coming in parts is one of these), and the rest waits to be given back:
``credit + unread + assembled + ungranted == window``. A message that is larger than the window could never arrive by
that rule. So while it is the only one, its parts are given back as they come; ``max_message`` bounds it then.
"""

from __future__ import annotations

from dataclasses import dataclass

from rpc.status import StatusCode
from rpc.wire import frames
from rpc.wire.envelope import ProtocolError
from rpc.wire.events import Credited, Ended, Event, HalfClosed, HeadersReceived, MessageReceived
from rpc.wire.frames import MAX_SEQUENCE, MESSAGE_COST, MIN_PART, PART_GZIP, PART_HEADER, FrameType
from rpc.wire.sending import Outgoing
from rpc.wire.states import START, TRANSITIONS, Role, State

_NAMES = {int(kind): kind.name for kind in FrameType}
# Plain numbers: an access to a member of an enum takes longer than all the rest that a small message needs.
_MESSAGE, _GZIP_MESSAGE, _CREDIT = int(FrameType.MESSAGE), int(FrameType.GZIP_MESSAGE), int(FrameType.CREDIT)


class MessageTooLargeError(ProtocolError):
    """A message is larger than this end takes; known from its first frame, before memory is spent on it."""


@dataclass(slots=True)
class _Assembly:
    """A message that is coming in parts."""

    total: int
    compressed: bool
    parts: list[bytes | memoryview]
    size: int
    cost: int
    """Credit that its parts took and that was not given back yet."""


class Incoming:
    """What the peer says; credit is exchanged with the outgoing half."""

    __slots__ = (
        "_assembly",
        "_credit",
        "_max_message",
        "_outgoing",
        "_rows",
        "_ungranted",
        "_unread",
        "_window",
        "sequence",
        "state",
    )

    def __init__(self, role: Role, outgoing: Outgoing, *, max_message: int, window: int) -> None:
        self.state = START[role]
        self.sequence = 0
        """Number of the packet that is due, which is the number of packets that came, as far as 32 bits go."""
        self._rows = TRANSITIONS[role]
        self._outgoing = outgoing
        self._max_message = max_message
        self._window = window
        self._credit = window
        self._ungranted = 0
        self._unread = 0
        self._assembly: _Assembly | None = None

    def receive(self, data: bytes) -> list[Event]:
        """Take one packet in. Raises ``ProtocolError``: nothing more can be received then."""
        if self.state is State.CLOSED:
            return []
        try:
            sequence = frames.sequence_of(data)
            if sequence != self.sequence:
                raise ProtocolError(f"packet {sequence} came, {self.sequence} was due: one was lost, doubled or late")
            self.sequence = (sequence + 1) & MAX_SEQUENCE
            return self._events(data)
        except ProtocolError:
            self.state = State.CLOSED
            raise

    def _events(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        credited = False
        row = self._rows[self.state]
        for number, begin, end in frames.split(data):
            following = row.get(number)
            if following is None:
                name = _NAMES.get(number, f"unknown (type {number})")
                raise ProtocolError(f"a {name} frame is not allowed in state {self.state.name}")
            before = self.state
            self.state = following
            if number in (_MESSAGE, _GZIP_MESSAGE):
                events.append(self._whole(data[begin:end], number == _GZIP_MESSAGE))
            elif number == _CREDIT:
                self._outgoing.credited(frames.decode_credit(data[begin:end]))
                credited = True
            else:
                event = self._other(number, data, begin, end, before)
                if event is not None:
                    events.append(event)
            if self.state is not before:
                row = self._rows[self.state]
                if self.state is State.CLOSED:
                    return events
        if credited:
            events.append(Credited())
        return events

    def _other(self, number: int, data: bytes, begin: int, end: int, before: State) -> Event | None:
        if number in (FrameType.PART, FrameType.MORE):
            if number == FrameType.PART:
                begin = self._begin_assembly(data, begin, end)
            # A view keeps all of the packet alive, so the part must be most of it.
            piece = memoryview(data)[begin:end] if 2 * (end - begin) >= len(data) else data[begin:end]
            return self._assemble(piece)
        if number == FrameType.HALF_CLOSE:
            if end > begin:
                raise ProtocolError("a HALF_CLOSE frame has a body")
            return HalfClosed()
        body = data[begin:end]
        if number == FrameType.HEADERS:
            return HeadersReceived(frames.decode_metadata(body)[0])
        code, details, trailing = frames.decode_status(body)
        cancelled = number == FrameType.CANCEL
        if code is StatusCode.OK and (cancelled or before is State.ASSEMBLING):
            raise ProtocolError("the peer broke the call off with status OK")
        self._outgoing.abandon()
        return Ended(code, details, trailing, cancelled)

    # ---------------------------------------------------------------------------------------------------- messages

    def _spend(self, cost: int) -> None:
        self._credit -= cost
        if self._credit < 0:
            raise ProtocolError("the peer sent more than it had credit for")

    def _check_size(self, size: int) -> None:
        if size > self._max_message:
            raise MessageTooLargeError(f"Received message larger than max ({size} vs. {self._max_message})")

    def _whole(self, body: bytes, compressed: bool) -> Event:
        size = len(body)
        self._check_size(size)
        cost = size + MESSAGE_COST
        self._spend(cost)
        self._unread += 1
        return MessageReceived(body, compressed, cost)

    def _begin_assembly(self, data: bytes, begin: int, end: int) -> int:
        """Take in the header of a PART; return where its bytes begin."""
        after = begin + PART_HEADER.size
        if end < after:
            raise ProtocolError("a PART frame is cut off")
        flags, total = PART_HEADER.unpack_from(data, begin)
        if flags & ~PART_GZIP:
            raise ProtocolError(f"unknown flags {flags} in a PART frame")
        self._check_size(total)
        self._spend(MESSAGE_COST)
        self._assembly = _Assembly(total, bool(flags & PART_GZIP), [], 0, MESSAGE_COST)
        return after

    def _assemble(self, piece: bytes | memoryview) -> Event | None:
        assembly = self._assembly
        assert assembly is not None  # noqa: S101 - the table allows MORE only after PART
        size = len(piece)
        self._spend(size)
        assembly.size += size
        assembly.cost += size
        assembly.parts.append(piece)
        if assembly.size < assembly.total:
            if size < MIN_PART:
                raise ProtocolError(f"a part of {size} bytes is smaller than {MIN_PART}, and not the last")
            if not self._unread:
                self._forgive(assembly)
                self._give_back()
            return None
        if assembly.size > assembly.total:
            raise ProtocolError("the parts of a message are larger than it was to be")
        self._assembly = None
        self._unread += 1
        self.state = State.MESSAGES
        return MessageReceived(b"".join(assembly.parts), assembly.compressed, assembly.cost)

    def _forgive(self, assembly: _Assembly) -> None:
        self._ungranted += assembly.cost
        assembly.cost = 0

    def consumed(self, cost: int) -> None:
        """The application has taken a message: the peer may send as much again."""
        self._unread -= 1
        self._ungranted += cost
        if not self._unread and self._assembly is not None:
            self._forgive(self._assembly)
        if self._ungranted * 2 >= self._window:
            self._give_back()

    def _give_back(self) -> None:
        if self._ungranted * 2 >= self._window and self.state not in (State.CLOSED, State.HALF_CLOSED):
            self._outgoing.grant(self._ungranted)
            self._credit += self._ungranted
            self._ungranted = 0
