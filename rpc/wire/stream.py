"""The state machine of one call that is carried by packets: sans-IO, the same for both ends.

Bytes of packets go in, events come out (``receiving``); messages go in, packets come out (``sending``). The peer's
mistake raises ``ProtocolError``, one of our own ``LocalProtocolError``.
"""

from __future__ import annotations

from rpc.metadata import Metadata
from rpc.status import StatusCode
from rpc.wire import frames
from rpc.wire.envelope import ProtocolError
from rpc.wire.events import Credited, Ended, Event, HalfClosed, HeadersReceived, MessageReceived
from rpc.wire.frames import INITIAL_WINDOW, MAX_CREDIT, MAX_SEQUENCE, FrameType
from rpc.wire.receiving import Incoming, MessageTooLargeError
from rpc.wire.sending import MIN_PACKET, LocalProtocolError, Outgoing
from rpc.wire.states import Role, State

__all__ = [
    "INITIAL_WINDOW",
    "MIN_PACKET",
    "Credited",
    "Ended",
    "Event",
    "HalfClosed",
    "HeadersReceived",
    "LocalProtocolError",
    "MessageReceived",
    "MessageTooLargeError",
    "ProtocolError",
    "Role",
    "State",
    "StreamMachine",
]


class StreamMachine:
    """One call, seen from one end."""

    __slots__ = ("_incoming", "_outgoing", "_role")

    def __init__(self, role: Role, *, max_message: int, window: int = INITIAL_WINDOW) -> None:
        """``window``: bytes that this end takes in before the application reads, at least ``INITIAL_WINDOW``.

        ``max_message``: bytes that one message from the peer may have.
        """
        if not INITIAL_WINDOW <= window <= MAX_CREDIT:
            raise LocalProtocolError(f"a window must have {INITIAL_WINDOW} to {MAX_CREDIT} bytes (got {window})")
        self._role = role
        self._outgoing = Outgoing()
        self._incoming = Incoming(role, self._outgoing, max_message=max_message, window=window)
        if window > INITIAL_WINDOW:
            self._outgoing.grant(window - INITIAL_WINDOW)

    @property
    def state(self) -> State:
        """What the peer may send next."""
        return self._incoming.state

    # --------------------------------------------------------------------------------------------------- receiving

    def receive(self, data: bytes) -> list[Event]:
        """Take one packet in. Raises ``ProtocolError``: the call cannot go on then, ``cancel`` it."""
        return self._incoming.receive(data)

    def consumed(self, cost: int) -> None:
        """The application has taken a message (``MessageReceived.cost``): the peer may send as much again."""
        self._incoming.consumed(cost)

    def check_received(self, sent: int) -> None:
        """The peer says how many packets it has sent (32 bits of the number), and all of them should be here.

        Raises ``ProtocolError`` when some are not: the last ones of a call are missed by no other packet.
        """
        missing = (sent - self._incoming.sequence) & MAX_SEQUENCE
        if 0 < missing <= MAX_SEQUENCE // 2 and self.state is not State.CLOSED:
            raise ProtocolError(f"{missing} packets were lost")

    # ----------------------------------------------------------------------------------------------------- sending

    def send_headers(self, metadata: Metadata) -> None:
        """Server: send initial metadata, before any message."""
        self._check_role(Role.SERVER)
        self._outgoing.headers(frames.frame(FrameType.HEADERS, frames.encode_metadata(metadata)))

    def send_message(self, data: bytes, *, compressed: bool = False) -> None:
        """Send a message, as soon as the peer has credit for it."""
        self._outgoing.message(data, compressed)

    def half_close(self) -> None:
        """Client: send no more messages, after those that wait for credit."""
        self._check_role(Role.CLIENT)
        self._outgoing.half_close()

    def end(self, code: StatusCode, details: str = "", trailing: Metadata = (), *, discard: bool = False) -> None:
        """Server: end the call, once the messages that wait for credit are out; ``discard`` drops them instead.

        Status OK must not discard: the peer would miss messages and not know.
        """
        self._check_role(Role.SERVER)
        if discard:
            if code is StatusCode.OK:
                raise LocalProtocolError("a call that drops messages cannot end with OK")
            self._outgoing.drop_messages()
        self._outgoing.end(frames.frame(FrameType.STATUS, frames.encode_status(code, details, trailing)))

    def cancel(self, code: StatusCode, details: str) -> None:
        """End the call from this side at once, with a status that is not OK; does nothing when it is over."""
        if code is StatusCode.OK:
            raise LocalProtocolError("a call cannot be cancelled with OK")
        self._incoming.state = State.CLOSED
        if not self._outgoing.is_over:
            self._outgoing.cut_short(frames.frame(FrameType.CANCEL, frames.encode_status(code, details)))

    def abandon(self) -> None:
        """End the call without a word: the peer cannot be reached, or knows."""
        self._incoming.state = State.CLOSED
        self._outgoing.abandon()

    def _check_role(self, role: Role) -> None:
        if role is not self._role:
            raise LocalProtocolError(f"only a {role.value} sends this")

    def next_packet(self, max_size: int, *, even_empty: bool = False) -> bytes | None:
        """Return the next packet of at most ``max_size`` bytes, or None when nothing can be sent now.

        ``even_empty`` makes a packet without frames then: what opens a call.
        """
        packet = self._outgoing.next_packet(max_size, even_empty=even_empty)
        if self._outgoing.is_over:
            self._incoming.state = State.CLOSED
        return packet

    @property
    def packets_made(self) -> int:
        """How many packets ``next_packet`` returned, as far as 32 bits go."""
        return self._outgoing.sequence

    @property
    def queued(self) -> int:
        """Bytes of messages that are not in a packet yet, with what they cost besides."""
        return self._outgoing.queued

    @property
    def has_credit_to_give(self) -> bool:
        """True when a packet should be made though there is no message to send."""
        return self._outgoing.has_grant

    @property
    def has_something(self) -> bool:
        """True when there is anything to send, if there is credit for it."""
        return self._outgoing.has_something

    @property
    def is_drained(self) -> bool:
        """True when every message is in a packet."""
        return self._outgoing.is_drained

    @property
    def is_finished(self) -> bool:
        """True when this end has nothing more to say."""
        return self._outgoing.is_finished
