"""What calls with streams do beyond grpc.aio, or otherwise (what is the same, tests/contract tests)."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc import Compression, StatusCode

import rpc
from rpc.testing import MemoryMesh, MemoryMessage
from tests.protos.probe_pb2 import Answer, Question
from tests.unit.streaming import TIMEOUT, Endless, Serve, failure, serving


@pytest.fixture
async def serve(memory_mesh: MemoryMesh) -> AsyncIterator[Serve]:
    async with serving(memory_mesh) as start:
        yield start


# --------------------------------------------------------------------------------------------------------- forgotten


@pytest.mark.parametrize("how", ["iterate", "read"])
async def test_a_call_that_is_forgotten_is_cancelled(serve: Serve, how: str) -> None:
    endless = Endless()
    stub = await serve(Tell=endless)

    async def first() -> int:
        call = stub.Tell(Question())
        if how == "read":
            return (await call.read()).number
        async for answer in call:
            return answer.number
        return -1

    assert await first() == 0
    await asyncio.wait_for(endless.ended.wait(), TIMEOUT)


async def test_a_call_that_is_forgotten_in_a_cycle_is_cancelled(serve: Serve) -> None:
    endless = Endless()
    call = (await serve(Tell=endless)).Tell(Question())
    assert (await call.read()).number == 0
    call.me = call
    del call
    gc.collect()
    await asyncio.wait_for(endless.ended.wait(), TIMEOUT)


async def test_a_call_whose_requests_are_still_sent_is_not_forgotten(serve: Serve) -> None:
    received = asyncio.Event()

    async def gather(requests: AsyncIterator[Question], context: Any) -> Answer:
        assert [request.number async for request in requests] == [0, 1, 2]
        received.set()
        return Answer()

    async def requests() -> AsyncIterator[Question]:
        for number in range(3):
            await asyncio.sleep(0.01)
            gc.collect()
            yield Question(number=number)

    (await serve(Gather=gather)).Gather(requests())
    await asyncio.wait_for(received.wait(), TIMEOUT)


async def test_a_call_that_has_sent_all_requests_comes_to_its_end_though_forgotten(serve: Serve) -> None:
    ended: asyncio.Queue[bool] = asyncio.Queue()

    async def gather(requests: AsyncIterator[Question], context: grpc.aio.ServicerContext) -> Answer:
        context.add_done_callback(lambda context: ended.put_nowait(context.cancelled()))
        answer = Answer(number=len([None async for _request in requests]))
        await asyncio.sleep(0.05)
        gc.collect()
        return answer

    (await serve(Gather=gather)).Gather([Question()] * 3)
    assert not await asyncio.wait_for(ended.get(), TIMEOUT)


async def test_a_call_that_is_forgotten_while_requests_are_written_is_cancelled(serve: Serve) -> None:
    ended = asyncio.Event()

    async def gather(requests: AsyncIterator[Question], context: grpc.aio.ServicerContext) -> Answer:
        context.add_done_callback(lambda _context: ended.set())
        return Answer(number=len([None async for _request in requests]))

    stub = await serve(Gather=gather)

    async def write() -> None:
        await stub.Gather().write(Question())

    await write()
    await asyncio.wait_for(ended.wait(), TIMEOUT)


async def test_the_iterator_of_requests_is_given_up_when_the_server_has_answered(serve: Serve) -> None:
    given_up = asyncio.Event()

    async def requests() -> AsyncIterator[Question]:
        yield Question(text="enough")
        try:
            await asyncio.sleep(60)
        finally:
            given_up.set()

    async def gather(requests: AsyncIterator[Question], context: Any) -> Answer:
        return Answer(text=(await anext(requests)).text)

    assert (await (await serve(Gather=gather)).Gather(requests(), timeout=TIMEOUT)).text == "enough"
    await asyncio.wait_for(given_up.wait(), TIMEOUT)


# ------------------------------------------------------------------------------------------------------------ messages


@pytest.mark.parametrize("how", ["abort", "raise", "unserializable"])
async def test_all_messages_before_an_error_arrive(serve: Serve, how: str) -> None:
    async def tell(request: Question, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        for number in range(1000):
            yield Answer(number=number)
        if how == "abort":
            await context.abort(StatusCode.ABORTED, "half way")
        elif how == "raise":
            raise ValueError
        yield "no message"

    call = (await serve(Tell=tell)).Tell(Question(), timeout=TIMEOUT)
    assert [(await call.read()).number for _ in range(1000)] == list(range(1000))
    assert (await failure(call.read())).code() is (StatusCode.ABORTED if how == "abort" else StatusCode.UNKNOWN)


@pytest.mark.parametrize("how", ["iterator", "write"])
async def test_a_request_that_cannot_be_serialized_ends_the_call(serve: Serve, how: str) -> None:
    ended = asyncio.Event()

    async def gather(requests: AsyncIterator[Question], context: grpc.aio.ServicerContext) -> Answer:
        context.add_done_callback(lambda _context: ended.set())
        return Answer(number=len([None async for _request in requests]))

    stub = await serve(Gather=gather)
    if how == "iterator":
        call = stub.Gather(iter([Question(), "no message"]), timeout=TIMEOUT)
    else:
        call = stub.Gather(timeout=TIMEOUT)
        await call.write(Question())
        assert (await failure(call.write("no message"))).code() is StatusCode.INTERNAL
    error = await failure(call)
    assert (error.code(), error.details()) == (StatusCode.INTERNAL, "Exception serializing request!")


async def test_a_request_of_a_stream_of_responses_that_cannot_be_serialized(serve: Serve) -> None:
    error = await failure((await serve(Tell=Endless())).Tell("no message", timeout=TIMEOUT).read())
    assert (error.code(), error.details()) == (StatusCode.INTERNAL, "Exception serializing request!")


async def test_a_response_that_cannot_be_deserialized_ends_the_call(memory_mesh: MemoryMesh, serve: Serve) -> None:
    async def tell(request: Question, context: Any) -> AsyncIterator[Answer]:
        yield Answer(text="last")

    await serve(Tell=tell)
    async with rpc.Channel(memory_mesh.connection()) as channel:
        call = channel.unary_stream("/probe.v1.Probe/Tell", Question.SerializeToString, int)(Question())
        error = await failure(call.read())
        assert (error.code(), error.details()) == (StatusCode.INTERNAL, "Exception deserializing response!")
        assert await call.code() is StatusCode.INTERNAL


# ------------------------------------------------------------------------------------------------------------- threads


async def test_a_generator_in_a_thread_is_closed_when_its_call_ends(serve: Serve) -> None:
    closed = threading.Event()

    def tell(request: Question, context: grpc.ServicerContext) -> Iterator[Answer]:
        try:
            while True:
                yield Answer()
        finally:
            closed.set()

    with ThreadPoolExecutor(1) as pool:
        stub = await serve(Tell=tell, server={"migration_thread_pool": pool})
        for end in ("cancel", "deadline"):
            closed.clear()
            call = stub.Tell(Question(), timeout=0.2 if end == "deadline" else None)
            await call.read()
            if end == "cancel":
                call.cancel()
            assert await asyncio.to_thread(closed.wait, TIMEOUT)


async def test_a_coroutine_method_may_be_a_callable_object(serve: Serve) -> None:
    class Gather:
        async def __call__(self, requests: AsyncIterator[Question], context: Any) -> Answer:
            return Answer(number=len([None async for _request in requests]))

    assert (await (await serve(Gather=Gather())).Gather([Question()] * 3, timeout=TIMEOUT)).number == 3


# --------------------------------------------------------------------------------------------------------- compression


@pytest.mark.parametrize(
    ("channel", "call", "server", "handler", "request_is_small", "response_is_small"),
    [
        (None, None, None, None, False, False),
        (Compression.Gzip, None, None, None, True, True),
        (None, Compression.Gzip, None, None, True, True),
        (None, Compression.Deflate, None, None, True, True),
        (Compression.Gzip, Compression.NoCompression, None, None, False, False),
        (None, None, Compression.Gzip, None, False, True),
        (Compression.Gzip, None, Compression.NoCompression, None, True, False),
        (None, None, None, Compression.Gzip, False, True),
        (Compression.Gzip, None, Compression.Gzip, Compression.NoCompression, True, False),
    ],
)
@pytest.mark.parametrize("method", ["Ask", "Talk"])
async def test_where_messages_are_compressed(
    memory_mesh: MemoryMesh,
    serve: Serve,
    method: str,
    channel: Compression | None,
    call: Compression | None,
    server: Compression | None,
    handler: Compression | None,
    request_is_small: bool,
    response_is_small: bool,
) -> None:
    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        if handler is not None:
            context.set_compression(handler)
        return Answer(data=request.data)

    async def talk(requests: AsyncIterator[Question], context: grpc.aio.ServicerContext) -> AsyncIterator[Answer]:
        async for request in requests:
            yield await ask(request, context)

    sizes = {"request": 0, "response": 0}

    def measure(message: MemoryMessage) -> int:
        inbound = message.subject.startswith(("rpc.", "inst."))
        sizes["request" if inbound else "response"] += len(message.data)
        return 1

    stub = await serve(Ask=ask, Talk=talk, channel={"compression": channel}, server={"compression": server})
    memory_mesh.fault = measure
    question = Question(data=bytes(100_000))
    if method == "Ask":
        await stub.Ask(question, timeout=TIMEOUT, compression=call)
    else:
        assert len([answer async for answer in stub.Talk([question], timeout=TIMEOUT, compression=call)]) == 1
    assert (sizes["request"] < 10_000) == request_is_small
    assert (sizes["response"] < 10_000) == response_is_small


async def test_one_message_may_go_uncompressed(memory_mesh: MemoryMesh, serve: Serve) -> None:
    async def tell(request: Question, context: grpc.aio.ServicerContext) -> AsyncIterator[Answer]:
        for number in range(3):
            if number == 1:
                context.disable_next_message_compression()
            yield Answer(data=bytes(100_000))

    size = 0

    def measure(message: MemoryMessage) -> int:
        nonlocal size
        size += len(message.data)
        return 1

    stub = await serve(Tell=tell, server={"compression": Compression.Gzip})
    memory_mesh.fault = measure
    assert len([answer async for answer in stub.Tell(Question(), timeout=TIMEOUT)]) == 3
    assert 100_000 < size < 110_000
