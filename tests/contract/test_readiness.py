"""Channels: before a server is there, wait_for_ready, states, closing."""

import asyncio

import grpc
import pytest
from grpc import ChannelConnectivity, StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question
from tests.protos.probe_pb2_grpc import ProbeStub


async def echo(request: Question, context: ServicerContext) -> Answer:
    return Answer(text=request.text)


async def test_without_a_server_a_call_is_unavailable_at_once(mesh: Mesh) -> None:
    begin = asyncio.get_running_loop().time()
    call = mesh.stub().Ask(Question(), timeout=TIMEOUT)
    assert (await failure(call)).code() is StatusCode.UNAVAILABLE
    assert asyncio.get_running_loop().time() - begin < 5


async def test_wait_for_ready_waits_for_the_server(mesh: Mesh) -> None:
    call = mesh.stub().Ask(Question(text="patient"), timeout=TIMEOUT, wait_for_ready=True)
    done, _ = await asyncio.wait([asyncio.ensure_future(call.code())], timeout=0.3)
    assert not done
    await mesh.start(echo)
    assert (await call).text == "patient"


async def test_wait_for_ready_waits_no_longer_than_the_timeout(mesh: Mesh) -> None:
    begin = asyncio.get_running_loop().time()
    error = await failure(mesh.stub().Ask(Question(), timeout=0.3, wait_for_ready=True))
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    assert 0.2 < asyncio.get_running_loop().time() - begin < 5


async def test_a_call_that_waits_can_be_cancelled(mesh: Mesh) -> None:
    call = mesh.stub().Ask(Question(), wait_for_ready=True)
    await asyncio.sleep(0.05)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_channel_made_before_the_server_works(mesh: Mesh) -> None:
    stub = mesh.stub()
    assert (await failure(stub.Ask(Question(), timeout=TIMEOUT))).code() is StatusCode.UNAVAILABLE
    await mesh.start(echo)
    answer = await stub.Ask(Question(text="now"), timeout=TIMEOUT, wait_for_ready=True)
    assert answer.text == "now"


async def test_a_server_that_comes_back_is_found_again(mesh: Mesh) -> None:
    server = await mesh.start(echo)
    stub = mesh.stub()
    assert (await stub.Ask(Question(text="first"), timeout=TIMEOUT)).text == "first"
    await server.stop(None)
    assert (await failure(stub.Ask(Question(), timeout=TIMEOUT))).code() is StatusCode.UNAVAILABLE
    await mesh.start(echo)
    assert (await stub.Ask(Question(text="second"), timeout=TIMEOUT, wait_for_ready=True)).text == "second"


async def test_channel_ready_and_the_states(mesh: Mesh) -> None:
    await mesh.start(echo)
    channel = mesh.channel()
    assert channel.get_state() is ChannelConnectivity.IDLE
    await asyncio.wait_for(channel.channel_ready(), TIMEOUT)
    assert channel.get_state() is ChannelConnectivity.READY
    await channel.close()
    assert channel.get_state() is ChannelConnectivity.SHUTDOWN


async def test_a_change_of_state_can_be_waited_for(mesh: Mesh) -> None:
    await mesh.start(echo)
    channel = mesh.channel()
    waiting = asyncio.ensure_future(channel.wait_for_state_change(ChannelConnectivity.IDLE))
    await asyncio.wait_for(channel.channel_ready(), TIMEOUT)
    await asyncio.wait_for(waiting, TIMEOUT)


async def test_try_to_connect_connects(mesh: Mesh) -> None:
    await mesh.start(echo)
    channel = mesh.channel()
    channel.get_state(try_to_connect=True)
    async with asyncio.timeout(TIMEOUT):
        while (state := channel.get_state()) is not ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)


async def test_a_channel_as_a_context_manager(mesh: Mesh) -> None:
    await mesh.start(echo)
    async with mesh.channel() as channel:
        assert (await ProbeStub(channel).Ask(Question(text="in"), timeout=TIMEOUT)).text == "in"
    assert channel.get_state() is ChannelConnectivity.SHUTDOWN


async def test_a_closed_channel_takes_no_calls(mesh: Mesh) -> None:
    await mesh.start(echo)
    channel = mesh.channel()
    stub = ProbeStub(channel)
    await stub.Ask(Question(), timeout=TIMEOUT)
    await channel.close()
    with pytest.raises(grpc.aio.UsageError, match="closed"):
        stub.Ask(Question())
    await channel.close()  # again, which does nothing


async def test_close_with_grace_lets_calls_end(mesh: Mesh) -> None:
    started = asyncio.Event()

    async def ask(request: Question, context: ServicerContext) -> Answer:
        started.set()
        await asyncio.sleep(0.2)
        return Answer(text="finished")

    await mesh.start(ask)
    channel = mesh.channel()
    call = ProbeStub(channel).Ask(Question(), timeout=TIMEOUT)
    await asyncio.wait_for(started.wait(), TIMEOUT)
    await channel.close(TIMEOUT)
    assert (await call).text == "finished"


async def test_close_after_the_grace_cancels(mesh: Mesh) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def ask(request: Question, context: ServicerContext) -> Answer:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    await mesh.start(ask)
    channel = mesh.channel()
    call = ProbeStub(channel).Ask(Question())
    await asyncio.wait_for(started.wait(), TIMEOUT)
    await channel.close(0.1)
    await asyncio.wait_for(cancelled.wait(), TIMEOUT)
    assert await call.code() is StatusCode.CANCELLED


async def test_two_channels_are_independent(mesh: Mesh) -> None:
    await mesh.start(echo)
    first, second = mesh.channel(), mesh.channel()
    assert (await ProbeStub(first).Ask(Question(text="1"), timeout=TIMEOUT)).text == "1"
    await first.close()
    assert (await ProbeStub(second).Ask(Question(text="2"), timeout=TIMEOUT)).text == "2"
