"""The mesh of the tests of jobs, with what publishes events and handles them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import rpc
from rpc.durable.letters import DeadLetters
from tests.jobs.conftest import World, lab_code, world
from tests.jobs.lab import lab
from tests.waiting import until

__all__ = ["Mesh", "lab_code", "mesh", "until", "world"]

Act = Callable[[Any, Any], Awaitable[None]]


class Mesh:
    """Publishes, and serves subscribers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.publisher = rpc.Publisher(world.url, prefix=world.prefix)
        self.letters = DeadLetters(world.js, world.subjects, world.records)

    async def publish(self, *whats: str) -> list[int]:
        return [await self.publisher.publish(lab.pb.Done(what=what)) for what in whats]

    async def move(self, thing: str, *places: int) -> None:
        for place in places:
            await self.publisher.publish(lab.pb.Moved(thing=thing, place=place))

    async def shop(self, act: Act | None = None, *, batch: Act | None = None, moved: Act | None = None) -> Any:
        """Serve ``Shop``. It has what it got: ``one``, ``batches``, ``moves`` (of deliveries and what they brought)."""

        class Shop(lab.grpc.ShopServicer):
            def __init__(self) -> None:
                self.one: list[tuple[rpc.Delivery, str]] = []
                self.batches: list[list[tuple[rpc.Delivery, str]]] = []
                self.moves: list[tuple[rpc.Delivery, str, int]] = []

            async def OnDone(self, request: Any, context: Any) -> Any:
                self.one.append((context.deliveries[0], request.what))
                if act is not None:
                    await act(request, context)
                return lab.empty()

            async def StoreDone(self, request_iterator: Any, context: Any) -> Any:
                got = [request.what async for request in request_iterator]
                self.batches.append(list(zip(context.deliveries, got, strict=True)))
                if batch is not None:
                    await batch(got, context)
                return lab.empty()

            async def OnMoved(self, request: Any, context: Any) -> Any:
                self.moves.append((context.deliveries[0], request.thing, request.place))
                if moved is not None:
                    await moved(request, context)
                return lab.empty()

        return await self._serve(Shop(), lab.grpc.add_ShopServicer_to_server)

    async def audit(self) -> Any:
        """Serve ``Audit``, another group: it has what it got in ``one``."""

        class Audit(lab.grpc.AuditServicer):
            def __init__(self) -> None:
                self.one: list[tuple[rpc.Delivery, str]] = []

            async def OnDone(self, request: Any, context: Any) -> Any:
                self.one.append((context.deliveries[0], request.what))
                return lab.empty()

        return await self._serve(Audit(), lab.grpc.add_AuditServicer_to_server)

    async def _serve(self, servicer: Any, add: Any) -> Any:
        servicer.server = rpc.Server(self.world.url, prefix=self.world.prefix)
        add(servicer, servicer.server)
        self.world.servers.append(servicer.server)
        await servicer.server.start()
        return servicer

    async def dead(self) -> list[Any]:
        return [letter async for letter in self.letters.read()]

    async def lag(self, group: str, event: str = "lab.v1.Done") -> int:
        """What a group has not settled."""
        stream = self.world.subjects.jetstream("EVENTS", event)
        info = await self.world.js.request(f"CONSUMER.INFO.{stream}.{group}")
        return int(info["num_pending"]) + int(info["num_ack_pending"])


@pytest.fixture
async def mesh(world: World) -> AsyncIterator[Mesh]:
    mesh = Mesh(world)
    yield mesh
    await mesh.publisher.close()
