"""Who ends what first: half-closes, servers that answer early, errors in the middle."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import EOF, ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs
from tests.protos.probe_pb2 import Answer, Question


async def test_the_client_half_closes_first(mesh: Mesh) -> None:
    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        total = sum([request.number async for request in requests])
        for number in range(total):
            yield Answer(number=number)

    call = (await mesh.serve(talk=talk)).Talk([Question(number=2), Question(number=3)], timeout=TIMEOUT)
    assert [answer.number async for answer in call] == [0, 1, 2, 3, 4]


async def test_the_server_has_said_all_before_the_client_half_closes(mesh: Mesh) -> None:
    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        yield Answer(text="all")
        async for _request in requests:
            pass

    call = (await mesh.serve(talk=talk)).Talk(timeout=TIMEOUT)
    assert (await call.read()).text == "all"
    await call.write(Question())
    await asyncio.sleep(0.05)
    assert not call.done()
    await call.done_writing()
    assert await call.read() is EOF
    assert await call.code() is StatusCode.OK


async def test_a_half_close_does_not_end_the_responses(mesh: Mesh) -> None:
    gate = asyncio.Event()

    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        async for _request in requests:
            pass
        yield Answer(number=1)
        await gate.wait()
        yield Answer(number=2)

    call = (await mesh.serve(talk=talk)).Talk(timeout=TIMEOUT)
    await call.done_writing()
    assert (await call.read()).number == 1
    gate.set()
    assert (await call.read()).number == 2
    assert await call.read() is EOF


async def test_the_server_answers_before_the_client_is_done(mesh: Mesh) -> None:
    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        return Answer(text=(await context.read()).text)

    call = (await mesh.serve(gather=gather)).Gather(timeout=TIMEOUT)
    await call.write(Question(text="enough"))
    assert (await call).text == "enough"
    assert await call.code() is StatusCode.OK
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(Question())


def surprised(mesh: Mesh, code: StatusCode) -> set[StatusCode]:
    """The codes that a call may end with whose server ended it with `code` while the client wrote."""
    return {code} if mesh.tells_writers_why else {code, StatusCode.INTERNAL}


EARLY = pytest.mark.parametrize("code", [StatusCode.OK, StatusCode.NOT_FOUND], ids=lambda code: code.name)


async def write_on(call: Any, size: int) -> None:
    """Writes until it is told that the call is over."""
    with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        while True:
            await call.write(Question(data=bytes(size)))
            await asyncio.sleep(0)


@EARLY
async def test_the_server_answers_while_the_client_still_writes(mesh: Mesh, code: StatusCode) -> None:
    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        await context.read()
        if code is not StatusCode.OK:
            await context.abort(code, "enough")
        return Answer(text="enough")

    call = (await mesh.serve(gather=gather)).Gather(timeout=TIMEOUT)
    await write_on(call, 1000)
    assert await call.code() in surprised(mesh, code)


@EARLY
async def test_the_server_ends_a_conversation_while_the_client_still_writes(mesh: Mesh, code: StatusCode) -> None:
    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        await context.read()
        yield Answer(text="enough")
        if code is not StatusCode.OK:
            await context.abort(code, "enough")

    call = (await mesh.serve(talk=talk)).Talk(timeout=TIMEOUT)
    await call.write(Question())
    assert (await call.read()).text == "enough"
    await write_on(call, 1000)
    assert await call.code() in surprised(mesh, code)


@EARLY
async def test_an_endless_iterator_of_requests_ends_with_the_call(mesh: Mesh, code: StatusCode) -> None:
    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        await context.read()
        yield Answer(text="enough")
        if code is not StatusCode.OK:
            await context.abort(code, "enough")

    async def endless() -> AsyncIterator[Question]:
        while True:
            yield Question(data=bytes(1000))

    call = (await mesh.serve(talk=talk)).Talk(endless(), timeout=TIMEOUT)
    with suppress(grpc.aio.AioRpcError):
        assert [answer.text async for answer in call] == ["enough"]
    assert await call.code() in surprised(mesh, code)


async def test_a_writer_that_waits_for_room_hears_of_the_end(mesh: Mesh) -> None:
    gate = asyncio.Event()

    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        await gate.wait()
        await context.abort(StatusCode.RESOURCE_EXHAUSTED, "too much")

    call = (await mesh.serve(gather=gather)).Gather(timeout=TIMEOUT)
    writing = asyncio.ensure_future(write_on(call, 100_000))
    await asyncio.sleep(0.3)
    assert not writing.done()
    gate.set()
    await asyncio.wait_for(writing, TIMEOUT)
    assert (await failure(call)).code() in surprised(mesh, StatusCode.RESOURCE_EXHAUSTED)


@pytest.mark.parametrize("how", ["abort", "set_code", "raise"])
@pytest.mark.parametrize("method", ["Tell", "Talk"])
async def test_an_error_in_the_middle_comes_after_the_messages_before_it(mesh: Mesh, method: str, how: str) -> None:
    gate = asyncio.Event()

    async def tell(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        for number in range(3):
            yield Answer(number=number)
        await gate.wait()
        context.set_trailing_metadata((("end", "1"),))
        if how == "abort":
            await context.abort(StatusCode.ABORTED, "half way")
        elif how == "raise":
            raise ValueError("secret")
        context.set_code(StatusCode.ABORTED)
        context.set_details("half way")

    stub = await mesh.serve(tell=tell, talk=tell)
    call = stub.Tell(Question(), timeout=TIMEOUT) if method == "Tell" else stub.Talk(timeout=TIMEOUT)
    assert [(await call.read()).number for _ in range(3)] == [0, 1, 2]
    gate.set()
    error = await failure(call.read())
    if how == "raise":
        assert error.code() is StatusCode.UNKNOWN
        assert ("secret" in error.details()) == mesh.shows_exceptions
    else:
        assert (error.code(), error.details()) == (StatusCode.ABORTED, "half way")
    assert pairs(error.trailing_metadata()) == pairs(await call.trailing_metadata()) == [("end", "1")]


@pytest.mark.parametrize("how", ["abort", "set_code", "raise"])
async def test_an_error_before_any_message(mesh: Mesh, how: str) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        if how == "abort":
            await context.abort(StatusCode.NOT_FOUND, "gone")
        elif how == "raise":
            raise ValueError("secret")
        else:
            context.set_code(StatusCode.NOT_FOUND)
            context.set_details("gone")
            return
        yield Answer()

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)
    error = await failure(call.read())
    assert error.code() is (StatusCode.UNKNOWN if how == "raise" else StatusCode.NOT_FOUND)


async def test_an_abort_that_is_swallowed_counts(mesh: Mesh) -> None:
    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        with suppress(grpc.aio.AbortError):
            await context.abort(StatusCode.NOT_FOUND, "gone")
        yield Answer(text="all is well")

    call = (await mesh.serve(talk=talk)).Talk(timeout=TIMEOUT)
    error = await failure(call.read())
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "gone")


async def test_after_an_abort_nothing_can_be_written_or_read(mesh: Mesh) -> None:
    raised: asyncio.Queue[Any] = asyncio.Queue()

    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> None:
        with suppress(grpc.aio.AbortError):
            await context.abort(StatusCode.NOT_FOUND, "gone")
        for attempt in (context.write(Answer()), context.read(), context.send_initial_metadata((("a", "b"),))):
            with pytest.raises(grpc.aio.AbortError) as caught:
                await attempt
            raised.put_nowait(caught.value)

    call = (await mesh.serve(talk=talk)).Talk(timeout=TIMEOUT)
    assert (await failure(call.read())).details() == "gone"
    for _ in range(3):
        assert isinstance(await asyncio.wait_for(raised.get(), TIMEOUT), grpc.aio.AbortError)
