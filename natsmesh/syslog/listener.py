"""Listens for syslog over UDP (RFC 5426) and TCP (RFC 6587), and hands on log records.

A sender over TCP waits while the broker takes no more; over UDP there is no waiting: what finds no room is dropped, and
counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

from natsmesh.syslog.framing import Framer
from natsmesh.syslog.message import parse
from rpc.logs.shipper import Backlog, Shipper

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 1000

_CHUNK: Final = 64 * 1024
_UDP_BUFFER: Final = 4 * 1024 * 1024
"""Bytes that the kernel is asked to keep while we are busy."""


class Listener:
    """One address, UDP and TCP."""

    def __init__(self, backlog: Backlog, shipper: Shipper, max_connections: int = MAX_CONNECTIONS) -> None:
        self._backlog = backlog
        self._shipper = shipper
        self._max_connections = max_connections
        self._connections: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self.port = 0
        """Where it listens."""

    async def start(self, host: str, port: int) -> None:
        """Listen; 0 takes a free port. Raises ``OSError``."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Datagrams(self._offer), local_addr=(host, self.port)
            )
        except OSError:
            self._server.close()
            raise
        udp: socket.socket | None = self._transport.get_extra_info("socket")
        if udp is not None:
            with contextlib.suppress(OSError):
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER)

    async def close(self) -> None:
        """Stop listening, and close all connections."""
        if self._server is not None:
            self._server.close()
        if self._transport is not None:
            self._transport.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=1.0)

    def _offer(self, data: bytes, peer: str) -> None:
        self._backlog.put(parse(data, dt.datetime.now(dt.UTC), peer))
        self._shipper.notify()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the server runs us as a task
        peer = writer.get_extra_info("peername")
        if len(self._connections) >= self._max_connections:
            logger.warning("%s was turned away: %d others are connected", peer, len(self._connections))
            writer.close()
            return
        self._connections.add(task)
        framer = Framer()
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(_CHUNK):
                    for message in framer.feed(data):
                        await self._put(message, peer[0])
            for message in framer.close():
                await self._put(message, peer[0])
        except asyncio.CancelledError:
            pass  # we are closing
        finally:
            self._connections.discard(task)
            writer.close()

    async def _put(self, message: bytes, peer: str) -> None:
        await self._shipper.put(parse(message, dt.datetime.now(dt.UTC), peer))


class _Datagrams(asyncio.DatagramProtocol):
    """One message a datagram."""

    def __init__(self, receive: Callable[[bytes, str], None]) -> None:
        self._receive = receive

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if data.strip(b"\0\r\n"):
            self._receive(data, addr[0])
