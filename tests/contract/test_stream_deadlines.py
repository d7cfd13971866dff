"""timeout= of calls with streams."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question


class Handler:
    """Handlers that answer once and then wait in a chosen place until they are cancelled."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.reached = asyncio.Event()
        self.cleaned_up = asyncio.Event()
        self.done = asyncio.Event()

    async def run(self, request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        context.add_done_callback(lambda _context: self.done.set())
        self.reached.set()
        try:
            yield Answer(number=1)
            if self.place == "sleeping":
                await asyncio.sleep(60)
            while self.place == "reading":
                await context.read()
            while True:
                yield Answer(data=bytes(10_000))
        finally:
            self.cleaned_up.set()

    async def gather(self, requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        answers = [answer async for answer in self.run(requests, context)]
        return answers[0]


async def wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), TIMEOUT)


@pytest.mark.parametrize(
    ("method", "place"),
    [
        ("Tell", "sleeping"),
        ("Tell", "writing"),
        ("Gather", "sleeping"),
        ("Gather", "reading"),
        ("Talk", "sleeping"),
        ("Talk", "reading"),
        ("Talk", "writing"),
    ],
)
async def test_both_sides_are_freed(mesh: Mesh, method: str, place: str) -> None:
    handler = Handler(place)
    stub = await mesh.serve(tell=handler.run, gather=handler.gather, talk=handler.run)
    begin = asyncio.get_running_loop().time()
    call = stub.Tell(Question(), timeout=0.2) if method == "Tell" else getattr(stub, method)(timeout=0.2)
    if method != "Gather":
        assert (await call.read()).number == 1
    assert await call.code() is StatusCode.DEADLINE_EXCEEDED
    assert 0.1 < asyncio.get_running_loop().time() - begin < 5
    assert "Deadline Exceeded" in await call.details()
    assert call.done()
    assert not call.cancelled()
    await wait(handler.done)
    assert handler.cleaned_up.is_set()


@pytest.mark.parametrize("method", ["Tell", "Gather", "Talk"])
async def test_a_deadline_in_the_past_fails_without_calling(mesh: Mesh, method: str) -> None:
    handler = Handler("sleeping")
    stub = await mesh.serve(tell=handler.run, gather=handler.gather, talk=handler.run)
    call = getattr(stub, method)(Question() if method == "Tell" else [Question()], timeout=-1)
    error = await failure(call if method == "Gather" else call.read())
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    assert not handler.reached.is_set()


async def test_a_reader_that_waits_gets_the_error(mesh: Mesh) -> None:
    handler = Handler("sleeping")
    call = (await mesh.serve(tell=handler.run)).Tell(Question(), timeout=0.2)
    numbers: list[int] = []

    async def read() -> None:
        async for answer in call:
            numbers.append(answer.number)

    assert (await failure(read())).code() is StatusCode.DEADLINE_EXCEEDED
    assert numbers == [1]


async def test_a_writer_that_waits_gets_the_error(mesh: Mesh) -> None:
    handler = Handler("sleeping")
    call = (await mesh.serve(gather=handler.gather)).Gather(timeout=0.2)

    async def write() -> None:
        while True:
            await call.write(Question(data=bytes(100_000)))

    error = await failure(write())
    # See Mesh.tells_writers_why.
    assert error.code() is StatusCode.DEADLINE_EXCEEDED or not mesh.tells_writers_why
    assert await call.code() is error.code()


async def test_a_stream_that_ends_in_time_ends_well(mesh: Mesh) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        for number in range(10):
            yield Answer(number=number)

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)
    assert len([answer async for answer in call]) == 10
    assert await call.code() is StatusCode.OK


async def test_messages_that_are_read_after_the_deadline_come_too_late(mesh: Mesh) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        for number in range(10):
            yield Answer(number=number)

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=0.2)
    assert (await call.read()).number == 0
    await asyncio.sleep(0.3)
    assert (await failure(call.read())).code() is StatusCode.DEADLINE_EXCEEDED


async def test_both_sides_see_the_time_that_is_left(mesh: Mesh) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        yield Answer(number=round(context.time_remaining() * 1000))
        await asyncio.sleep(0.05)
        yield Answer(number=round(context.time_remaining() * 1000))

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)
    assert TIMEOUT - 5 < call.time_remaining() <= TIMEOUT
    first, second = [answer.number async for answer in call]
    assert (TIMEOUT - 5) * 1000 < second < first - 30 < TIMEOUT * 1000 + 100  # grpc.aio rounds up
    assert 0 <= call.time_remaining() <= TIMEOUT


async def test_without_a_timeout_the_time_is_none(mesh: Mesh) -> None:
    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        yield Answer(text=repr(context.time_remaining()))

    call = (await mesh.serve(talk=talk)).Talk([])
    assert call.time_remaining() is None
    assert [answer.text async for answer in call] == ["None"]


async def test_waiting_for_a_message_with_a_timeout_of_asyncio_cancels_the_call(mesh: Mesh) -> None:
    handler = Handler("sleeping")
    call = (await mesh.serve(tell=handler.run)).Tell(Question())
    assert (await call.read()).number == 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call.read(), 0.2)
    assert call.cancelled()
    await wait(handler.done)


async def test_what_the_handler_writes_after_the_deadline_reaches_nobody(mesh: Mesh) -> None:
    raised: asyncio.Queue[BaseException] = asyncio.Queue()

    async def tell(request: Question, context: ServicerContext) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - grpc.aio raises private classes here
                await context.write(Answer(text="too late"))
            raised.put_nowait(caught.value)
            raise

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=0.2)
    assert (await failure(call.read())).code() is StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(raised.get(), TIMEOUT)
