"""Deadlines: relative on the wire (``grpc-timeout``), absolute on the event loop's clock inside a process."""

from __future__ import annotations

from contextvars import ContextVar

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MAX_DIGITS = 8
"""Source: gRPC over HTTP/2, "Timeout"."""

current_deadline: ContextVar[float | None] = ContextVar("natsmesh_deadline", default=None)
"""The deadline of the call that the running handler serves; calls made inside it end by then at the latest."""


EXCEEDED = "Deadline Exceeded"
"""The details of DEADLINE_EXCEEDED; the text is grpc.aio's."""


def format_timeout(seconds: float) -> str:
    """Return a ``grpc-timeout`` value for a duration, at least 0, in the finest unit that eight digits hold."""
    if 1e-6 <= seconds < 100.0:
        return f"{int(seconds * 1e6)}u"
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
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    # Python's int() would take "_", signs and foreign digits too.
    if unit is None or not (digits.isdigit() and digits.isascii()) or len(digits) > _MAX_DIGITS:
        msg = f"malformed grpc-timeout: {value[:32]!r}"
        raise ValueError(msg)
    return int(digits) * unit


def earliest(first: float | None, second: float | None) -> float | None:
    """Return the earlier of two deadlines, where None means never."""
    if first is None:
        return second
    if second is None or first < second:
        return first
    return second
