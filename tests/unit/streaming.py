"""What the unit tests of calls with streams share."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

import rpc
from rpc.testing import MemoryMesh
from tests.protos.probe_pb2 import Answer
from tests.protos.probe_pb2_grpc import ProbeServicer, ProbeStub, add_ProbeServicer_to_server

TIMEOUT = 10.0

Serve = Callable[..., Any]


@asynccontextmanager
async def serving(mesh: MemoryMesh) -> AsyncIterator[Serve]:
    """Gives a function that starts a server of Probe with the methods it is given, and makes a stub for it."""
    servers, channels = [], []

    async def start(channel: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **methods: Any) -> Any:
        servicer = ProbeServicer()
        for name, method in methods.items():
            setattr(servicer, name, method)
        servers.append(rpc.Server(mesh.connection(), **(server or {})))
        add_ProbeServicer_to_server(servicer, servers[-1])
        await servers[-1].start()
        channels.append(rpc.Channel(mesh.connection(), **(channel or {})))
        return ProbeStub(channels[-1])

    yield start
    for one in channels:
        await one.close()
    for other in servers:
        await other.stop(None)


async def failure(awaitable: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


class Endless:
    """A stream of responses without end."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def __call__(self, request: Any, context: Any) -> AsyncIterator[Answer]:
        try:
            number = 0
            while True:
                yield Answer(number=number)
                number += 1
        finally:
            self.ended.set()
