"""Callers that go away, in every state of a stream, and what the handler sees of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh
from tests.protos.probe_pb2 import Answer, Question


class Handler:
    """Handlers of all kinds that wait in a chosen place until they are cancelled, and tell how it went."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.reached = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.cleaned_up = asyncio.Event()
        self.done = asyncio.Event()

    async def _run(self, requests: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        context.add_done_callback(lambda _context: self.done.set())
        try:
            if self.place in ("before anything", "after the requests"):
                if self.place == "after the requests":
                    async for _request in requests:
                        pass
                self.reached.set()
                await asyncio.sleep(60)
            yield Answer(number=1)
            self.reached.set()
            if self.place == "after a message":
                await asyncio.sleep(60)
            elif self.place == "reading":
                while True:
                    await context.read()
            else:
                while True:
                    yield Answer(data=bytes(10_000))
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.cleaned_up.set()

    async def tell(self, request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        async for answer in self._run(None, context):
            yield answer

    async def talk(self, requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        async for answer in self._run(requests, context):
            yield answer

    async def gather(self, requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        async for answer in self._run(requests, context):
            last = answer
        return last


async def wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), TIMEOUT)


STATES = [
    ("Tell", "before anything"),
    ("Tell", "after a message"),
    ("Tell", "writing"),
    ("Gather", "before anything"),
    ("Gather", "after the requests"),
    ("Gather", "reading"),
    ("Talk", "before anything"),
    ("Talk", "after the requests"),
    ("Talk", "after a message"),
    ("Talk", "reading"),
    ("Talk", "writing"),
]


def begin(stub: Any, method: str, place: str) -> Any:
    if method == "Tell":
        return stub.Tell(Question())
    requests = None if place == "reading" else [Question()]
    return getattr(stub, method)(requests)


@pytest.mark.parametrize(("method", "place"), STATES)
async def test_cancel_reaches_the_handler(mesh: Mesh, method: str, place: str) -> None:
    handler = Handler(place)
    stub = await mesh.serve(tell=handler.tell, gather=handler.gather, talk=handler.talk)
    call = begin(stub, method, place)
    await wait(handler.reached)
    assert not call.done()
    assert call.cancel()
    assert call.done()
    assert call.cancelled()
    assert not call.cancel()
    await wait(handler.done)
    assert handler.cleaned_up.is_set()
    assert handler.cancelled.is_set() == (place != "writing")  # there, the generator is closed
    with pytest.raises(asyncio.CancelledError):
        await (call if method == "Gather" else call.read())
    assert await call.code() is StatusCode.CANCELLED
    assert await call.details() == "Locally cancelled by application!"
    assert len(await call.trailing_metadata()) == 0


@pytest.mark.parametrize("method", ["Tell", "Gather", "Talk"])
async def test_cancel_at_once_never_calls(mesh: Mesh, method: str) -> None:
    handler = Handler("before anything")
    stub = await mesh.serve(tell=handler.tell, gather=handler.gather, talk=handler.talk)
    call = begin(stub, method, handler.place)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await (call if method == "Gather" else call.read())
    assert await call.code() is StatusCode.CANCELLED
    assert len(await call.initial_metadata()) == 0
    assert not handler.reached.is_set()


@pytest.mark.parametrize("style", ["read", "iterate"])
@pytest.mark.parametrize("method", ["Tell", "Talk"])
async def test_cancelling_the_task_that_reads_cancels_the_call(mesh: Mesh, method: str, style: str) -> None:
    handler = Handler("after a message")
    stub = await mesh.serve(tell=handler.tell, talk=handler.talk)
    call = begin(stub, method, handler.place)

    async def user() -> None:
        if style == "read":
            while True:
                await call.read()
        async for _answer in call:
            pass

    task = asyncio.ensure_future(user())
    await wait(handler.reached)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.cancelled()
    await wait(handler.cancelled)
    await wait(handler.done)


async def test_cancelling_the_task_that_awaits_cancels_the_call(mesh: Mesh) -> None:
    handler = Handler("after the requests")
    call = (await mesh.serve(gather=handler.gather)).Gather([Question()])

    async def user() -> None:
        await call

    task = asyncio.ensure_future(user())
    await wait(handler.reached)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.cancelled()
    await wait(handler.cancelled)


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_cancelling_the_task_that_writes_cancels_the_call(mesh: Mesh, method: str) -> None:
    handler = Handler("before anything")
    stub = await mesh.serve(gather=handler.gather, talk=handler.talk)
    call = getattr(stub, method)()

    async def user() -> None:
        while True:
            await call.write(Question(data=bytes(100_000)))

    task = asyncio.ensure_future(user())
    await wait(handler.reached)
    await asyncio.sleep(0.2)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.cancelled()
    await wait(handler.cancelled)


async def test_cancel_ends_a_reader_and_a_writer_that_wait(mesh: Mesh) -> None:
    handler = Handler("before anything")
    call = (await mesh.serve(talk=handler.talk)).Talk()

    async def fill() -> None:
        while True:
            await call.write(Question(data=bytes(100_000)))

    reading, writing = asyncio.ensure_future(call.read()), asyncio.ensure_future(fill())
    await wait(handler.reached)
    await asyncio.sleep(0.2)
    call.cancel()
    for task in (reading, writing):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, TIMEOUT)
    await wait(handler.cancelled)


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_cancel_gives_up_the_iterator_of_requests(mesh: Mesh, method: str) -> None:
    handler = Handler("before anything")
    asked_for_more, given_up = asyncio.Event(), asyncio.Event()

    async def requests() -> AsyncIterator[Question]:
        yield Question()
        asked_for_more.set()
        try:
            await asyncio.sleep(60)
        finally:
            given_up.set()

    stub = await mesh.serve(gather=handler.gather, talk=handler.talk)
    call = getattr(stub, method)(requests())
    await wait(handler.reached)
    await wait(asked_for_more)
    call.cancel()
    await wait(given_up)
    await wait(handler.cancelled)


async def test_cancel_after_the_end_does_nothing(mesh: Mesh) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        yield Answer(text="all")

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)
    assert [answer.text async for answer in call] == ["all"]
    assert await call.code() is StatusCode.OK
    assert not call.cancel()
    assert not call.cancelled()


async def test_cancel_drops_what_was_not_read(mesh: Mesh) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        for _ in range(10):
            yield Answer()

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)
    await call.read()
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    assert await call.code() is StatusCode.CANCELLED


@pytest.mark.parametrize("method", ["Tell", "Gather", "Talk"])
async def test_closing_the_channel_cancels_its_calls(mesh: Mesh, method: str) -> None:
    handler = Handler("after a message")
    await mesh.start(tell=handler.tell, gather=handler.gather, talk=handler.talk)
    channel = mesh.channel()
    multi = {"Tell": channel.unary_stream, "Gather": channel.stream_unary, "Talk": channel.stream_stream}[method]
    call = multi(f"/probe.v1.Probe/{method}")(b"" if method == "Tell" else [b""])
    await wait(handler.reached)
    await channel.close()
    if method != "Gather":
        with suppress(asyncio.CancelledError):
            await call.read()  # the message may be lost
    with pytest.raises(asyncio.CancelledError):
        await (call if method == "Gather" else call.read())
    assert await call.code() is StatusCode.CANCELLED
    await wait(handler.cancelled)


async def test_a_cancel_reaches_the_stream_that_the_handler_reads(mesh: Mesh) -> None:
    inner = Handler("after a message")

    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        async for answer in stub.Tell(Question()):
            yield answer

    stub = await mesh.serve(tell=inner.tell, talk=talk)
    call = stub.Talk([])
    assert (await call.read()).number == 1
    call.cancel()
    await wait(inner.cancelled)
    await wait(inner.done)


async def test_one_cancelled_stream_does_not_disturb_the_others(mesh: Mesh) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        for number in range(200):
            yield Answer(number=number)
            await asyncio.sleep(0)

    stub = await mesh.serve(tell=tell)
    neighbour, call = stub.Tell(Question(), timeout=TIMEOUT), stub.Tell(Question())
    await call.read()
    await neighbour.read()
    call.cancel()
    assert [(await neighbour.read()).number for _ in range(199)] == list(range(1, 200))
