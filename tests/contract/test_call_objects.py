"""What the call object, the error and the callbacks tell a caller."""

import asyncio
import pickle
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import Metadata, ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs
from tests.protos.probe_pb2 import Answer, Question


async def answer(request: Question, context: ServicerContext) -> Answer:
    await context.send_initial_metadata((("begin", "1"),))
    context.set_trailing_metadata((("end", "2"),))
    return Answer(text="done")


async def refuse(request: Question, context: ServicerContext) -> Answer:
    await context.send_initial_metadata((("begin", "1"),))
    await context.abort(StatusCode.RESOURCE_EXHAUSTED, "too much", (("end", "2"),))


async def test_a_call_is_a_grpc_aio_call(mesh: Mesh) -> None:
    call = (await mesh.serve(answer)).Ask(Question(), timeout=TIMEOUT)
    assert isinstance(call, grpc.aio.UnaryUnaryCall)
    assert isinstance(call, grpc.aio.Call)
    assert isinstance(call, grpc.aio.RpcContext)
    await call


async def test_a_success(mesh: Mesh) -> None:
    call = (await mesh.serve(answer)).Ask(Question(), timeout=TIMEOUT)
    assert not call.done()
    assert not call.cancelled()
    assert await call.code() is StatusCode.OK
    assert await call.details() == ""
    assert await call.debug_error_string() == ""
    assert pairs(await call.initial_metadata()) == [("begin", "1")]
    assert pairs(await call.trailing_metadata()) == [("end", "2")]
    assert call.done()
    assert not call.cancelled()
    assert (await call).text == "done"


async def test_an_error(mesh: Mesh) -> None:
    call = (await mesh.serve(refuse)).Ask(Question(), timeout=TIMEOUT)
    assert await call.code() is StatusCode.RESOURCE_EXHAUSTED
    assert await call.details() == "too much"
    assert pairs(await call.initial_metadata()) == [("begin", "1")]
    assert pairs(await call.trailing_metadata()) == [("end", "2")]
    assert call.done()
    assert not call.cancelled()
    first, second = await failure(call), await failure(call)
    assert first.code() is second.code() is StatusCode.RESOURCE_EXHAUSTED


async def test_the_error_says_everything(mesh: Mesh) -> None:
    error = await failure((await mesh.serve(refuse)).Ask(Question(), timeout=TIMEOUT))
    assert isinstance(error, grpc.RpcError)
    assert type(error) is grpc.aio.AioRpcError
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "too much"
    assert error.initial_metadata() == Metadata(("begin", "1"))
    assert error.trailing_metadata() == Metadata(("end", "2"))
    assert error.debug_error_string()
    assert "RESOURCE_EXHAUSTED" in str(error)
    assert "too much" in repr(error)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (copy.code(), copy.details()) == (error.code(), error.details())


async def test_a_call_the_server_ends_with_cancelled(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        await context.abort(StatusCode.CANCELLED, "by the server")

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    error = await failure(call)
    assert (error.code(), error.details()) == (StatusCode.CANCELLED, "by the server")
    assert call.cancelled()


@pytest.mark.parametrize("handler", [answer, refuse])
async def test_done_callbacks_get_the_call(mesh: Mesh, handler: Any) -> None:
    called: asyncio.Queue[Any] = asyncio.Queue()
    call = (await mesh.serve(handler)).Ask(Question(), timeout=TIMEOUT)
    call.add_done_callback(lambda ended: called.put_nowait(("first", ended, ended.done())))
    call.add_done_callback(lambda ended: called.put_nowait(("second", ended, ended.done())))
    await call.code()
    assert await asyncio.wait_for(called.get(), TIMEOUT) == ("first", call, True)
    assert await asyncio.wait_for(called.get(), TIMEOUT) == ("second", call, True)
    call.add_done_callback(lambda ended: called.put_nowait(("late", ended, ended.done())))
    assert await asyncio.wait_for(called.get(), TIMEOUT) == ("late", call, True)
    assert called.empty()


async def test_a_done_callback_runs_when_the_call_is_cancelled(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        await asyncio.sleep(60)

    called: asyncio.Queue[Any] = asyncio.Queue()
    call = (await mesh.serve(ask)).Ask(Question())
    call.add_done_callback(lambda ended: called.put_nowait((ended.done(), ended.cancelled())))
    call.cancel()
    assert await asyncio.wait_for(called.get(), TIMEOUT) == (True, True)


async def test_wait_for_connection(mesh: Mesh) -> None:
    call = (await mesh.serve(answer)).Ask(Question(), timeout=TIMEOUT)
    await call.wait_for_connection()
    assert (await call).text == "done"


async def test_wait_for_connection_raises_when_nobody_is_there(mesh: Mesh) -> None:
    call = mesh.stub().Ask(Question(), timeout=TIMEOUT)
    assert (await failure(call.wait_for_connection())).code() is StatusCode.UNAVAILABLE


async def test_many_may_wait_for_one_call(mesh: Mesh) -> None:
    async def user() -> Answer:
        return await call

    call = (await mesh.serve(answer)).Ask(Question(), timeout=TIMEOUT)
    outcomes = await asyncio.gather(user(), call.code(), user(), call.details(), user())
    assert outcomes == [Answer(text="done"), StatusCode.OK, Answer(text="done"), "", Answer(text="done")]


async def test_a_call_starts_without_being_awaited(mesh: Mesh) -> None:
    reached = asyncio.Event()

    async def ask(request: Question, context: ServicerContext) -> Answer:
        reached.set()
        return Answer()

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    await asyncio.wait_for(reached.wait(), TIMEOUT)
    await call


async def test_the_multi_callable_is_a_grpc_aio_one(mesh: Mesh) -> None:
    stub = await mesh.serve(answer)
    assert isinstance(stub.Ask, grpc.aio.UnaryUnaryMultiCallable)
