"""A cluster of three nats-servers on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from rpc.embedded import Broker

SIZE = 3


def _free_ports(count: int) -> list[int]:
    """Ports for the routes: each server has to know them before the others are up."""
    with contextlib.ExitStack() as sockets:
        taken = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in taken]


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[list[Broker]]:
    """Three servers that know each other; JetStream may not have a leader yet."""
    ports = _free_ports(SIZE)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    brokers = [
        Broker(
            port=0,
            store_dir=folder / str(port),
            config=f'cluster {{ name: test, listen: "127.0.0.1:{port}", routes: [{routes}] }}',
        )
        for port in ports
    ]
    async with contextlib.AsyncExitStack() as running:
        for broker in brokers:
            await running.enter_async_context(broker)
        yield brokers


async def kill(brokers: list[Broker], server: str) -> Broker:
    """Kill a server by the name that JetStream gives it, and return it."""
    (broker,) = (broker for broker in brokers if broker._name == server)
    await asyncio.to_thread(broker.kill)
    return broker
