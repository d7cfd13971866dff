"""A mesh of the test's own, on the shared broker or on one that the test kills."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import rpc
from rpc.jetstream.api import JetStream, StoredMessage
from rpc.subjects import Subjects
from tests.events.stage import STAGE, Subscriber, stage
from tests.generated import compile_contract

SECONDS = 10


@pytest.fixture(scope="session", autouse=True)
def stage_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the generated code, for the paths of processes."""
    code = compile_contract(STAGE, tmp_path_factory.mktemp("stage"))
    stage.use(code)
    return code


class World:
    """One mesh: servers of subscribers, and a look into JetStream."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = f"t{secrets.token_hex(4)}"
        self.subjects = Subjects(self.prefix)
        self.servers: list[rpc.Server] = []
        self.publishers: list[rpc.Publisher] = []
        self.connection: rpc.Connection
        self.js: JetStream

    async def start(self) -> None:
        self.connection = await rpc.connect(self.url)
        self.js = JetStream(self.connection)
        await self.js.start()

    async def close(self) -> None:
        for publisher in self.publishers:
            await publisher.close(0.1)
        for server in self.servers:
            await server.stop(None)
        await self.js.close()
        await self.connection.close()

    async def publisher(self, **options: Any) -> rpc.Publisher:
        publisher = rpc.Publisher(self.url, prefix=self.prefix, **options)
        self.publishers.append(publisher)
        await publisher.start()
        return publisher

    async def serve(self, *subscribers: Subscriber, **options: Any) -> rpc.Server:
        """Start a process, as it were: a server with a connection of its own."""
        server = rpc.Server(self.url, prefix=self.prefix, **options)
        for subscriber in subscribers:
            subscriber.add_to(server)
        self.servers.append(server)
        await server.start()
        return server

    async def stored(self, event: str = "stage.v1.Placed") -> list[StoredMessage]:
        """All events of a type that the broker has."""
        await self.connection.wait_connected()  # The broker may have come back for others sooner than for us.
        found: list[StoredMessage] = []
        while more := await self.js.read(
            self.subjects.jetstream("EVENTS", event), ">", start=found[-1].sequence + 1 if found else 1
        ):
            found += more
        return found

    async def dead_letters(self) -> list[StoredMessage]:
        await self.connection.wait_connected()
        return await self.js.read(self.subjects.jetstream("DEAD-LETTERS"), ">")

    async def consumer(self, group: str, event: str = "stage.v1.Placed") -> dict[str, Any]:
        """What the broker says of a group."""
        await self.connection.wait_connected()
        stream = self.subjects.jetstream("EVENTS", event)
        return await self.js.request(f"CONSUMER.INFO.{stream}.{group}")

    async def settled(self, group: str, event: str = "stage.v1.Placed") -> bool:
        """Whether a group has handled all there is."""
        info = await self.consumer(group, event)
        return info["num_pending"] == info["num_ack_pending"] == 0


@pytest.fixture
async def world(nats_url: str) -> AsyncIterator[World]:
    world = World(nats_url)
    await world.start()
    yield world
    await world.close()
