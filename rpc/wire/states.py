"""What a peer may send, and when: the table that both ends of a call go by. docs/wire-protocol.md draws it."""

from __future__ import annotations

import enum

from rpc.wire.frames import FrameType


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
    """The call is over; what still arrives was sent before the peer knew, and counts for nothing."""


START = {Role.CLIENT: State.HEADERS, Role.SERVER: State.MESSAGES}

_F, _S = FrameType, State

TRANSITIONS: dict[Role, dict[State, dict[int, State]]] = {
    Role.CLIENT: {
        _S.HEADERS: {
            _F.HEADERS: _S.MESSAGES,
            _F.MESSAGE: _S.MESSAGES,
            _F.GZIP_MESSAGE: _S.MESSAGES,
            _F.PART: _S.ASSEMBLING,
            _F.CREDIT: _S.HEADERS,
            _F.STATUS: _S.CLOSED,
            _F.CANCEL: _S.CLOSED,
        },
        _S.MESSAGES: {
            _F.MESSAGE: _S.MESSAGES,
            _F.GZIP_MESSAGE: _S.MESSAGES,
            _F.PART: _S.ASSEMBLING,
            _F.CREDIT: _S.MESSAGES,
            _F.STATUS: _S.CLOSED,
            _F.CANCEL: _S.CLOSED,
        },
        _S.ASSEMBLING: {
            _F.MORE: _S.ASSEMBLING,  # MESSAGES with the last one
            _F.CREDIT: _S.ASSEMBLING,
            _F.STATUS: _S.CLOSED,  # a handler may fail in the middle of a message; OK is refused here
            _F.CANCEL: _S.CLOSED,
        },
        _S.CLOSED: {},
    },
    Role.SERVER: {
        _S.MESSAGES: {
            _F.MESSAGE: _S.MESSAGES,
            _F.GZIP_MESSAGE: _S.MESSAGES,
            _F.PART: _S.ASSEMBLING,
            _F.CREDIT: _S.MESSAGES,
            _F.HALF_CLOSE: _S.HALF_CLOSED,
            _F.CANCEL: _S.CLOSED,
        },
        _S.ASSEMBLING: {
            _F.MORE: _S.ASSEMBLING,  # MESSAGES with the last one
            _F.CREDIT: _S.ASSEMBLING,
            _F.CANCEL: _S.CLOSED,
        },
        _S.HALF_CLOSED: {
            _F.CREDIT: _S.HALF_CLOSED,
            _F.CANCEL: _S.CLOSED,
        },
        _S.CLOSED: {},
    },
}
"""For what each role receives: state -> frame that came -> next state. Whatever is not here is a ``ProtocolError``."""
