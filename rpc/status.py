"""gRPC status: codes, and the one exception that carries them through the library.

``StatusError`` is what handlers, interceptors and transports raise; only the edges translate it: ``Channel`` into
``grpc.aio.AioRpcError``, the server into a reply, the gateway into an HTTP answer.
"""

from __future__ import annotations

from grpc import StatusCode

__all__ = ["Refusal", "StatusCode", "StatusError", "code_from_number", "code_number"]

_CODES: dict[int, StatusCode] = {code.value[0]: code for code in StatusCode}


def code_number(code: StatusCode) -> int:
    """Return the number of a code on the wire, 0 to 16."""
    number: int = code.value[0]
    return number


def code_from_number(number: int) -> StatusCode:
    """Return the code of a number; numbers that gRPC does not define are UNKNOWN, as its specification says."""
    return _CODES.get(number, StatusCode.UNKNOWN)


class StatusError(Exception):
    """A call ended with a status that is not OK.

    Trailing metadata and rich details travel on the ``Call`` (``call.trailing_metadata``), as they do in gRPC.
    """

    def __init__(self, code: StatusCode, details: str = "") -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


class Refusal(StatusError):  # noqa: N818 - the status of a call, said in one word
    """The call was refused before any handler saw it, so it may be sent again without risk.

    ``reason`` is one of ``no-responders``, ``queue-full``, ``draining``, ``not-connected``.
    """

    def __init__(self, details: str, reason: str) -> None:
        super().__init__(StatusCode.UNAVAILABLE, details)
        self.reason = reason
