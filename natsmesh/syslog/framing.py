"""Where one syslog message ends and the next one begins in a stream of bytes. Sans-IO.

Source: RFC 6587 (syslog over TCP). Both of its framings are understood, from message to message: octet counting
(``34 <165>1 ...``), and messages that end with a line feed or a zero byte, as most programs send them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of a message; of a longer one, the rest is passed over."""

_COUNT = re.compile(rb"([1-9]\d{0,6}) <")
_MAYBE_COUNT = re.compile(rb"[1-9]\d{0,6}( |\Z)")
_TRAILER = re.compile(rb"[\n\0]")


class Framer:
    """Bytes in, messages out. Holds at most ``MAX_MESSAGE`` bytes, and what it was given last."""

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0
        """What is before it in the buffer was dealt with."""
        self._skip = 0
        """Bytes of a counted message that are passed over."""
        self._skip_line = False
        """Whether all up to the next trailer is passed over."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes of the stream, and yield the messages that end in them."""
        self._buffer, self._at = self._buffer[self._at :] + data, 0
        while (before := self._at) < len(self._buffer):
            if message := self._next():
                yield message
            elif self._at == before:
                return

    def close(self) -> Iterator[bytes]:
        """Take the end of the stream: what is left is a message."""
        rest, self._buffer = self._buffer[self._at :], b""
        if rest and not self._skip and not self._skip_line:
            counted = _COUNT.match(rest)
            rest = rest if counted is None else rest[counted.end() - 1 :]
            if rest.strip(b"\r\n\0"):
                yield rest

    def _next(self) -> bytes | None:
        """Take something from the buffer: a message, or what is passed over (None, or empty)."""
        if self._skip:
            skipped = min(self._skip, len(self._buffer) - self._at)
            self._at, self._skip = self._at + skipped, self._skip - skipped
            return None
        if self._skip_line:
            self._end_line()
            return None
        counted = _COUNT.match(self._buffer, self._at)
        if counted is None:
            return None if self._may_be_count() else self._line()
        start, length = counted.end() - 1, int(counted[1])
        end = start + min(length, MAX_MESSAGE)
        if len(self._buffer) < end:
            return None
        self._at, self._skip = end, start + length - end
        return self._buffer[start:end]

    def _line(self) -> bytes | None:
        start = self._at
        trailer = _TRAILER.search(self._buffer, start, start + MAX_MESSAGE + 1)
        if trailer is not None:
            self._at = trailer.end()
            return self._buffer[start : trailer.start()].rstrip(b"\r")
        if len(self._buffer) - start <= MAX_MESSAGE:
            return None
        self._at, self._skip_line = start + MAX_MESSAGE, True
        return self._buffer[start : self._at]

    def _end_line(self) -> None:
        trailer = _TRAILER.search(self._buffer, self._at)
        self._at = len(self._buffer) if trailer is None else trailer.end()
        self._skip_line = trailer is None

    def _may_be_count(self) -> bool:
        """Whether a few bytes more will tell if a counted message begins here."""
        match = _MAYBE_COUNT.match(self._buffer, self._at)
        return match is not None and match.end() == len(self._buffer)
