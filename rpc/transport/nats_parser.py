"""nats-py's protocol parser, with a short way for what nearly all of its input is: messages that have come whole (ADR
0007). Everything else, from a message in pieces to a server's error, goes through nats-py's own code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from nats.protocol.parser import AWAITING_MSG_PAYLOAD, CRLF_SIZE, Parser

if TYPE_CHECKING:
    from nats.aio.client import Client

Deliver = Callable[[int, bytes, bytes, bytes, bytes], bool]
"""Takes sid, subject, reply subject, payload, headers; False: it is for nats-py, nothing was done."""

_MAX_DIGITS = 10
"""Of a size; the server sends none that is longer."""

_MSG = b"MSG "
_HMSG = b"HMSG "


class DirectParser(Parser):
    """Hands whole messages to ``deliver``, without a coroutine, a regular expression or a copy of what follows them."""

    def __init__(self, client: Client, deliver: Deliver) -> None:
        super().__init__(client)
        self._deliver = deliver
        self._is_busy = False

    @property
    def is_idle(self) -> bool:
        """True between two commands of the server, when nothing of a third one has come."""
        return not (self._is_busy or self.buf or self.state == AWAITING_MSG_PAYLOAD)

    async def parse(self, data: bytes = b"") -> None:
        """Take in what was read from the server. Raises ``nats.errors.ProtocolError``."""
        self._is_busy = True
        try:
            if self.state == AWAITING_MSG_PAYLOAD:
                missing = self.needed + CRLF_SIZE - len(self.buf)
                await super().parse(data[:missing])
                data = data[missing:]
            elif self.buf:  # the beginning of a line
                data = bytes(self.buf) + data
                self.buf.clear()
            done = self.deliver_whole(data)
            if done < len(data):
                await super().parse(data[done:] if done else data)
        finally:
            self._is_busy = False

    def deliver_whole(self, data: bytes) -> int:
        """Deliver the messages that ``data`` begins with; return how many of its bytes that were."""
        deliver, done = self._deliver, 0
        while True:
            has_headers = data.startswith(_HMSG, done)
            if not has_headers and not data.startswith(_MSG, done):
                return done
            line_end = data.find(b"\r\n", done)
            if line_end < 0:
                return done
            # MSG subject sid [reply] size, or HMSG subject sid [reply] header-size size
            words = data[done:line_end].split()
            count = len(words) - has_headers
            if not 4 <= count <= 5:
                return done
            sid, size, header_size = words[2], words[-1], words[-2] if has_headers else b"0"
            if not (sid.isdigit() and size.isdigit() and header_size.isdigit()) or len(size) > _MAX_DIGITS:
                return done
            start = line_end + CRLF_SIZE
            body, end = start + int(header_size), start + int(size)
            if body > end or len(data) < end + CRLF_SIZE:
                return done
            reply = words[3] if count == 5 else b""
            if not deliver(int(sid), words[1], reply, data[body:end], data[start:body]):
                return done
            done = end + CRLF_SIZE


class DirectProtocol(asyncio.Protocol):
    """Stands before the stream that nats-py reads from, and takes out the messages that have come whole.

    What is left, and whatever comes before that has been parsed, goes on into the stream. So most messages reach their
    receivers without a buffer, a future and a task that wakes up for them.
    """

    def __init__(self, stream: asyncio.Protocol, reader: asyncio.StreamReader, parser: DirectParser) -> None:
        self._stream = stream
        self._reader = reader
        self._parser = parser

    def data_received(self, data: bytes) -> None:
        """Take what the server has sent."""
        if self._parser.is_idle and not self._reader._buffer:  # type: ignore[attr-defined]  # noqa: SLF001 - it tells it nowhere else
            done = self._parser.deliver_whole(data)
            if done == len(data):
                return
            data = data[done:]
        self._stream.data_received(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The stream has had its own."""

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the stream."""
        self._stream.connection_lost(error)

    def eof_received(self) -> bool | None:
        """Tell the stream."""
        return self._stream.eof_received()

    def pause_writing(self) -> None:
        """Tell the stream."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """Tell the stream."""
        self._stream.resume_writing()
