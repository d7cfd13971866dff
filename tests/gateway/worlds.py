"""Gateways on a bus that the test can put services on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.app import Gateway
from gateway.config import Config
from rpc import Connection
from tests.gateway.asgi import Client
from tests.gateway.backends import RawBackend


class World:
    """A bus, a gateway on it, and the means to put services there."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], prefix: str) -> None:
        self._connect = connect
        self._connections: list[Connection] = []
        self._gateways: list[Gateway] = []
        self.prefix = prefix

    async def connection(self) -> Connection:
        connection = await self._connect()
        self._connections.append(connection)
        return connection

    async def gateway(self, **options: Any) -> Client:
        gateway = Gateway(Config(prefix=self.prefix, **options), connection=await self.connection())
        await gateway.start()
        self._gateways.append(gateway)
        return Client(gateway)

    async def ready_gateway(self, **options: Any) -> Client:
        client = await self.gateway(**options)
        await asyncio.wait_for(client.application.ready(), 10)
        return client

    async def backend(self, service: str, schema: bytes, **options: Any) -> RawBackend:
        backend = RawBackend(await self.connection(), service, schema, prefix=self.prefix, **options)
        await backend.start()
        return backend

    async def close(self) -> None:
        for gateway in self._gateways:
            await gateway.close()
        for connection in self._connections:
            await connection.close()
