"""Handlers with streams: async generators, and coroutines that use context.read() and context.write()."""

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import EOF, ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question


async def count(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
    for number in range(request.number):
        yield Answer(number=number)


async def count_by_writing(request: Question, context: ServicerContext) -> None:
    for number in range(request.number):
        await context.write(Answer(number=number))


async def add(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
    total = 0
    async for request in requests:
        total += request.number
    return Answer(number=total)


async def add_by_reading(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
    total = 0
    while (request := await context.read()) is not EOF:
        total += request.number
    return Answer(number=total)


async def echo(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
    async for request in requests:
        yield Answer(number=request.number)


async def echo_by_reading_and_writing(requests: AsyncIterator[Question], context: ServicerContext) -> None:
    while (request := await context.read()) is not EOF:
        await context.write(Answer(number=request.number))


async def echo_by_iterating_and_writing(requests: AsyncIterator[Question], context: ServicerContext) -> None:
    async for request in requests:
        await context.write(Answer(number=request.number))


async def echo_by_reading_and_yielding(
    requests: AsyncIterator[Question], context: ServicerContext
) -> AsyncIterator[Answer]:
    while (request := await context.read()) is not EOF:
        yield Answer(number=request.number)


async def numbers(responses: Any) -> list[int]:
    return [answer.number async for answer in responses]


def questions(*values: int) -> list[Question]:
    return [Question(number=value) for value in values]


@pytest.mark.parametrize("handler", [count, count_by_writing])
@pytest.mark.parametrize("many", [0, 1, 100])
async def test_a_stream_of_responses(mesh: Mesh, handler: Any, many: int) -> None:
    stub = await mesh.serve(tell=handler)
    call = stub.Tell(Question(number=many), timeout=TIMEOUT)
    assert await numbers(call) == list(range(many))
    assert await call.code() is StatusCode.OK


@pytest.mark.parametrize("handler", [add, add_by_reading])
@pytest.mark.parametrize("values", [(), (7,), tuple(range(100))], ids=len)
async def test_a_stream_of_requests(mesh: Mesh, handler: Any, values: tuple[int, ...]) -> None:
    stub = await mesh.serve(gather=handler)
    assert (await stub.Gather(questions(*values), timeout=TIMEOUT)).number == sum(values)


@pytest.mark.parametrize(
    "handler", [echo, echo_by_reading_and_writing, echo_by_iterating_and_writing, echo_by_reading_and_yielding]
)
@pytest.mark.parametrize("values", [(), (7,), tuple(range(100))], ids=len)
async def test_streams_both_ways(mesh: Mesh, handler: Any, values: tuple[int, ...]) -> None:
    stub = await mesh.serve(talk=handler)
    call = stub.Talk(questions(*values), timeout=TIMEOUT)
    assert await numbers(call) == list(values)
    assert await call.code() is StatusCode.OK


async def test_a_generator_may_also_write(mesh: Mesh) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        yield Answer(number=1)
        await context.write(Answer(number=2))
        yield Answer(number=3)

    assert await numbers((await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)) == [1, 2, 3]


async def test_iterating_and_reading_take_turns(mesh: Mesh) -> None:
    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        read = [(await context.read()).number]
        async for request in requests:
            read.append(-request.number)
            if (request := await context.read()) is not EOF:
                read.append(request.number)
        return Answer(text=str(read))

    stub = await mesh.serve(gather=gather)
    assert (await stub.Gather(questions(1, 2, 3, 4), timeout=TIMEOUT)).text == "[1, -2, 3, -4]"


async def test_the_request_iterator_goes_on_where_it_was_left(mesh: Mesh) -> None:
    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        first = await anext(requests)
        second = 0
        async for request in requests:
            second = request.number
            break
        rest = [request.number async for request in requests]
        return Answer(text=f"{first.number} {second} {rest}")

    stub = await mesh.serve(gather=gather)
    assert (await stub.Gather(questions(1, 2, 3, 4), timeout=TIMEOUT)).text == "1 2 [3, 4]"


async def test_after_the_last_request_there_is_eof_for_ever(mesh: Mesh) -> None:
    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        while await context.read() is not EOF:
            pass
        assert await context.read() is EOF
        return Answer(text="still EOF")

    stub = await mesh.serve(gather=gather)
    assert (await stub.Gather(questions(1, 2), timeout=TIMEOUT)).text == "still EOF"


async def test_a_handler_need_not_read_its_requests(mesh: Mesh) -> None:
    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        return Answer(text="not interested")

    stub = await mesh.serve(gather=gather)
    assert (await stub.Gather(questions(1, 2, 3), timeout=TIMEOUT)).text == "not interested"


async def test_a_handler_may_read_and_write_in_two_tasks(mesh: Mesh) -> None:
    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> None:
        queue: asyncio.Queue[int | None] = asyncio.Queue()

        async def read() -> None:
            async for request in requests:
                queue.put_nowait(request.number)
            queue.put_nowait(None)

        async def write() -> None:
            while (number := await queue.get()) is not None:
                await context.write(Answer(number=number))

        await asyncio.gather(read(), write())

    stub = await mesh.serve(talk=talk)
    assert await numbers(stub.Talk(questions(*range(50)), timeout=TIMEOUT)) == list(range(50))


async def test_a_partial_of_a_coroutine_method(mesh: Mesh) -> None:
    async def gather(prefix: str, requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        return Answer(text=prefix + "".join([request.text async for request in requests]))

    async def tell(times: int, request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        for _ in range(times):
            yield Answer(text=request.text)

    stub = await mesh.serve(gather=functools.partial(gather, "> "), tell=functools.partial(tell, 2))
    assert (await stub.Gather([Question(text="a"), Question(text="b")], timeout=TIMEOUT)).text == "> ab"
    assert [answer.text async for answer in stub.Tell(Question(text="c"), timeout=TIMEOUT)] == ["c", "c"]


async def test_a_method_of_another_object(mesh: Mesh) -> None:
    class Counter:
        def __init__(self, step: int) -> None:
            self.step = step

        async def count(self, request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
            for number in range(0, request.number, self.step):
                yield Answer(number=number)

    stub = await mesh.serve(tell=Counter(5).count)
    assert await numbers(stub.Tell(Question(number=20), timeout=TIMEOUT)) == [0, 5, 10, 15]


async def test_without_serializers_messages_are_bytes(mesh: Mesh) -> None:
    async def reverse(requests: AsyncIterator[bytes], context: ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request[::-1]

    server = mesh.server()
    handlers = {"Reverse": grpc.stream_stream_rpc_method_handler(reverse)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bytes", handlers),))
    await server.start()
    call = mesh.channel().stream_stream("/Bytes/Reverse")([b"", b"ab", b"\x00c"], timeout=TIMEOUT)
    assert [response async for response in call] == [b"", b"ba", b"c\x00"]


@pytest.mark.parametrize("method", ["Tell", "Gather", "Talk"])
async def test_a_method_that_is_not_implemented(mesh: Mesh, method: str) -> None:
    stub = await mesh.serve()
    call = stub.Tell(Question(), timeout=TIMEOUT) if method == "Tell" else getattr(stub, method)(timeout=TIMEOUT)
    error = await failure(call if method == "Gather" else call.read())
    assert error.code() is StatusCode.UNIMPLEMENTED
    assert "Method not implemented!" in error.details()


@pytest.mark.parametrize("method", ["unary_stream", "stream_unary", "stream_stream"])
async def test_a_method_that_does_not_exist(mesh: Mesh, method: str) -> None:
    await mesh.start()
    multi = getattr(mesh.channel(), method)("/probe.v1.Probe/Missing")
    call = multi(b"", timeout=TIMEOUT) if method == "unary_stream" else multi(timeout=TIMEOUT)
    error = await failure(call if method == "stream_unary" else call.read())
    assert error.code() is StatusCode.UNIMPLEMENTED


async def test_a_message_that_cannot_be_serialized(mesh: Mesh) -> None:
    gate = asyncio.Event()

    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Any]:
        yield Answer(number=1)
        await gate.wait()
        yield "this is no message"

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)
    assert (await call.read()).number == 1
    gate.set()
    assert (await failure(call.read())).code() is StatusCode.UNKNOWN
