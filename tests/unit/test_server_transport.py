"""The server's half of the call path against callers, handlers and interceptors that do odd things."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from grpc import aio

import rpc
from rpc import Call, MethodInfo, StatusCode, StatusError
from rpc.subjects import Subjects
from rpc.testing import FakeClock, MemoryMesh, MemoryMessage
from rpc.transport.memory import MemoryConnection
from rpc.transport.server import _MAX_METHODS

SERVICE = "test.v1.Test"
INFO = MethodInfo(SERVICE, "Do")
TIMEOUT = 10.0


async def serve(
    mesh: MemoryMesh, do: Callable[..., Any], *, connection: MemoryConnection | None = None, **options: Any
) -> rpc.Server:
    server = rpc.Server(connection or mesh.connection(), **options)
    handler = grpc.unary_unary_rpc_method_handler(do)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Do": handler})])
    await server.start()
    return server


async def echo(request: bytes, context: object) -> bytes:
    return request


@pytest.fixture
async def channel(memory_mesh: MemoryMesh) -> AsyncIterator[rpc.Channel]:
    async with rpc.Channel(memory_mesh.connection()) as channel:
        yield channel


async def status_of(channel: rpc.Channel, info: MethodInfo = INFO) -> StatusError:
    with pytest.raises(StatusError) as error:
        await asyncio.wait_for(channel.invoke(Call(info)), TIMEOUT)
    return error.value


@pytest.mark.parametrize("prefix", ["rpc", "myrpc", "a.rpc", "inst.rpc", "inst"])
async def test_a_prefix_may_be_any(memory_mesh: MemoryMesh, prefix: str) -> None:
    server = await serve(memory_mesh, echo, prefix=prefix)
    async with rpc.Channel(memory_mesh.connection(), prefix=prefix) as channel:
        call = Call(INFO, b"x")
        await channel.invoke(call)
    assert call.response == b"x"
    await server.stop(None)


async def test_methods_that_callers_invent_do_not_fill_the_memory(
    memory_mesh: MemoryMesh, channel: rpc.Channel
) -> None:
    class Interceptor(aio.ServerInterceptor):  # With one, any name might be served.
        async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
            return await continuation(details)

    server = await serve(memory_mesh, echo, interceptors=[Interceptor()])
    for number in range(_MAX_METHODS + 10):
        assert (await status_of(channel, MethodInfo(SERVICE, f"Do{number}"))).code is StatusCode.UNIMPLEMENTED
    assert server._transport is not None
    assert len(server._transport._methods) <= _MAX_METHODS
    call = Call(INFO, b"x")
    await channel.invoke(call)
    assert call.response == b"x"
    await server.stop(None)


async def test_a_cancelled_error_of_the_handlers_own_is_an_unexpected_error(
    memory_mesh: MemoryMesh, channel: rpc.Channel
) -> None:
    async def do(request: bytes, context: object) -> bytes:
        raise asyncio.CancelledError  # as after awaiting a task that somebody else has cancelled

    server = await serve(memory_mesh, do)
    assert (await status_of(channel)).code is StatusCode.UNKNOWN
    await server.stop(None)


class SlowConnection(MemoryConnection):
    """Suspends in each publish, as a real one does when its buffer is full."""

    async def publish(self, *args: Any, **options: Any) -> None:
        await asyncio.sleep(0)
        await super().publish(*args, **options)


@pytest.mark.parametrize("how", ["return", "abort", "raise"])
async def test_a_handler_that_cancels_its_call_does_not_cancel_the_answer(
    memory_mesh: MemoryMesh, channel: rpc.Channel, how: str
) -> None:
    async def do(request: bytes, context: Any) -> bytes:
        context.cancel()
        if how == "abort":
            context.abort_now(StatusCode.NOT_FOUND, "no")
        if how == "raise":
            raise ValueError
        return b""

    server = await serve(memory_mesh, do, connection=SlowConnection(memory_mesh, "slow", "_INBOX.slow"))
    assert (await status_of(channel)).code is StatusCode.CANCELLED
    await server.stop(None)


async def test_a_handler_that_will_not_end_does_not_hold_up_the_stop(memory_mesh: MemoryMesh) -> None:
    release = asyncio.Event()

    async def do(request: bytes, context: object) -> bytes:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return b""

    async with FakeClock() as clock:
        server = await serve(memory_mesh, do)
        channel = rpc.Channel(memory_mesh.connection())
        call = asyncio.create_task(channel.invoke(Call(INFO)))
        await clock.advance(1)
        begin = clock.time()
        await clock.run(server.stop(None))
        assert clock.time() - begin < 10
        release.set()
        await clock.advance(10)
        with pytest.raises(StatusError):
            await call
        await channel.close()


async def test_the_deadline_ends_a_stream_whose_caller_neither_reads_nor_cancels(memory_mesh: MemoryMesh) -> None:
    async def do(request: bytes, context: object) -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(60_000)  # more than the window, but the last ones need not wait for room: the handler ends

    async with FakeClock() as clock:
        server = rpc.Server(memory_mesh.connection())
        handler = grpc.unary_stream_rpc_method_handler(do)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Do": handler})])
        await server.start()
        assert server._transport is not None
        caller = memory_mesh.connection()
        await caller.connect()
        received: list[MemoryMessage] = []
        await caller.subscribe("answers.>", received.append)
        # Packet 0: a message without a byte, half-close.
        opening = bytes(4) + b"\x02" + bytes(4) + b"\x06" + bytes(4)
        headers = {"mesh-stream": "1", "grpc-timeout": "60S"}
        await caller.publish(f"rpc.{SERVICE}.Do", opening, reply="answers.1", headers=headers)
        await clock.advance(59)
        assert server._transport.in_flight == 1
        assert received
        await clock.advance(1.5)
        assert server._transport.in_flight == 0
        await server.stop(None)


async def test_calls_to_this_very_instance_are_refused_once_it_has_drained(memory_mesh: MemoryMesh) -> None:
    calls = itertools.count()

    async def do(request: bytes, context: object) -> bytes:
        next(calls)
        await asyncio.sleep(30)
        return b""

    async with FakeClock() as clock:
        server = await serve(memory_mesh, do)
        caller = memory_mesh.connection()
        await caller.connect()
        received: list[MemoryMessage] = []
        await caller.subscribe("answers.*", received.append)
        subject = Subjects().instance_method(server.instance, SERVICE, "Do")
        await caller.publish(subject, b"", reply="answers.1")
        await clock.advance(1)
        stopping = asyncio.create_task(server.stop(60))
        await clock.advance(1)
        received.clear()
        await caller.publish(subject, b"", reply="answers.2")
        await clock.advance(0)
        (refusal,) = received
        assert (refusal.headers or {})["mesh-refused"] == "draining"
        await clock.run(stopping)
        assert next(calls) == 1
        assert received[-1].subject == "answers.1"
