"""The three things that must behave alike: grpc.aio itself, and natsmesh on its two transports."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest
from grpc import aio

import rpc
from rpc.testing import MemoryMesh
from tests.protos import probe_pb2_grpc

TIMEOUT = 10.0
"""Seconds that a call of a test may take at most: a hang is a failure, not a wait."""

Method = Callable[..., Any] | None


class Mesh(ABC):
    """Makes servers, and channels that reach them."""

    shows_exceptions = False
    """Whether callers see the text of an exception that a handler did not mean for them; natsmesh hides it."""

    tells_writers_why = True
    """Whether a call that the server ends while the client writes ends with the server's status; in grpc.aio it often
    ends with INTERNAL instead."""

    def __init__(self) -> None:
        self._servers: list[aio.Server] = []
        self._channels: list[aio.Channel] = []

    @abstractmethod
    def _make_server(self, **options: Any) -> aio.Server: ...

    @abstractmethod
    def _make_channel(self, **options: Any) -> aio.Channel: ...

    def server(self, **options: Any) -> aio.Server:
        """A server with nothing in it, not started; stopped when the test ends."""
        server = self._make_server(**options)
        self._servers.append(server)
        return server

    def channel(
        self,
        interceptors: Sequence[aio.ClientInterceptor] | None = None,
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
    ) -> aio.Channel:
        """A channel to the test's server, which may not be there yet; closed when the test ends."""
        channel = self._make_channel(interceptors=interceptors, options=options, compression=compression)
        self._channels.append(channel)
        return channel

    async def start(self, ask: Method = None, other: Method = None, **options: Any) -> aio.Server:
        """Starts a server of Probe with these methods; those with streams are named `tell`, `gather` and `talk`."""
        streaming = {name.capitalize(): options.pop(name, None) for name in ("tell", "gather", "talk")}
        server = self.server(**options)
        servicer = probe_pb2_grpc.ProbeServicer()
        for name, method in {"Ask": ask, "Other": other, **streaming}.items():
            if method is not None:
                setattr(servicer, name, method)
        probe_pb2_grpc.add_ProbeServicer_to_server(servicer, server)
        await server.start()
        return server

    async def serve(self, ask: Method = None, **options: Any) -> probe_pb2_grpc.ProbeStub:
        """Starts a server of Probe with these methods, and makes a stub for it."""
        await self.start(ask, **options)
        return self.stub()

    def stub(self, interceptors: Sequence[aio.ClientInterceptor] | None = None) -> probe_pb2_grpc.ProbeStub:
        return probe_pb2_grpc.ProbeStub(self.channel(interceptors))

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        for server in self._servers:
            await server.stop(None)


class GrpcMesh(Mesh):
    """grpc.aio: a TCP port."""

    shows_exceptions = True
    tells_writers_why = False

    def __init__(self) -> None:
        super().__init__()
        # Bound, but not listening: the port stays ours, and refuses connections until a server listens there.
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reservation.bind(("127.0.0.1", 0))
        self._address = f"127.0.0.1:{self._reservation.getsockname()[1]}"

    def _make_server(self, **options: Any) -> aio.Server:
        server = aio.server(**options)
        server.add_insecure_port(self._address)
        return server

    def _make_channel(self, *, options: Sequence[tuple[str, Any]], **others: Any) -> aio.Channel:
        # Reconnect at once: tests start servers late. Own connections: grpc shares them between channels otherwise.
        ours = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.use_local_subchannel_pool", 1)]
        return aio.insecure_channel(self._address, options=[*ours, *options], **others)

    async def close(self) -> None:
        await super().close()
        self._reservation.close()


class MemoryTransport(Mesh):
    """natsmesh without a broker."""

    def __init__(self) -> None:
        super().__init__()
        self._mesh = MemoryMesh()

    def _make_server(self, **options: Any) -> aio.Server:
        return rpc.Server(self._mesh.connection(), **options)

    def _make_channel(self, **options: Any) -> aio.Channel:
        return rpc.Channel(self._mesh.connection(), **options)


class NatsTransport(Mesh):
    """natsmesh on a real broker."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def _make_server(self, **options: Any) -> aio.Server:
        return rpc.Server(self._url, **options)

    def _make_channel(self, **options: Any) -> aio.Channel:
        return rpc.Channel(self._url, **options)


async def failure(call: Any) -> aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    """Code and details of the error that a call ends with."""
    error = await failure(call)
    return error.code(), error.details()


def pairs(metadata: Any) -> list[tuple[str, str | bytes]]:
    """Metadata as plain pairs, without the ones that every transport adds for itself."""
    return [(key, value) for key, value in metadata if key != "user-agent"]
