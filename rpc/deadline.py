"""Deadlines: relative on the wire (``grpc-timeout``), absolute on the event loop's clock inside a process."""

from __future__ import annotations

import re
from contextvars import ContextVar

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
# At most eight ASCII digits (gRPC over HTTP/2, "Timeout"); Python's int() would take "_" and foreign digits too.
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])\Z")

current_deadline: ContextVar[float | None] = ContextVar("natsmesh_deadline", default=None)
"""The deadline of the call that the running handler serves; calls made inside it end by then at the latest."""


EXCEEDED = "Deadline Exceeded"
"""The details of DEADLINE_EXCEEDED; the text is grpc.aio's."""


def format_timeout(seconds: float) -> str:
    """Return a ``grpc-timeout`` value for a duration, at least 0, in the finest unit that eight digits hold."""
    microseconds = int(min(max(seconds, 0.0), 99_999_999.0) * 1e6)
    if microseconds <= 0:
        return "0u"
    if microseconds < 100_000_000:
        return f"{microseconds}u"
    milliseconds = microseconds // 1000
    if milliseconds < 100_000_000:
        return f"{milliseconds}m"
    return f"{milliseconds // 1000}S"


def parse_timeout(value: str) -> float:
    """Return the seconds of a ``grpc-timeout`` value. Raises ``ValueError`` when it is not one."""
    match = _TIMEOUT.match(value)
    if match is None:
        msg = f"malformed grpc-timeout: {value[:32]!r}"
        raise ValueError(msg)
    return int(match[1]) * _UNITS[match[2]]


def earliest(first: float | None, second: float | None) -> float | None:
    """Return the earlier of two deadlines, where None means never."""
    if first is None:
        return second
    if second is None or first < second:
        return first
    return second
