"""The concierge and the greeter it calls, each on a grpc.aio server of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from concierge.v1 import concierge_pb2, concierge_pb2_grpc
from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from services.concierge import Concierge
from services.greeter import Greeter

TIMEOUT = 10.0


class MoodyGreeter(Greeter):
    """Greets slowly, and not everybody."""

    def __init__(self) -> None:
        self.greeting: set[str] = set()
        self.cancelled: set[str] = set()
        self.most_at_once = 0
        self.seconds_left: list[float | None] = []

    async def SayHello(
        self, request: greeter_pb2.HelloRequest, context: grpc.aio.ServicerContext
    ) -> greeter_pb2.HelloReply:
        self.seconds_left.append(context.time_remaining())
        if request.name == "nobody":
            await context.abort(StatusCode.NOT_FOUND, "nobody is not here")
        self.greeting.add(request.name)
        self.most_at_once = max(self.most_at_once, len(self.greeting))
        try:
            await asyncio.sleep(60 if request.name == "slow" else 0.01)
        except asyncio.CancelledError:
            self.cancelled.add(request.name)
            raise
        finally:
            self.greeting.remove(request.name)
        return await super().SayHello(request, context)


@pytest.fixture
async def running() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def channel_to(running: AsyncExitStack, add: Any, servicer: Any) -> grpc.aio.Channel:
    server = grpc.aio.server()
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    running.push_async_callback(server.stop, None)
    return await running.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))


@pytest.fixture
def greeter() -> MoodyGreeter:
    return MoodyGreeter()


@pytest.fixture
async def concierge(running: AsyncExitStack, greeter: MoodyGreeter) -> concierge_pb2_grpc.ConciergeStub:
    inner = await channel_to(running, greeter_pb2_grpc.add_GreeterServicer_to_server, greeter)
    outer = await channel_to(running, concierge_pb2_grpc.add_ConciergeServicer_to_server, Concierge(inner))
    return concierge_pb2_grpc.ConciergeStub(outer)


def group(*guests: str) -> concierge_pb2.WelcomeRequest:
    return concierge_pb2.WelcomeRequest(guests=guests)


async def test_everybody_is_greeted_in_order_and_at_once(
    concierge: concierge_pb2_grpc.ConciergeStub, greeter: MoodyGreeter
) -> None:
    names = [str(number) for number in range(20)]
    response = await concierge.Welcome(group(*names), timeout=TIMEOUT)
    assert list(response.greetings) == [f"Hello, {name}!" for name in names]
    assert greeter.most_at_once > 10


async def test_nobody_comes(concierge: concierge_pb2_grpc.ConciergeStub) -> None:
    assert list((await concierge.Welcome(group(), timeout=TIMEOUT)).greetings) == []


async def test_a_failure_is_passed_on_and_the_others_are_cancelled(
    concierge: concierge_pb2_grpc.ConciergeStub, greeter: MoodyGreeter
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await concierge.Welcome(group("slow", "nobody"), timeout=TIMEOUT)
    assert caught.value.code() is StatusCode.NOT_FOUND
    assert caught.value.details() == "the greeter failed: nobody is not here"
    async with asyncio.timeout(TIMEOUT):
        while greeter.greeting:
            await asyncio.sleep(0.01)


async def test_the_deadline_is_passed_on(concierge: concierge_pb2_grpc.ConciergeStub, greeter: MoodyGreeter) -> None:
    await concierge.Welcome(group("Ada"), timeout=5)
    assert greeter.seconds_left[0] is not None
    assert 0 < greeter.seconds_left[0] <= 5.1  # grpc.aio rounds up


async def test_too_many_guests(concierge: concierge_pb2_grpc.ConciergeStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await concierge.Welcome(group(*["Ada"] * 101), timeout=TIMEOUT)
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("guests: 101 names, at most 100")
