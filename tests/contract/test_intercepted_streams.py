"""Streams behind client interceptors: how their users read, write and cancel; what interceptors make of them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import EOF, ClientCallDetails, ServicerContext

from tests.contract.interceptors import EVERY, HANDLERS, begin, intercepting, passing, said, texts
from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question

RESPONSES = pytest.mark.parametrize("method", ["Tell", "Talk"])


@pytest.mark.parametrize("method", ["Tell", "Talk"])
async def test_read(mesh: Mesh, method: str) -> None:
    await mesh.start(**HANDLERS)
    call = begin(mesh.stub(intercepting(method, passing)), method, "ab")
    assert [(await call.read()).text for _ in range(2)] == ["a[]", "b[]"]
    assert await call.read() is EOF
    assert await call.read() is EOF
    assert await call.code() is StatusCode.OK


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_write_and_done_writing(mesh: Mesh, method: str) -> None:
    await mesh.start(**HANDLERS)
    call = getattr(mesh.stub(intercepting(method, passing)), method)(timeout=TIMEOUT)
    await call.write(Question(text="a"))
    await call.write(Question(text="b"))
    await call.done_writing()
    assert await texts(call, method) == said(method, "a", "b")
    with pytest.raises(asyncio.InvalidStateError, match="already finished"):
        await call.write(Question())
    await call.done_writing()


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_write_after_done_writing(mesh: Mesh, method: str) -> None:
    gate = asyncio.Event()

    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        await gate.wait()
        return Answer()

    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        yield await gather(requests, context)

    await mesh.start(gather=gather, talk=talk)
    call = getattr(mesh.stub(intercepting(method, passing)), method)(timeout=TIMEOUT)
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError, match="half closed"):
        await call.write(Question())
    gate.set()
    await texts(call, method)


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_write_does_not_mix_with_an_iterator(mesh: Mesh, method: str) -> None:
    await mesh.start(**HANDLERS)
    call = begin(mesh.stub(intercepting(method, passing)), method, "a")
    with pytest.raises(grpc.aio.UsageError):
        await call.write(Question())
    with pytest.raises(grpc.aio.UsageError):
        await call.done_writing()
    assert await texts(call, method) == said(method, "a")


async def test_a_conversation(mesh: Mesh) -> None:
    async def echo(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        async for request in requests:
            yield Answer(text=request.text)

    await mesh.start(talk=echo)
    call = mesh.stub(intercepting("Talk", passing, passing)).Talk(timeout=TIMEOUT)
    for letter in "abc":
        await call.write(Question(text=letter))
        assert (await call.read()).text == letter
    await call.done_writing()
    assert await call.read() is EOF


@EVERY
async def test_done_callbacks_get_the_outer_call(mesh: Mesh, method: str) -> None:
    called: asyncio.Queue[Any] = asyncio.Queue()
    await mesh.start(**HANDLERS)
    call = begin(mesh.stub(intercepting(method, passing)), method, "a")
    call.add_done_callback(called.put_nowait)
    await texts(call, method)
    await call.code()
    assert await asyncio.wait_for(called.get(), TIMEOUT) is call
    call.add_done_callback(called.put_nowait)
    assert await asyncio.wait_for(called.get(), TIMEOUT) is call


@EVERY
async def test_wait_for_connection(mesh: Mesh, method: str) -> None:
    await mesh.start(**HANDLERS)
    call = begin(mesh.stub(intercepting(method, passing)), method, "a")
    await asyncio.wait_for(call.wait_for_connection(), TIMEOUT)
    assert await texts(call, method) == said(method, "a")


# ------------------------------------------------------------------------------------------- what interceptors make


async def shouting(continuation: Any, details: ClientCallDetails, request: Any) -> Any:
    """Puts an iterator of its own around the responses."""
    call = await continuation(details, request)

    async def responses() -> AsyncIterator[Answer]:
        async for answer in call:
            yield Answer(text=answer.text + "!")

    return responses()


@RESPONSES
async def test_one_may_wrap_the_responses(mesh: Mesh, method: str) -> None:
    await mesh.start(**HANDLERS)
    stub = mesh.stub(intercepting(method, passing, shouting))
    call = begin(stub, method, "ab")
    assert await texts(call, method) == ["a[]!", "b[]!"]
    assert await call.code() is StatusCode.OK
    assert await call.details() == ""
    assert dict(await call.trailing_metadata())["end"] == "2"
    assert call.done()
    assert not call.cancelled()
    call = begin(stub, method, "ab")
    assert [(await call.read()).text for _ in range(2)] == ["a[]!", "b[]!"]
    assert await call.read() is EOF


@RESPONSES
async def test_several_may_wrap_the_responses(mesh: Mesh, method: str) -> None:
    await mesh.start(**HANDLERS)
    call = begin(mesh.stub(intercepting(method, shouting, shouting)), method, "ab")
    assert await texts(call, method) == ["a[]!!", "b[]!!"]
    assert await call.code() is StatusCode.OK


async def test_writing_to_a_call_whose_responses_are_wrapped(mesh: Mesh) -> None:
    await mesh.start(**HANDLERS)
    call = mesh.stub(intercepting("Talk", shouting)).Talk(timeout=TIMEOUT)
    await call.write(Question(text="a"))
    await call.done_writing()
    assert await texts(call, "Talk") == ["a[]!"]
    assert await call.code() is StatusCode.OK


@RESPONSES
async def test_an_error_passes_through_wrapped_responses(mesh: Mesh, method: str) -> None:
    await mesh.start(**HANDLERS)
    call = begin(mesh.stub(intercepting(method, shouting)), method, "refuse")
    assert (await failure(texts(call, method))).details() == "gone"
    assert await call.code() is StatusCode.NOT_FOUND


@RESPONSES
async def test_cancelling_a_call_whose_responses_are_wrapped(mesh: Mesh, method: str) -> None:
    ended = asyncio.Event()

    async def endless(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        try:
            while True:
                yield Answer()
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    await mesh.start(tell=endless, talk=endless)
    call = begin(mesh.stub(intercepting(method, shouting)), method, "a", timeout=None)
    assert (await call.read()).text == "!"
    assert call.cancel()
    assert call.cancelled()
    assert await call.code() is StatusCode.CANCELLED
    await asyncio.wait_for(ended.wait(), TIMEOUT)


@EVERY
async def test_one_may_try_again(mesh: Mesh, method: str) -> None:
    tries = 0

    async def tell(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        nonlocal tries
        tries += 1
        if method != "Tell":
            assert [one.text async for one in request] == ["a", "b"]
        if tries < 3:
            await context.abort(StatusCode.ABORTED, "try again")
        yield Answer(text=f"at the {tries}rd")

    async def gather(requests: Any, context: ServicerContext) -> Answer:
        answers = [answer async for answer in tell(requests, context)]
        return answers[0]

    async def retry(continuation: Any, details: ClientCallDetails, request: Any) -> Any:
        for _ in range(5):
            call = await continuation(details, request)
            try:
                answers = [await call] if method == "Gather" else [answer async for answer in call]
            except grpc.aio.AioRpcError as error:
                if error.code() is not StatusCode.ABORTED:
                    raise
            else:
                return call if method == "Gather" else one_by_one(answers)
        raise AssertionError

    async def one_by_one(answers: list[Answer]) -> AsyncIterator[Answer]:
        for answer in answers:
            yield answer

    await mesh.start(tell=tell, gather=gather, talk=tell)
    assert await texts(begin(mesh.stub(intercepting(method, retry)), method, "ab"), method) == ["at the 3rd"]


@EVERY
async def test_cancel_while_the_call_is_under_way(mesh: Mesh, method: str) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def stuck(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        yield Answer()

    async def gather(requests: Any, context: ServicerContext) -> Answer:
        answers = [answer async for answer in stuck(requests, context)]
        return answers[0]

    await mesh.start(tell=stuck, gather=gather, talk=stuck)
    call = begin(mesh.stub(intercepting(method, passing)), method, "a", timeout=None)
    await asyncio.wait_for(started.wait(), TIMEOUT)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await texts(call, method)
    assert call.cancelled()
    assert call.done()
    assert await call.code() is StatusCode.CANCELLED
    await asyncio.wait_for(cancelled.wait(), TIMEOUT)


@EVERY
async def test_cancel_while_an_interceptor_runs(mesh: Mesh, method: str) -> None:
    running = asyncio.Event()

    async def slow(continuation: Any, details: ClientCallDetails, request: Any) -> Any:
        running.set()
        await asyncio.sleep(60)

    call = begin(mesh.stub(intercepting(method, slow)), method, "a")
    await asyncio.wait_for(running.wait(), TIMEOUT)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await texts(call, method)
    assert call.cancelled()
    assert await call.code() is StatusCode.CANCELLED
    assert await call.details() == "Locally cancelled by application!"


@pytest.mark.parametrize("method", ["Gather", "Talk"])
async def test_write_after_the_server_ended_the_call(mesh: Mesh, method: str) -> None:
    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        await context.abort(StatusCode.NOT_FOUND, "gone")

    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        await context.abort(StatusCode.NOT_FOUND, "gone")
        yield Answer()

    await mesh.start(gather=gather, talk=talk)
    call = getattr(mesh.stub(intercepting(method, passing)), method)(timeout=TIMEOUT)
    assert await call.code() is StatusCode.NOT_FOUND
    with pytest.raises(asyncio.InvalidStateError, match="already finished"):
        await call.write(Question())
    assert (await failure(texts(call, method))).details() == "gone"


async def test_a_deadline(mesh: Mesh) -> None:
    async def stuck(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        await asyncio.sleep(60)
        yield Answer()

    await mesh.start(tell=stuck)
    call = mesh.stub(intercepting("Tell", passing)).Tell(Question(), timeout=0.2)
    assert (await failure(call.read())).code() is StatusCode.DEADLINE_EXCEEDED
    assert not call.cancelled()
