"""Callers that iterate: over the responses, and with an iterator of requests."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question


async def count(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
    for number in range(request.number):
        yield Answer(number=number)


async def add(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
    return Answer(number=sum([request.number async for request in requests]))


async def echo(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
    async for request in requests:
        yield Answer(number=request.number)


async def numbers(responses: Any) -> list[int]:
    return [answer.number async for answer in responses]


async def one_by_one(*values: int) -> AsyncIterator[Question]:
    for value in values:
        await asyncio.sleep(0)
        yield Question(number=value)


class AsyncQuestions:
    """An asynchronous iterable that is no generator."""

    def __init__(self, *values: int) -> None:
        self.values = values

    def __aiter__(self) -> AsyncIterator[Question]:
        return one_by_one(*self.values)


class Questions:
    """An iterable that is no list."""

    def __init__(self, *values: int) -> None:
        self.values = values

    def __iter__(self) -> Iterator[Question]:
        return (Question(number=value) for value in self.values)


def listed(*values: int) -> list[Question]:
    return [Question(number=value) for value in values]


def generated(*values: int) -> Iterator[Question]:
    yield from listed(*values)


EVERY_ITERATOR = pytest.mark.parametrize("made", [listed, generated, Questions, one_by_one, AsyncQuestions])


@EVERY_ITERATOR
async def test_requests_of_a_call_with_one_response(mesh: Mesh, made: Any) -> None:
    stub = await mesh.serve(gather=add)
    assert (await stub.Gather(made(1, 2, 3), timeout=TIMEOUT)).number == 6
    assert (await stub.Gather(made(), timeout=TIMEOUT)).number == 0


@EVERY_ITERATOR
async def test_requests_of_a_call_with_a_stream_of_responses(mesh: Mesh, made: Any) -> None:
    stub = await mesh.serve(talk=echo)
    assert await numbers(stub.Talk(made(1, 2, 3), timeout=TIMEOUT)) == [1, 2, 3]
    assert await numbers(stub.Talk(made(), timeout=TIMEOUT)) == []


async def test_responses_come_while_requests_are_still_given(mesh: Mesh) -> None:
    gate = asyncio.Event()

    async def requests() -> AsyncIterator[Question]:
        yield Question(number=1)
        await gate.wait()
        yield Question(number=2)

    responses = aiter((await mesh.serve(talk=echo)).Talk(requests(), timeout=TIMEOUT))
    assert (await anext(responses)).number == 1
    gate.set()
    assert (await anext(responses)).number == 2
    with pytest.raises(StopAsyncIteration):
        await anext(responses)


async def test_iterating_goes_on_where_it_was_left(mesh: Mesh) -> None:
    call = (await mesh.serve(tell=count)).Tell(Question(number=5), timeout=TIMEOUT)
    async for answer in call:
        if answer.number == 1:
            break
    assert await numbers(call) == [2, 3, 4]
    assert await numbers(call) == []
    assert await call.code() is StatusCode.OK


async def test_the_iterator_is_one(mesh: Mesh) -> None:
    call = (await mesh.serve(tell=count)).Tell(Question(number=3), timeout=TIMEOUT)
    assert aiter(call) is aiter(call)
    assert await numbers(call) == [0, 1, 2]


async def test_whoever_breaks_off_and_cancels_ends_the_call(mesh: Mesh) -> None:
    ended = asyncio.Event()

    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        try:
            number = 0
            while True:
                yield Answer(number=number)
                number += 1
        finally:
            ended.set()

    call = (await mesh.serve(tell=tell)).Tell(Question())
    async for answer in call:
        if answer.number == 3:
            break
    assert not call.done()
    assert call.cancel()
    await asyncio.wait_for(ended.wait(), TIMEOUT)
    assert await call.code() is StatusCode.CANCELLED


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_an_iterator_that_raises_cancels_the_call(mesh: Mesh, method: str, kind: str) -> None:
    reached, ended = asyncio.Event(), asyncio.Event()

    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        try:
            assert (await context.read()).number == 1
            reached.set()
            await context.read()
            await asyncio.sleep(60)  # grpc.aio ends the requests before it cancels
        except asyncio.CancelledError:
            ended.set()
            raise
        return Answer()

    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        await gather(requests, context)
        yield Answer()

    async def asynchronous() -> AsyncIterator[Question]:
        yield Question(number=1)
        await asyncio.wait_for(reached.wait(), TIMEOUT)
        raise ValueError("the file is broken")

    def synchronous() -> Iterator[Question]:
        yield Question(number=1)
        raise ValueError("the file is broken")

    stub = await mesh.serve(gather=gather, talk=talk)
    call = getattr(stub, method)(asynchronous() if kind == "async" else synchronous())
    with pytest.raises(asyncio.CancelledError):
        await (call if method == "Gather" else numbers(call))
    assert call.cancelled()
    assert await call.code() is StatusCode.CANCELLED
    if kind == "async":
        await asyncio.wait_for(ended.wait(), TIMEOUT)


async def test_what_is_not_iterable_cancels_the_call(mesh: Mesh) -> None:
    call = (await mesh.serve(gather=add)).Gather(5, timeout=TIMEOUT)
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_call_without_readers_is_made_all_the_same(mesh: Mesh) -> None:
    reached = asyncio.Event()

    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        reached.set()
        yield Answer()

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)
    await asyncio.wait_for(reached.wait(), TIMEOUT)
    call.cancel()


async def test_an_error_of_the_server_ends_the_iteration(mesh: Mesh) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        await context.abort(StatusCode.NOT_FOUND, "gone")
        yield Answer()

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)
    error = await failure(numbers(call))
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "gone")


@pytest.mark.parametrize("method", ["Tell", "Gather", "Talk"])
async def test_what_calls_are(mesh: Mesh, method: str) -> None:
    kinds: dict[str, Any] = {
        "Tell": (grpc.aio.UnaryStreamMultiCallable, grpc.aio.UnaryStreamCall),
        "Gather": (grpc.aio.StreamUnaryMultiCallable, grpc.aio.StreamUnaryCall),
        "Talk": (grpc.aio.StreamStreamMultiCallable, grpc.aio.StreamStreamCall),
    }
    stub = await mesh.serve(tell=count, gather=add, talk=echo)
    callable_type, call_type = kinds[method]
    assert isinstance(getattr(stub, method), callable_type)
    call = getattr(stub, method)(Question() if method == "Tell" else [])
    assert isinstance(call, call_type)
    assert isinstance(call, grpc.aio.Call)
    call.cancel()
