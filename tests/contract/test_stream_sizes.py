"""Streams of large messages, of many messages, and many streams."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import EOF, AioRpcError, ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question
from tests.protos.probe_pb2_grpc import ProbeStub

MEGABYTE = 1 << 20
MANY = 10_000
UNLIMITED = [("grpc.max_receive_message_length", -1)]


async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
    """Answers `number` times with the data."""
    for number in range(request.number):
        yield Answer(number=number, data=request.data)


async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
    """Answers with the size of all data, and with the last of them."""
    total, last = 0, b""
    async for request in requests:
        total += len(request.data)
        last = request.data
    return Answer(number=total, data=last)


async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
    async for request in requests:
        yield Answer(number=request.number, data=request.data)


HANDLERS: dict[str, Any] = {"tell": tell, "gather": gather, "talk": talk}


async def numbered(many: int) -> AsyncIterator[Question]:
    for number in range(many):
        yield Question(number=number)


async def test_five_megabytes_pass_where_both_ends_allow_it(mesh: Mesh) -> None:
    await mesh.start(**HANDLERS, options=UNLIMITED)
    stub = ProbeStub(mesh.channel(options=UNLIMITED))
    data = [os.urandom(5 * MEGABYTE), b"small", os.urandom(5 * MEGABYTE + 1)]
    assert [a.data async for a in stub.Tell(Question(data=data[0], number=2), timeout=30)] == [data[0]] * 2
    answer = await stub.Gather([Question(data=one) for one in data], timeout=30)
    assert (answer.number, answer.data) == (sum(map(len, data)), data[-1])
    assert [a.data async for a in stub.Talk([Question(data=one) for one in data], timeout=30)] == data


async def test_three_megabytes_pass_anyway(mesh: Mesh) -> None:
    stub = await mesh.serve(**HANDLERS)
    data = os.urandom(3 * MEGABYTE)
    assert [a.data async for a in stub.Talk([Question(data=data)] * 2, timeout=30)] == [data] * 2


async def test_a_response_over_the_clients_limit(mesh: Mesh) -> None:
    gate = asyncio.Event()

    async def telling(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        yield Answer(text="small")
        await gate.wait()
        yield Answer(data=bytes(5 * MEGABYTE))
        yield Answer(text="small")

    stub = await mesh.serve(tell=telling)
    call = stub.Tell(Question(), timeout=TIMEOUT)
    assert (await call.read()).text == "small"
    gate.set()
    error = await failure(call.read())
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_a_request_over_the_servers_limit(mesh: Mesh, method: str) -> None:
    stub = await mesh.serve(**HANDLERS)
    call = getattr(stub, method)(timeout=TIMEOUT)
    with suppress(AioRpcError):  # depending on who is faster
        await call.write(Question(data=bytes(5 * MEGABYTE)))
    assert await call.code() is StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in await call.details()
    assert (await stub.Gather([Question(data=b"small")], timeout=TIMEOUT)).number == 5


async def test_many_messages_arrive_in_order(mesh: Mesh) -> None:
    stub = await mesh.serve(**HANDLERS)
    assert [answer.number async for answer in stub.Tell(Question(number=MANY), timeout=30)] == list(range(MANY))
    assert [answer.number async for answer in stub.Talk(numbered(1000), timeout=30)] == list(range(1000))


async def test_many_requests_arrive_in_order(mesh: Mesh) -> None:
    async def gathering(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        expected = 0
        async for request in requests:
            assert request.number == expected
            expected += 1
        return Answer(number=expected)

    stub = await mesh.serve(gather=gathering)
    assert (await stub.Gather(numbered(MANY), timeout=30)).number == MANY


async def test_messages_of_all_sizes_arrive_in_order(mesh: Mesh) -> None:
    sizes = [0, 1, 100, 1000, 16_000, 70_000, 300_000, 1_000_000, 5, 0, 40_000]
    data = [os.urandom(size) for size in sizes]
    stub = await mesh.serve(**HANDLERS)
    assert [answer.data async for answer in stub.Talk([Question(data=one) for one in data], timeout=30)] == data


async def test_a_slow_reader_holds_the_writer_up(mesh: Mesh) -> None:
    written = 0

    async def telling(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        nonlocal written
        for _ in range(200):
            yield Answer(data=bytes(100_000))
            written += 1

    call = (await mesh.serve(tell=telling)).Tell(Question(), timeout=30)
    await call.read()
    await asyncio.sleep(0.2)
    assert written < 100  # some are on their way, but not all
    received = 1
    while await call.read() is not EOF:
        received += 1
    assert received == written == 200


async def test_a_slow_server_holds_the_client_up(mesh: Mesh) -> None:
    gate = asyncio.Event()

    async def gathering(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        await gate.wait()
        return Answer(number=len([None async for _request in requests]))

    call = (await mesh.serve(gather=gathering)).Gather(timeout=30)
    written = 0

    async def write() -> None:
        nonlocal written
        for _ in range(200):
            await call.write(Question(data=bytes(100_000)))
            written += 1
        await call.done_writing()

    writing = asyncio.ensure_future(write())
    await asyncio.sleep(0.2)
    assert written < 100
    gate.set()
    await writing
    assert (await call).number == written == 200


async def test_a_hundred_streams_at_once(mesh: Mesh) -> None:
    stub = await mesh.serve(**HANDLERS)

    async def converse(which: int) -> list[int]:
        call = stub.Talk(timeout=30)
        numbers = []
        for number in range(5):
            await call.write(Question(number=which * 100 + number))
            numbers.append((await call.read()).number)
        await call.done_writing()
        assert await call.read() is EOF
        return numbers

    conversations = await asyncio.gather(*(converse(which) for which in range(100)))
    assert conversations == [[which * 100 + number for number in range(5)] for which in range(100)]


async def test_streams_that_nobody_reads_do_not_hold_up_others(mesh: Mesh) -> None:
    stub = await mesh.serve(**HANDLERS)
    idle = [stub.Tell(Question(number=1000, data=bytes(10_000)), timeout=30) for _ in range(10)]
    for call in idle:
        await call.read()
    assert len([answer async for answer in stub.Tell(Question(number=100), timeout=TIMEOUT)]) == 100
    assert (await stub.Gather(numbered(100), timeout=TIMEOUT)).number == 0
    for call in idle:
        call.cancel()
