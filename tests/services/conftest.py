"""Serves the reference services on the real grpc.aio: they are plain gRPC servicers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

MEGABYTE = 1 << 20


@pytest.fixture
async def channel(request: pytest.FixtureRequest) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of the services that the test's parameter or its module's SERVICES lists."""
    services: list[tuple[Callable[[Any, grpc.aio.Server], None], Callable[[], Any]]]
    services = getattr(request, "param", request.module.SERVICES)
    options = [("grpc.max_receive_message_length", 32 * MEGABYTE)]
    threads = ThreadPoolExecutor(4)
    server = grpc.aio.server(migration_thread_pool=threads, options=options)
    for add, service in services:
        add(service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel
    await server.stop(None)
    # A sync handler that aborts waits for the event loop: it must run to the end.
    await asyncio.to_thread(threads.shutdown)
