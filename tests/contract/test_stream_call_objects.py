"""What the call objects of streams tell: states, callbacks, connection; and what the context tells the handler."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question

EVERY = pytest.mark.parametrize("method", ["Tell", "Gather", "Talk"])


class Gated:
    """Handlers that wait for the test, and end as the request says."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()
        self.contexts: list[ServicerContext] = []
        self.callbacks: asyncio.Queue[Any] = asyncio.Queue()

    async def tell(self, request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        self.contexts.append(context)
        context.add_done_callback(self._ended)
        assert not context.done()
        assert not context.cancelled()
        assert context.peer()
        assert context.peer_identities() is None
        assert context.peer_identity_key() is None
        self.reached.set()
        await self.gate.wait()
        if request.text == "abort":
            await context.abort(StatusCode.NOT_FOUND, "gone")
        if request.text == "raise":
            raise ValueError
        yield Answer(text="done")

    def _ended(self, context: ServicerContext) -> None:
        self.callbacks.put_nowait((context is self.contexts[-1], context.done(), context.cancelled(), context.code()))

    async def talk(self, requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        (request,) = [request async for request in requests]
        async for answer in self.tell(request, context):
            yield answer

    async def gather(self, requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        answers = [answer async for answer in self.talk(requests, context)]
        return answers[0]

    async def serve(self, mesh: Mesh) -> Any:
        return await mesh.serve(tell=self.tell, gather=self.gather, talk=self.talk)


def begin(stub: Any, method: str, text: str = "") -> Any:
    question = Question(text=text)
    return getattr(stub, method)(question if method == "Tell" else [question], timeout=TIMEOUT)


async def end(call: Any, method: str) -> None:
    answers = [await call] if method == "Gather" else [answer async for answer in call]
    assert [answer.text for answer in answers] == ["done"]


@EVERY
async def test_a_success(mesh: Mesh, method: str) -> None:
    gated = Gated()
    call = begin(await gated.serve(mesh), method)
    await asyncio.wait_for(gated.reached.wait(), TIMEOUT)
    assert not call.done()
    assert not call.cancelled()
    gated.gate.set()
    await end(call, method)
    assert await call.code() is StatusCode.OK
    assert await call.details() == ""
    assert await call.debug_error_string() == ""
    assert call.done()
    assert not call.cancelled()


@EVERY
async def test_an_error(mesh: Mesh, method: str) -> None:
    gated = Gated()
    gated.gate.set()
    call = begin(await gated.serve(mesh), method, "abort")
    assert await call.code() is StatusCode.NOT_FOUND
    assert await call.details() == "gone"
    assert await call.debug_error_string()
    assert call.done()
    assert not call.cancelled()
    for _ in range(2):
        error = await failure(call if method == "Gather" else call.read())
        assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "gone")


async def test_a_call_the_server_ends_with_cancelled(mesh: Mesh) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        await context.abort(StatusCode.CANCELLED, "by the server")
        yield Answer()

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)
    error = await failure(call.read())
    assert (error.code(), error.details()) == (StatusCode.CANCELLED, "by the server")
    assert call.cancelled()


@pytest.mark.parametrize("text", ["", "abort"])
@EVERY
async def test_done_callbacks_get_the_call(mesh: Mesh, method: str, text: str) -> None:
    gated = Gated()
    called: asyncio.Queue[Any] = asyncio.Queue()
    call = begin(await gated.serve(mesh), method, text)
    call.add_done_callback(lambda ended: called.put_nowait(("first", ended, ended.done())))
    call.add_done_callback(lambda ended: called.put_nowait(("second", ended, ended.done())))
    await asyncio.wait_for(gated.reached.wait(), TIMEOUT)
    assert called.empty()
    gated.gate.set()
    if not text:
        await end(call, method)
    await call.code()
    assert await asyncio.wait_for(called.get(), TIMEOUT) == ("first", call, True)
    assert await asyncio.wait_for(called.get(), TIMEOUT) == ("second", call, True)
    call.add_done_callback(lambda ended: called.put_nowait(("late", ended, ended.done())))
    assert await asyncio.wait_for(called.get(), TIMEOUT) == ("late", call, True)
    assert called.empty()


@EVERY
async def test_a_done_callback_runs_when_the_call_is_cancelled(mesh: Mesh, method: str) -> None:
    gated = Gated()
    called: asyncio.Queue[Any] = asyncio.Queue()
    call = begin(await gated.serve(mesh), method)
    call.add_done_callback(lambda ended: called.put_nowait((ended.done(), ended.cancelled())))
    await asyncio.wait_for(gated.reached.wait(), TIMEOUT)
    call.cancel()
    assert await asyncio.wait_for(called.get(), TIMEOUT) == (True, True)


@pytest.mark.parametrize("text", ["", "abort", "raise"])
@EVERY
async def test_done_callbacks_of_the_context(mesh: Mesh, method: str, text: str) -> None:
    gated = Gated()
    gated.gate.set()
    call = begin(await gated.serve(mesh), method, text)
    if not text:
        await end(call, method)
    await call.code()
    code = StatusCode.NOT_FOUND if text == "abort" else None
    assert await asyncio.wait_for(gated.callbacks.get(), TIMEOUT) == (True, True, False, code)


@EVERY
async def test_wait_for_connection(mesh: Mesh, method: str) -> None:
    gated = Gated()
    call = begin(await gated.serve(mesh), method)
    if method == "Tell":
        gated.gate.set()  # grpc.aio waits for the first word of the server there
    await asyncio.wait_for(call.wait_for_connection(), TIMEOUT)
    gated.gate.set()
    await end(call, method)


@EVERY
async def test_wait_for_connection_raises_when_nobody_is_there(mesh: Mesh, method: str) -> None:
    error = await failure(begin(mesh.stub(), method).wait_for_connection())
    assert error.code() is StatusCode.UNAVAILABLE


@EVERY
async def test_many_may_wait_for_the_end_of_one_call(mesh: Mesh, method: str) -> None:
    gated = Gated()
    gated.gate.set()
    call = begin(await gated.serve(mesh), method)
    waiting = asyncio.gather(call.code(), call.details(), call.code(), call.trailing_metadata())
    await end(call, method)
    assert (await waiting)[:3] == [StatusCode.OK, "", StatusCode.OK]


async def test_a_response_may_be_awaited_again(mesh: Mesh) -> None:
    gated = Gated()
    gated.gate.set()
    call = begin(await gated.serve(mesh), "Gather")
    assert (await call).text == (await call).text == "done"
