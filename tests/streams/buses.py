"""Servers and channels on both transports, with methods of bytes, and what they still hold."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

import rpc
from rpc.testing import MemoryMesh
from rpc.transport.base import Connection

SERVICE = "streams.v1.Streams"
KINDS = ("unary", "collect", "spread", "talk")
"""One method of each kind: one each way, a stream of requests, a stream of responses, both."""
LIMIT = 1.0
"""Seconds of silence after which a peer counts as dead, in most tests."""
NOTICED = LIMIT + 2.0
"""Seconds within which it must have been noticed: calls are looked at twice a second, and this machine may be busy."""

Behavior = Callable[..., Any]


def options(
    *, limit: float = LIMIT, max_receive: int | None = None, window: int | None = None
) -> list[tuple[str, Any]]:
    chosen: list[tuple[str, Any]] = [("grpc.keepalive_timeout_ms", int(limit * 1000))]
    if max_receive is not None:
        chosen.append(("grpc.max_receive_message_length", max_receive))
    if window is not None:
        chosen.append(("natsmesh.window", window))
    return chosen


def handlers(**behaviors: Behavior) -> grpc.GenericRpcHandler:
    """The service with these methods."""
    make = {
        "unary": grpc.unary_unary_rpc_method_handler,
        "collect": grpc.stream_unary_rpc_method_handler,
        "spread": grpc.unary_stream_rpc_method_handler,
        "talk": grpc.stream_stream_rpc_method_handler,
    }
    return grpc.method_handlers_generic_handler(
        SERVICE, {kind: make[kind](behavior) for kind, behavior in behaviors.items()}
    )


def method(channel: aio.Channel, kind: str) -> Any:
    """The callable of a method; requests and responses are bytes."""
    make: dict[str, Any] = {
        "unary": channel.unary_unary,
        "collect": channel.stream_unary,
        "spread": channel.unary_stream,
        "talk": channel.stream_stream,
    }
    return make[kind](f"/{SERVICE}/{kind}")


class Bus(ABC):
    """Makes servers and channels that reach each other; what it made ends with the test."""

    def __init__(self) -> None:
        self.servers: list[rpc.Server] = []
        self.channels: list[rpc.Channel] = []

    @abstractmethod
    def connection(self) -> Connection:
        """A connection of its own."""

    async def serve(self, *, settings: list[tuple[str, Any]] | None = None, **behaviors: Behavior) -> rpc.Server:
        """Starts a server with these methods."""
        server = rpc.Server(self.connection(), options=settings or options(), maximum_concurrent_rpcs=5000)
        server.add_generic_rpc_handlers([handlers(**behaviors)])
        await server.start()
        self.servers.append(server)
        return server

    def channel(self, settings: list[tuple[str, Any]] | None = None, **arguments: Any) -> rpc.Channel:
        channel = rpc.Channel(self.connection(), options=settings or options(), **arguments)
        self.channels.append(channel)
        return channel

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()
        for server in self.servers:
            await server.stop(None)


class MemoryBus(Bus):
    """In this process."""

    def __init__(self) -> None:
        super().__init__()
        self.mesh = MemoryMesh()

    def connection(self) -> Connection:
        return self.mesh.connection()


class NatsBus(Bus):
    """On a real broker."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._connections: list[Connection] = []

    def connection(self) -> Connection:
        from rpc.transport.nats import NatsConnection

        connection = NatsConnection(self._url)
        self._connections.append(connection)
        return connection

    async def close(self) -> None:
        await super().close()
        for connection in self._connections:
            await connection.close()


def leftovers(*ends: rpc.Server | rpc.Channel) -> list[str]:
    """What these still hold of calls that should be over."""
    found: list[str] = []
    for end in ends:
        transport: Any = end._transport
        if transport is None:
            continue
        names = ("_held", "_calls") if isinstance(end, rpc.Server) else ("_pending",)
        found += [
            f"{type(end).__name__}.{name}: {len(getattr(transport, name))}"
            for name in names
            if getattr(transport, name)
        ]
    return found


async def released(*ends: rpc.Server | rpc.Channel, seconds: float = 5.0) -> None:
    """Waits until these hold no calls any more."""
    limit = time.monotonic() + seconds
    while found := leftovers(*ends):
        assert time.monotonic() < limit, f"not released after {seconds} s: {found}"
        await asyncio.sleep(0.002)


async def outcome(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call ended."""
    return await call.code(), await call.details()


async def within(seconds: float, awaitable: Awaitable[Any]) -> Any:
    """Awaits something; a hang is a failure that says so."""
    async with asyncio.timeout(seconds):
        return await awaitable
