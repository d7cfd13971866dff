"""One system call for what is written to a connection within one turn of the event loop.

uvicorn writes the head and the body of a response one after the other, and uvloop sends each at once: two system
calls, two packets, and two wake-ups of the client, where one will do.
"""

from __future__ import annotations

import asyncio
from typing import Any

AT_ONCE = 64 * 1024
"""Bytes that are gathered at most: more are sent at once, so that flow control hears of them."""


class CorkedTransport:
    """A transport that sends a turn later; all but writing and closing is the transport's own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        """``patience``: seconds that a client has to take what is left when the connection is closed."""
        self._patience = patience
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._transport, name)
        setattr(self, name, attribute)  # Looked up once a connection, not once a use.
        return attribute

    def write(self, data: bytes) -> None:
        """Send it, with what else is written in this turn."""
        if not data:
            return
        parts = self._parts
        if not parts:
            self._loop.call_soon(self._send)
        parts.append(data)
        self._size += len(data)
        if self._size > AT_ONCE:
            self._send()

    def _send(self) -> None:
        parts = self._parts
        if parts:
            self._parts, self._size = [], 0
            if self._transport.is_closing():
                return  # The client has gone since.
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        """Send what was written, and close."""
        self._send()
        transport = self._transport
        closing = transport.is_closing()
        transport.close()
        if not closing and transport.get_write_buffer_size():
            # A transport that is closed waits without end for its client to take the rest.
            self._loop.call_later(self._patience, transport.abort)

    def abort(self) -> None:
        """Close at once; what was written in this turn is not sent."""
        self._parts, self._size = [], 0
        self._transport.abort()
