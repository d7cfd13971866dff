"""What packets of a peer come down to, for those who carry a call."""

from __future__ import annotations

from dataclasses import dataclass

from rpc.metadata import Metadata
from rpc.status import StatusCode


@dataclass(frozen=True, slots=True)
class HeadersReceived:
    """Initial metadata came."""

    metadata: Metadata


@dataclass(slots=True)  # not frozen: one is made for each message, and that would treble what it costs
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
    """The peer can take more. One event for all the credit of a packet."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer ended the call. ``cancelled`` tells a CANCEL from a STATUS."""

    code: StatusCode
    details: str
    trailing_metadata: Metadata
    cancelled: bool


Event = HeadersReceived | MessageReceived | HalfClosed | Credited | Ended
