"""Both halves of the call path on a memory mesh, in fake time, with messages that get lost: every call ends."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rpc
from rpc.testing import FakeClock, MemoryMesh, MemoryMessage

PATH = "/test.v1.Test/Do"
END = rpc.StatusCode


class Servicer:
    """Waits as many seconds as the request says, and counts."""

    def __init__(self) -> None:
        self.started: Counter[bytes] = Counter()
        self.cancelled: Counter[bytes] = Counter()

    async def do(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        self.started[request] += 1
        try:
            await asyncio.sleep(float(request.partition(b" ")[0] or 0))
        except asyncio.CancelledError:
            self.cancelled[request] += 1
            raise
        return request

    async def serve(self, mesh: MemoryMesh, **options: Any) -> rpc.Server:
        server = rpc.Server(mesh.connection(), **options)
        handler = grpc.unary_unary_rpc_method_handler(self.do)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.v1.Test", {"Do": handler})])
        await server.start()
        return server


@pytest.fixture
async def clock() -> AsyncIterator[FakeClock]:
    async with FakeClock() as clock:
        yield clock


@pytest.fixture
async def channel(clock: FakeClock, memory_mesh: MemoryMesh) -> AsyncIterator[rpc.Channel]:
    async with rpc.Channel(memory_mesh.connection()) as channel:
        yield channel


def idle(channel: rpc.Channel, *servers: rpc.Server) -> bool:
    """Whether neither side remembers anything of any call."""
    transports = [server._transport for server in servers]
    return (
        not channel._transport.in_flight
        and not channel._transport._abandoned
        and all(one is not None and not one.in_flight and not one._held for one in transports)
    )


async def test_a_call_whose_back_end_vanishes_ends_within_seconds(
    memory_mesh: MemoryMesh, channel: rpc.Channel, clock: FakeClock
) -> None:
    servicer = Servicer()
    connection = memory_mesh.connection()
    server = rpc.Server(connection)
    handler = grpc.unary_unary_rpc_method_handler(servicer.do)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.v1.Test", {"Do": handler})])
    await server.start()
    call = channel.unary_unary(PATH)(b"3600")
    await clock.advance(1)
    assert not call.done()
    await connection.close()
    await clock.advance(1.5)
    assert call.done()
    assert await call.code() is END.UNAVAILABLE
    assert "died" in await call.details()
    await server.stop(None)


async def test_a_call_lasts_as_long_as_its_back_end_works_on_it(
    memory_mesh: MemoryMesh, channel: rpc.Channel, clock: FakeClock
) -> None:
    server = await Servicer().serve(memory_mesh)
    call = channel.unary_unary(PATH)(b"1800")
    await clock.advance(1799)
    assert not call.done()
    await clock.advance(1)
    assert await call == b"1800"
    await server.stop(None)


async def test_a_reply_that_got_lost_is_noticed_without_a_deadline(
    memory_mesh: MemoryMesh, channel: rpc.Channel, clock: FakeClock
) -> None:
    servicer = Servicer()
    server = await servicer.serve(memory_mesh)
    await clock.run(channel.unary_unary(PATH)(b"0"))
    for request in (b"0 quick", b"2 slow"):
        lose = [True]

        def fault(message: MemoryMessage, request: bytes = request, lose: list[bool] = lose) -> int:
            if message.data == request and ".mesh." in message.subject and lose:
                lose.clear()
                return 0
            return 1

        memory_mesh.fault = fault
        call = channel.unary_unary(PATH)(request)
        await clock.advance(10)
        assert call.done(), request
        assert await call.code() is END.UNAVAILABLE
        assert servicer.started[request] == 1
    memory_mesh.fault = None
    await server.stop(None)


async def test_a_cancellation_that_got_lost_is_made_up_for(
    memory_mesh: MemoryMesh, channel: rpc.Channel, clock: FakeClock
) -> None:
    servicer = Servicer()
    server = await servicer.serve(memory_mesh)
    call = channel.unary_unary(PATH)(b"3600")
    await clock.advance(1)
    memory_mesh.fault = lambda message: 0 if message.subject.endswith(".cancel") else 1
    call.cancel()
    await clock.advance(10)
    assert servicer.cancelled[b"3600"] == 1
    assert idle(channel, server)
    await server.stop(None)


async def test_the_handler_of_a_caller_that_vanished_is_cancelled(
    memory_mesh: MemoryMesh, channel: rpc.Channel, clock: FakeClock
) -> None:
    servicer = Servicer()
    server = await servicer.serve(memory_mesh)
    connection = memory_mesh.connection()
    other = rpc.Channel(connection)
    call = other.unary_unary(PATH)(b"3600")
    await clock.advance(1)
    memory_mesh.fault = lambda message: 0 if message.subject.endswith(".cancel") else 1
    await connection.close()
    await clock.advance(10)
    assert servicer.cancelled[b"3600"] == 1
    assert await call.code() is END.UNAVAILABLE
    await other.close()
    await server.stop(None)


async def test_a_broker_that_restarts_ends_the_calls_and_their_handlers(
    memory_mesh: MemoryMesh, channel: rpc.Channel, clock: FakeClock
) -> None:
    servicer = Servicer()
    server = await servicer.serve(memory_mesh)
    call = channel.unary_unary(PATH)(b"3600")
    await clock.advance(1)
    memory_mesh.stop()
    await clock.advance(0)
    assert await call.code() is END.UNAVAILABLE
    await clock.advance(2)
    memory_mesh.start()
    await clock.advance(10)
    assert servicer.cancelled[b"3600"] == 1
    assert await clock.run(channel.unary_unary(PATH)(b"0")) == b"0"
    assert idle(channel, server)
    await server.stop(None)


async def test_a_draining_back_end_is_left_in_peace(
    memory_mesh: MemoryMesh, channel: rpc.Channel, clock: FakeClock
) -> None:
    servicer = Servicer()
    old, new = await servicer.serve(memory_mesh), await servicer.serve(memory_mesh)
    calls = [channel.unary_unary(PATH)(b"5 %d" % number) for number in range(20)]
    await clock.advance(1)
    stopping = asyncio.create_task(old.stop(grace=60))
    await clock.advance(0)
    late = [channel.unary_unary(PATH)(b"1 late %d" % number) for number in range(20)]
    await clock.advance(2)
    assert all([await call for call in late])
    await clock.advance(3)
    assert stopping.done()
    assert all([await call for call in calls])
    assert set(servicer.started.values()) == {1}
    await new.stop(None)


@settings(max_examples=40, deadline=None)
@given(st.integers(), st.floats(0, 0.5), st.floats(0, 0.3))
def test_whatever_gets_lost_every_call_ends_and_nothing_is_left(seed: int, loss: float, doubling: float) -> None:
    chance = random.Random(seed)

    def fault(message: MemoryMessage) -> int:
        if chance.random() < loss:
            return 0
        # NATS itself never doubles a message; a reply, at least, may come twice without harm.
        return 2 if ".mesh." in message.subject and chance.random() < doubling else 1

    async def main() -> None:
        mesh, servicer = MemoryMesh(seed=seed), Servicer()
        async with FakeClock() as clock:
            servers = [await servicer.serve(mesh, maximum_concurrent_rpcs=3, maximum_queued_rpcs=1) for _ in range(2)]
            async with rpc.Channel(mesh.connection()) as channel:
                await clock.run(channel.unary_unary(PATH)(b"0"))
                mesh.fault = fault
                calls = []
                for number in range(30):
                    seconds = chance.choice(["0", "0.005", "0.5", "3"])
                    timeout = chance.choice([None, 0.01, 1, 4])
                    calls.append(channel.unary_unary(PATH)(f"{seconds} {number}".encode(), timeout=timeout))
                    await clock.advance(chance.choice([0, 0.01, 0.5]))
                    if chance.random() < 0.2:
                        chance.choice(calls).cancel()
                    if chance.random() < 0.03:
                        mesh.stop()
                        await clock.advance(0.1)
                        mesh.start()
                await clock.advance(60)
                codes = {await call.code() if call.done() else None for call in calls}
                assert codes <= {END.OK, END.CANCELLED, END.DEADLINE_EXCEEDED, END.UNAVAILABLE}
                mesh.fault = None
                await clock.advance(20)
                assert idle(channel, *servers)
                assert max(servicer.started.values()) == 1
                assert await clock.run(channel.unary_unary(PATH)(b"0 after")) == b"0 after"
            for server in servers:
                await server.stop(None)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
