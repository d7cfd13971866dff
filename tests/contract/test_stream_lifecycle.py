"""Streams while channels and servers come and go."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import EOF, ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question
from tests.protos.probe_pb2_grpc import ProbeStub

EVERY = pytest.mark.parametrize("method", ["Tell", "Gather", "Talk"])


async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
    yield Answer(text=request.text)


async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
    return Answer(text="".join([request.text async for request in requests]))


async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
    async for request in requests:
        yield Answer(text=request.text)


HANDLERS = {"tell": tell, "gather": gather, "talk": talk}


def begin(stub: Any, method: str, text: str = "", **options: Any) -> Any:
    question = Question(text=text)
    return getattr(stub, method)(question if method == "Tell" else [question], **{"timeout": TIMEOUT, **options})


async def texts(call: Any, method: str) -> list[str]:
    answers = [await call] if method == "Gather" else [answer async for answer in call]
    return [answer.text for answer in answers]


class Gated:
    """A server-streaming handler that has said one thing, and says the other when the test lets it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def tell(self, request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        yield Answer(number=1)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        yield Answer(number=2)


# ------------------------------------------------------------------------------------------------------------ channels


@EVERY
async def test_without_a_server_a_call_is_unavailable_at_once(mesh: Mesh, method: str) -> None:
    call = begin(mesh.stub(), method)
    assert (await failure(texts(call, method))).code() is StatusCode.UNAVAILABLE
    assert await call.code() is StatusCode.UNAVAILABLE


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_without_a_server_writing_fails(mesh: Mesh, method: str) -> None:
    call = getattr(mesh.stub(), method)(timeout=TIMEOUT)
    error = await failure(call.write(Question()))
    assert error.code() is StatusCode.UNAVAILABLE
    assert await call.code() is StatusCode.UNAVAILABLE


@EVERY
async def test_wait_for_ready_waits_for_the_server(mesh: Mesh, method: str) -> None:
    call = begin(mesh.stub(), method, "patient", wait_for_ready=True)
    done, _ = await asyncio.wait([asyncio.ensure_future(call.code())], timeout=0.1)
    assert not done
    await mesh.start(**HANDLERS)
    assert await texts(call, method) == ["patient"]


async def test_writing_waits_for_ready_too(mesh: Mesh) -> None:
    call = mesh.stub().Talk(timeout=TIMEOUT, wait_for_ready=True)
    writing = asyncio.ensure_future(call.write(Question(text="patient")))
    done, _ = await asyncio.wait([writing], timeout=0.1)
    assert not done
    await mesh.start(**HANDLERS)
    await writing
    assert (await call.read()).text == "patient"
    await call.done_writing()
    assert await call.read() is EOF


@EVERY
async def test_wait_for_ready_waits_no_longer_than_the_timeout(mesh: Mesh, method: str) -> None:
    call = begin(mesh.stub(), method, timeout=0.2, wait_for_ready=True)
    assert (await failure(texts(call, method))).code() is StatusCode.DEADLINE_EXCEEDED


@EVERY
async def test_a_call_that_waits_can_be_cancelled(mesh: Mesh, method: str) -> None:
    call = begin(mesh.stub(), method, timeout=None, wait_for_ready=True)
    await asyncio.sleep(0.05)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await texts(call, method)


async def test_close_with_grace_lets_streams_end(mesh: Mesh) -> None:
    gated = Gated()
    await mesh.start(tell=gated.tell)
    channel = mesh.channel()
    call = ProbeStub(channel).Tell(Question(), timeout=TIMEOUT)
    assert (await call.read()).number == 1
    closing = asyncio.ensure_future(channel.close(TIMEOUT))
    await asyncio.sleep(0.05)
    assert not closing.done()
    gated.gate.set()
    assert (await call.read()).number == 2
    assert await call.read() is EOF
    await asyncio.wait_for(closing, TIMEOUT)


async def test_close_after_the_grace_cancels_streams(mesh: Mesh) -> None:
    gated = Gated()
    await mesh.start(tell=gated.tell)
    channel = mesh.channel()
    call = ProbeStub(channel).Tell(Question())
    assert (await call.read()).number == 1
    await channel.close(0.1)
    await asyncio.wait_for(gated.cancelled.wait(), TIMEOUT)
    assert await call.code() is StatusCode.CANCELLED


# ------------------------------------------------------------------------------------------------------------- servers


@pytest.mark.parametrize("method", ["Tell", "Talk"])
async def test_stop_lets_a_running_stream_end(mesh: Mesh, method: str) -> None:
    gated = Gated()
    server = await mesh.start(tell=gated.tell, talk=gated.tell)
    call = begin(mesh.stub(), method)
    assert (await call.read()).number == 1
    stopping = asyncio.ensure_future(server.stop(TIMEOUT))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    gated.gate.set()
    assert (await call.read()).number == 2
    assert await call.read() is EOF
    await asyncio.wait_for(stopping, TIMEOUT)


async def test_a_stream_goes_both_ways_while_the_server_stops(mesh: Mesh) -> None:
    server = await mesh.start(**HANDLERS)
    call = mesh.stub().Talk(timeout=TIMEOUT)
    await call.write(Question(text="before"))
    assert (await call.read()).text == "before"
    stopping = asyncio.ensure_future(server.stop(TIMEOUT))
    await asyncio.sleep(0.05)
    await call.write(Question(text="during"))
    assert (await call.read()).text == "during"
    assert not stopping.done()
    await call.done_writing()
    assert await call.read() is EOF
    await asyncio.wait_for(stopping, TIMEOUT)


@pytest.mark.parametrize("grace", [None, 0.1])
@pytest.mark.parametrize("method", ["Tell", "Talk"])
async def test_after_the_grace_streams_are_ended(mesh: Mesh, method: str, grace: float | None) -> None:
    gated = Gated()
    server = await mesh.start(tell=gated.tell, talk=gated.tell)
    call = begin(mesh.stub(), method)
    assert (await call.read()).number == 1
    await asyncio.wait_for(server.stop(grace), TIMEOUT)
    assert (await failure(call.read())).code() in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
    await asyncio.wait_for(gated.cancelled.wait(), TIMEOUT)


async def test_stop_ends_streams_whose_caller_does_not_read(mesh: Mesh) -> None:
    ended = asyncio.Event()

    async def endless(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        try:
            while True:
                yield Answer(data=bytes(10_000))
        finally:
            ended.set()

    server = await mesh.start(tell=endless)
    call = mesh.stub().Tell(Question(), timeout=TIMEOUT)
    await call.read()
    await asyncio.wait_for(server.stop(0.1), TIMEOUT)
    await asyncio.wait_for(ended.wait(), TIMEOUT)


async def test_a_limit_on_running_calls_counts_streams(mesh: Mesh) -> None:
    gated = Gated()
    await mesh.start(tell=gated.tell, maximum_concurrent_rpcs=2)
    stub = mesh.stub()
    calls = [stub.Tell(Question(), timeout=TIMEOUT) for _ in range(2)]
    for call in calls:
        assert (await call.read()).number == 1
    third = stub.Tell(Question(), timeout=TIMEOUT)
    reading = asyncio.ensure_future(third.read())
    if mesh.shows_exceptions:  # grpc.aio refuses what is beyond the limit; in natsmesh it waits for its turn
        assert (await failure(reading)).code() is StatusCode.RESOURCE_EXHAUSTED
    else:
        done, _ = await asyncio.wait([reading], timeout=0.1)
        assert not done
    gated.gate.set()
    for call in calls:
        assert (await call.read()).number == 2
        assert await call.read() is EOF
    if not mesh.shows_exceptions:
        assert (await reading).number == 1
        third.cancel()
    fourth = stub.Tell(Question(), timeout=TIMEOUT)
    assert [answer.number async for answer in fourth] == [1, 2]


async def test_a_stream_stays_with_its_server(mesh: Mesh) -> None:
    """Though another one is there, which takes the calls that follow."""

    def named(name: str) -> Any:
        async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
            async for _request in requests:
                yield Answer(text=name)

        return talk

    old = await mesh.start(talk=named("old"))
    stub = mesh.stub()
    call = stub.Talk(timeout=TIMEOUT)
    await call.write(Question())
    assert (await call.read()).text == "old"
    await mesh.start(talk=named("new"))
    stopping = asyncio.ensure_future(old.stop(TIMEOUT))
    for _ in range(5):
        await call.write(Question())
        assert (await call.read()).text == "old"
    await call.done_writing()
    assert await call.read() is EOF
    await asyncio.wait_for(stopping, TIMEOUT)
    second = stub.Talk([Question()], timeout=TIMEOUT, wait_for_ready=True)
    assert await texts(second, "Talk") == ["new"]
