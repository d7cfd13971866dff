"""Compression for ``connectrpc``: of the messages in envelopes, by the ways that all front-ends share.

What ``connectrpc`` brings itself compresses the smallest messages too, and its zstd takes truncated data for whole and
lets a client make it set aside 128 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable

from connectrpc.code import Code
from connectrpc.compression import Compression
from connectrpc.errors import ConnectError

from gateway.compression import CODINGS, Coding, MalformedError, TooLargeError
from gateway.connect_exchange import current

_ACCEPT_MESSAGES = (b"connect-accept-encoding", b"grpc-accept-encoding")


class MessageCompression(Compression):
    """One way to compress the messages of streams."""

    def __init__(self, coding: Coding, minimum: int) -> None:
        self._coding = coding
        self._minimum = minimum

    def name(self) -> str:
        """Return what headers call it."""
        return self._coding.name

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return a response message compressed, if it is large enough."""
        message = bytes(data)
        if len(message) < self._minimum:
            current.get().leave_message()
            return message
        return self._coding.compress(message)

    def decompress(self, data: bytes | bytearray | memoryview, read_max_bytes: int | None = None) -> bytes:
        """Return a request message. Raises ``ConnectError``."""
        assert read_max_bytes is not None  # noqa: S101 - there always is a limit here
        if not data:
            return b""
        try:
            return self._coding.decompress(bytes(data), read_max_bytes)
        except TooLargeError:
            raise ConnectError(
                Code.RESOURCE_EXHAUSTED, f"the message is larger than {read_max_bytes} bytes, decompressed"
            ) from None
        except MalformedError as error:
            raise ConnectError(
                Code.INVALID_ARGUMENT, f"the message is not {self._coding.name}, as it is said to be: {error}"
            ) from None


def compressions(minimum: int | None) -> list[Compression]:
    """Return what ``connectrpc`` is to offer; messages of less than ``minimum`` bytes are sent as they are."""
    return [MessageCompression(coding, minimum or 0) for coding in CODINGS]


def readable_headers(headers: Iterable[tuple[bytes, bytes]], *, compress: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers that ``connectrpc`` gets: it decodes all as UTF-8, and would compress unary responses itself.

    With ``compress`` False, it hears of no client that likes compressed messages.
    """
    hidden = (b"accept-encoding",) if compress else (b"accept-encoding", *_ACCEPT_MESSAGES)
    return [pair for pair in headers if pair[1].isascii() and pair[0] not in hidden]
