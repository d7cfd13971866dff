"""Callers that use read(), write() and done_writing()."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import EOF, ServicerContext, UsageError

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


async def test_read_gives_the_responses_and_then_eof(mesh: Mesh) -> None:
    call = (await mesh.serve(tell=count)).Tell(Question(number=3), timeout=TIMEOUT)
    assert [(await call.read()).number for _ in range(3)] == [0, 1, 2]
    assert await call.read() is EOF
    assert await call.read() is EOF
    assert await call.code() is StatusCode.OK
    assert await call.read() is EOF


async def test_read_of_an_empty_stream(mesh: Mesh) -> None:
    call = (await mesh.serve(tell=count)).Tell(Question(), timeout=TIMEOUT)
    assert await call.read() is EOF


async def test_a_call_is_not_over_before_its_responses_are_read(mesh: Mesh) -> None:
    call = (await mesh.serve(tell=count)).Tell(Question(number=3), timeout=TIMEOUT)
    assert (await call.read()).number == 0
    await asyncio.sleep(0.1)
    assert not call.done()
    while not call.done():
        last = await call.read()
    assert last is EOF


async def test_write_and_await_the_response(mesh: Mesh) -> None:
    call = (await mesh.serve(gather=add)).Gather(timeout=TIMEOUT)
    for number in (1, 2, 3):
        assert await call.write(Question(number=number)) is None
    await call.done_writing()
    assert (await call).number == 6
    assert await call.code() is StatusCode.OK


async def test_a_stream_of_no_requests(mesh: Mesh) -> None:
    call = (await mesh.serve(gather=add)).Gather(timeout=TIMEOUT)
    await call.done_writing()
    assert (await call).number == 0


async def test_ping_pong(mesh: Mesh) -> None:
    call = (await mesh.serve(talk=echo)).Talk(timeout=TIMEOUT)
    for number in range(20):
        await call.write(Question(number=number))
        assert (await call.read()).number == number
    await call.done_writing()
    assert await call.read() is EOF
    assert await call.code() is StatusCode.OK


async def test_all_written_before_anything_is_read(mesh: Mesh) -> None:
    call = (await mesh.serve(talk=echo)).Talk(timeout=TIMEOUT)
    for number in range(20):
        await call.write(Question(number=number))
    await call.done_writing()
    assert [(await call.read()).number for _ in range(20)] == list(range(20))
    assert await call.read() is EOF


async def test_reading_and_writing_in_two_tasks(mesh: Mesh) -> None:
    call = (await mesh.serve(talk=echo)).Talk(timeout=TIMEOUT)
    received: list[int] = []

    async def read() -> None:
        while (answer := await call.read()) is not EOF:
            received.append(answer.number)

    reading = asyncio.ensure_future(read())
    for number in range(50):
        await call.write(Question(number=number))
    await call.done_writing()
    await asyncio.wait_for(reading, TIMEOUT)
    assert received == list(range(50))


async def test_writing_may_be_mixed_with_iterating_over_the_responses(mesh: Mesh) -> None:
    call = (await mesh.serve(talk=echo)).Talk(timeout=TIMEOUT)
    await call.write(Question(number=1))
    await call.done_writing()
    assert [answer.number async for answer in call] == [1]


async def test_reading_may_be_mixed_with_an_iterator_of_requests(mesh: Mesh) -> None:
    call = (await mesh.serve(talk=echo)).Talk([Question(number=1)], timeout=TIMEOUT)
    assert (await call.read()).number == 1
    assert await call.read() is EOF


async def test_done_writing_may_be_repeated(mesh: Mesh) -> None:
    stub = await mesh.serve(gather=add, talk=echo)
    gather, talk = stub.Gather(timeout=TIMEOUT), stub.Talk(timeout=TIMEOUT)
    for _ in range(2):
        await gather.done_writing()
        await talk.done_writing()
    assert (await gather).number == 0
    await gather.done_writing()
    assert await talk.read() is EOF
    await talk.done_writing()


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_write_after_done_writing(mesh: Mesh, method: str) -> None:
    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        await gate.wait()
        return Answer()

    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        await gate.wait()
        yield Answer()

    gate = asyncio.Event()
    call = getattr(await mesh.serve(gather=gather, talk=talk), method)(timeout=TIMEOUT)
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError, match='RPC is half closed after calling "done_writing"'):
        await call.write(Question())
    gate.set()
    assert await (call if method == "Gather" else call.read()) == Answer()


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_write_after_the_end(mesh: Mesh, method: str) -> None:
    call = getattr(await mesh.serve(gather=add, talk=echo), method)(timeout=TIMEOUT)
    await call.done_writing()
    await (call if method == "Gather" else call.read())
    assert await call.code() is StatusCode.OK
    with pytest.raises(asyncio.InvalidStateError, match="RPC already finished"):
        await call.write(Question())


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_write_after_an_error(mesh: Mesh, method: str) -> None:
    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        await context.abort(StatusCode.NOT_FOUND, "gone")

    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        await context.abort(StatusCode.NOT_FOUND, "gone")
        yield Answer()

    call = getattr(await mesh.serve(gather=gather, talk=talk), method)(timeout=TIMEOUT)
    assert await call.code() is StatusCode.NOT_FOUND
    with pytest.raises(asyncio.InvalidStateError, match="RPC already finished"):
        await call.write(Question())
    await call.done_writing()
    assert (await failure(call if method == "Gather" else call.read())).details() == "gone"


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_write_after_a_cancel(mesh: Mesh, method: str) -> None:
    call = getattr(await mesh.serve(gather=add, talk=echo), method)()
    await call.write(Question())
    call.cancel()
    with pytest.raises(asyncio.InvalidStateError, match="RPC already finished"):
        await call.write(Question())
    await call.done_writing()


@pytest.mark.parametrize("method", ["Tell", "Talk"])
async def test_read_after_a_cancel(mesh: Mesh, method: str) -> None:
    stub = await mesh.serve(tell=count, talk=echo)
    call = stub.Tell(Question(number=1)) if method == "Tell" else stub.Talk()
    call.cancel()
    for _ in range(2):
        with pytest.raises(asyncio.CancelledError):
            await call.read()


@pytest.mark.parametrize("method", ["Tell", "Talk"])
async def test_read_after_an_error_raises_it_again(mesh: Mesh, method: str) -> None:
    async def tell(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        await context.abort(StatusCode.NOT_FOUND, "gone")
        yield Answer()

    stub = await mesh.serve(tell=tell, talk=tell)
    call = stub.Tell(Question(), timeout=TIMEOUT) if method == "Tell" else stub.Talk(timeout=TIMEOUT)
    for _ in range(2):
        assert (await failure(call.read())).code() is StatusCode.NOT_FOUND


async def test_iterating_and_reading_do_not_mix(mesh: Mesh) -> None:
    stub = await mesh.serve(tell=count, talk=echo)
    for call in (stub.Tell(Question(number=3), timeout=TIMEOUT), stub.Talk([Question()] * 3, timeout=TIMEOUT)):
        async for _answer in call:
            with pytest.raises(UsageError, match="may not be mixed"):
                await call.read()
        assert await call.read() is EOF  # after the end it does no harm
    for call in (stub.Tell(Question(number=3), timeout=TIMEOUT), stub.Talk([Question()] * 3, timeout=TIMEOUT)):
        await call.read()
        with pytest.raises(UsageError, match="may not be mixed"):
            aiter(call)
        call.cancel()


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_an_iterator_of_requests_and_writing_do_not_mix(mesh: Mesh, method: str) -> None:
    stub = await mesh.serve(gather=add, talk=echo)
    call = getattr(stub, method)([Question(number=1)], timeout=TIMEOUT)
    for _ in range(2):
        with pytest.raises(UsageError, match="may not be mixed"):
            await call.write(Question())
        with pytest.raises(UsageError, match="may not be mixed"):
            await call.done_writing()
        assert (await (call if method == "Gather" else call.read())) in (Answer(number=1), EOF)
    await call.code()
