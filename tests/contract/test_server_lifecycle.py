"""start, stop and wait_for_termination of a server."""

import asyncio

import pytest
from grpc import StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question


class Gated:
    """A handler that waits until the test lets it go."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def ask(self, request: Question, context: ServicerContext) -> Answer:
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Answer(text="finished")


async def test_stop_lets_a_running_call_end_and_takes_no_new_ones(mesh: Mesh) -> None:
    gated = Gated()
    server = await mesh.start(gated.ask)
    running = mesh.stub().Ask(Question(), timeout=TIMEOUT)
    await asyncio.wait_for(gated.started.wait(), TIMEOUT)
    stopping = asyncio.ensure_future(server.stop(TIMEOUT))
    assert (await failure(refused(mesh))).code() is StatusCode.UNAVAILABLE
    assert not stopping.done()
    gated.gate.set()
    assert (await running).text == "finished"
    await asyncio.wait_for(stopping, TIMEOUT)


async def refused(mesh: Mesh) -> None:
    """Calls, on new channels, until the server that is about to stop refuses one."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            call = mesh.stub().Ask(Question(), timeout=0.5)
            if await call.code() is not StatusCode.DEADLINE_EXCEEDED:  # it was let in just before
                await call


@pytest.mark.parametrize("grace", [None, 0.2])
async def test_after_the_grace_running_calls_are_ended(mesh: Mesh, grace: float | None) -> None:
    gated = Gated()
    server = await mesh.start(gated.ask)
    running = mesh.stub().Ask(Question(), timeout=TIMEOUT)
    await asyncio.wait_for(gated.started.wait(), TIMEOUT)
    await asyncio.wait_for(server.stop(grace), TIMEOUT)
    assert (await failure(running)).code() in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
    await asyncio.wait_for(gated.cancelled.wait(), TIMEOUT)


async def test_stop_without_calls_is_quick(mesh: Mesh) -> None:
    server = await mesh.start(Gated().ask)
    await asyncio.wait_for(server.stop(60), TIMEOUT)


async def test_stop_may_be_called_again(mesh: Mesh) -> None:
    server = await mesh.start(Gated().ask)
    await asyncio.wait_for(asyncio.gather(server.stop(None), server.stop(1), server.stop(None)), TIMEOUT)
    await asyncio.wait_for(server.stop(None), TIMEOUT)


@pytest.mark.parametrize("sooner", [None, 0.1])
async def test_a_second_stop_may_shorten_the_grace(mesh: Mesh, sooner: float | None) -> None:
    gated = Gated()
    server = await mesh.start(gated.ask)
    running = mesh.stub().Ask(Question(), timeout=TIMEOUT)
    await asyncio.wait_for(gated.started.wait(), TIMEOUT)
    first = asyncio.ensure_future(server.stop(60))
    await asyncio.sleep(0.05)
    assert not first.done()
    await asyncio.wait_for(server.stop(sooner), TIMEOUT)
    await asyncio.wait_for(first, TIMEOUT)
    assert (await failure(running)).code() in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)


async def test_stop_before_start_does_nothing(mesh: Mesh) -> None:
    await asyncio.wait_for(mesh.server().stop(None), TIMEOUT)


async def test_wait_for_termination_waits_for_stop(mesh: Mesh) -> None:
    server = await mesh.start(Gated().ask)
    waiting = asyncio.ensure_future(server.wait_for_termination())
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    await server.stop(None)
    assert await asyncio.wait_for(waiting, TIMEOUT) is False


async def test_wait_for_termination_with_a_timeout(mesh: Mesh) -> None:
    server = await mesh.start(Gated().ask)
    assert await asyncio.wait_for(server.wait_for_termination(0.1), TIMEOUT) is True
    await server.stop(None)
    assert await asyncio.wait_for(server.wait_for_termination(TIMEOUT), TIMEOUT) is False


async def test_a_limit_on_running_calls_is_kept(mesh: Mesh) -> None:
    running = most = 0
    gate = asyncio.Event()

    async def ask(request: Question, context: ServicerContext) -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return Answer(text="finished")

    stub = await mesh.serve(ask, maximum_concurrent_rpcs=1)
    calls = [asyncio.ensure_future(stub.Ask(Question(), timeout=TIMEOUT).code()) for _ in range(5)]
    await asyncio.sleep(0.1)
    gate.set()
    codes = await asyncio.gather(*calls)
    assert most == 1
    # grpc.aio refuses what is beyond the limit; natsmesh lets a few wait, and has the rest sent elsewhere.
    beyond = StatusCode.RESOURCE_EXHAUSTED if mesh.shows_exceptions else StatusCode.OK
    assert sorted(codes, key=lambda code: code.value[0]) == [StatusCode.OK] + [beyond] * 4


async def test_two_servers_serve_one_after_the_other(mesh: Mesh) -> None:
    """As in a rolling restart: the second is there before the first goes."""

    async def first(request: Question, context: ServicerContext) -> Answer:
        return Answer(text="first")

    async def second(request: Question, context: ServicerContext) -> Answer:
        return Answer(text="second")

    old = await mesh.start(first)
    stub = mesh.stub()
    assert (await stub.Ask(Question(), timeout=TIMEOUT)).text == "first"
    await mesh.start(second)
    await old.stop(TIMEOUT)
    assert (await stub.Ask(Question(), timeout=TIMEOUT, wait_for_ready=True)).text == "second"
