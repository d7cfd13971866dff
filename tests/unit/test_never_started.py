"""A refusal promises that no handler saw the call: who may promise that, who must not, and who passes it on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from grpc import aio

import rpc
from rpc import Call, IdempotencyLevel, MethodInfo, Refusal, StatusCode, StatusError
from rpc.policy.limits import ConcurrencyLimit
from rpc.policy.retry import Retry
from rpc.subjects import Subjects
from rpc.testing import FakeClock, MemoryMesh, MemoryMessage

SERVICE = "test.v1.Test"
INFO = MethodInfo(SERVICE, "Do")
NOBODY = MethodInfo("nobody.v1.Nobody", "Do")


@pytest.fixture
async def channel(memory_mesh: MemoryMesh) -> AsyncIterator[rpc.Channel]:
    async with rpc.Channel(memory_mesh.connection(), retry=False) as channel:
        yield channel


async def serve(mesh: MemoryMesh, do: Callable[..., Any], **options: Any) -> rpc.Server:
    server = rpc.Server(mesh.connection(), **options)
    handler = grpc.unary_unary_rpc_method_handler(do)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Do": handler})])
    await server.start()
    return server


async def echo(request: bytes, context: object) -> bytes:
    return request


@pytest.mark.parametrize("where", ["handler", "interceptor"])
async def test_a_refusal_of_a_call_that_was_made_inside_is_no_refusal_of_this_one(
    memory_mesh: MemoryMesh, channel: rpc.Channel, where: str
) -> None:
    class Interceptor(aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
            if where == "interceptor":
                await channel.invoke(Call(NOBODY))
            return await continuation(details)

    async def do(request: bytes, context: object) -> bytes:
        await channel.invoke(Call(NOBODY))
        return b""

    server = await serve(memory_mesh, do, interceptors=[Interceptor()])
    with pytest.raises(StatusError) as error:
        await channel.invoke(Call(INFO))
    assert error.value.code is StatusCode.UNAVAILABLE
    assert not isinstance(error.value, Refusal)
    await server.stop(None)


async def test_nor_is_it_one_of_a_stream(memory_mesh: MemoryMesh, channel: rpc.Channel) -> None:
    async def do(request: bytes, context: object) -> AsyncIterator[bytes]:
        await channel.invoke(Call(NOBODY))
        yield b""

    server = rpc.Server(memory_mesh.connection())
    handler = grpc.unary_stream_rpc_method_handler(do)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Do": handler})])
    await server.start()
    with pytest.raises(StatusError) as error:
        await channel.invoke(Call(MethodInfo(SERVICE, "Do", server_streaming=True)))
    assert error.value.code is StatusCode.UNAVAILABLE
    assert not isinstance(error.value, Refusal)
    await server.stop(None)


async def test_calls_that_wait_for_their_turn_when_the_server_stops_may_go_elsewhere(memory_mesh: MemoryMesh) -> None:
    started: list[bytes] = []

    async def do(request: bytes, context: object) -> bytes:
        started.append(request)
        await asyncio.sleep(30)
        return request

    async with FakeClock() as clock, rpc.Channel(memory_mesh.connection(), retry=False) as channel:
        server = await serve(memory_mesh, do, maximum_concurrent_rpcs=1)
        calls = []
        for number in range(3):
            calls.append(asyncio.create_task(channel.invoke(Call(INFO, b"%d" % number))))
            await clock.advance(0)
        await clock.run(server.stop(5))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert started == [b"0"]
        assert [type(outcome) for outcome in outcomes] == [StatusError, Refusal, Refusal]
        assert {outcome.reason for outcome in outcomes if isinstance(outcome, Refusal)} == {"draining"}


async def test_one_that_is_cancelled_at_that_moment_takes_no_place_with_it() -> None:
    async def wait(_call: Call) -> None:
        await asyncio.sleep(30)

    async with FakeClock() as clock:
        limit = ConcurrencyLimit(1, 10)
        running = asyncio.create_task(limit(Call(INFO), wait))
        await clock.advance(0)
        waiting = asyncio.create_task(limit(Call(INFO), wait))
        await clock.advance(0)
        limit.refuse_waiting()
        waiting.cancel()
        await clock.advance(0)
        assert waiting.cancelled()
        assert limit.running == 1
        await clock.run(running)
        assert limit.running == 0


async def test_a_call_that_an_attempt_may_have_run_is_never_called_not_started() -> None:
    outcomes = [StatusError(StatusCode.UNAVAILABLE, "the connection was lost"), Refusal("away", "not-connected")]

    async def attempt(_call: Call) -> None:
        raise outcomes.pop(0)

    with pytest.raises(StatusError, match="away") as error:
        await Retry()(Call(MethodInfo(SERVICE, "Do", idempotency=IdempotencyLevel.IDEMPOTENT)), attempt)
    assert not isinstance(error.value, Refusal)


async def test_what_came_with_a_failed_attempt_is_no_part_of_the_answer(memory_mesh: MemoryMesh) -> None:
    attempts: list[bytes] = []

    async def do(request: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        attempts.append(request)
        if len(attempts) == 1:
            await context.send_initial_metadata((("begin", "first"),))
            await context.abort(StatusCode.UNAVAILABLE, "try again", (("end", "first"),))
        return request

    server = await serve(memory_mesh, do)
    async with rpc.Channel(memory_mesh.connection()) as channel:
        call = Call(MethodInfo(SERVICE, "Do", idempotency=IdempotencyLevel.IDEMPOTENT), b"x")
        await channel.invoke(call)
    assert attempts == [b"x", b"x"]
    assert (call.response, call.initial_metadata, call.trailing_metadata) == (b"x", (), ())
    await server.stop(None)


@pytest.mark.parametrize("used", [True, False])
async def test_a_closed_channel_sends_nothing(memory_mesh: MemoryMesh, used: bool) -> None:
    """Nobody would hear the answer: without a deadline, the call would wait for ever."""
    server = await serve(memory_mesh, echo)
    connection = memory_mesh.connection()  # Shared: it stays open.
    channel = rpc.Channel(connection)
    if used:
        await channel.invoke(Call(INFO))
    await channel.close()
    with pytest.raises(StatusError, match="closed") as error:
        await asyncio.wait_for(channel.invoke(Call(INFO)), 5)
    assert error.value.code is StatusCode.CANCELLED
    await server.stop(None)
    await connection.close()


async def test_nor_does_a_call_that_was_about_to_be_sent_again(memory_mesh: MemoryMesh) -> None:
    async def do(request: bytes, context: object) -> bytes:
        await asyncio.sleep(30)
        return b""

    async with FakeClock() as clock:
        server = await serve(memory_mesh, do, maximum_concurrent_rpcs=1, maximum_queued_rpcs=0)
        connection = memory_mesh.connection()
        first, second = rpc.Channel(connection), rpc.Channel(connection)
        running = asyncio.create_task(first.invoke(Call(INFO)))
        await clock.advance(0)
        refused = asyncio.create_task(second.invoke(Call(INFO)))
        await clock.advance(1)
        await clock.run(second.close())
        await clock.advance(1)
        with pytest.raises(StatusError, match="closed"):
            await refused
        await clock.run(running)
        await first.close()
        await server.stop(None)
        await connection.close()


async def test_a_call_that_expires_in_the_queue_makes_room_at_once(memory_mesh: MemoryMesh) -> None:
    """Not every caller says that it does not wait any more; a plain NATS request does not."""

    async def do(request: bytes, context: object) -> bytes:
        await asyncio.sleep(30)
        return request

    async with FakeClock() as clock:
        server = await serve(memory_mesh, do, maximum_concurrent_rpcs=1, maximum_queued_rpcs=1)
        caller = memory_mesh.connection()
        await caller.connect()
        received: list[MemoryMessage] = []
        await caller.subscribe("answers.*", received.append)
        subject = Subjects().method(SERVICE, "Do")
        await caller.publish(subject, b"1", reply="answers.1")
        await clock.advance(0)
        await caller.publish(subject, b"2", reply="answers.2", headers={"grpc-timeout": "1S"})
        await clock.advance(1.5)
        assert [
            (m.subject, (m.headers or {}).get("grpc-status"))
            for m in received
            if "mesh-accepted" not in (m.headers or {})
        ] == [("answers.2", str(StatusCode.DEADLINE_EXCEEDED.value[0]))]
        await caller.publish(subject, b"3", reply="answers.3")
        await clock.advance(40)
        assert received[-1].subject == "answers.1"
        await clock.advance(30)
        assert (received[-1].subject, received[-1].data) == ("answers.3", b"3")
        await server.stop(None)


@pytest.mark.parametrize("used", [False, True])
async def test_waiting_for_a_connection_that_was_closed_ends(memory_mesh: MemoryMesh, used: bool) -> None:
    server = await serve(memory_mesh, echo)
    connection = memory_mesh.connection()
    async with rpc.Channel(connection) as channel:
        if used:
            await channel.invoke(Call(INFO))
        await connection.close()
        with pytest.raises((StatusError, ConnectionError), match="closed"):
            await asyncio.wait_for(channel.channel_ready(), 5)
        with pytest.raises(StatusError, match="closed"):
            await asyncio.wait_for(channel.invoke(Call(INFO, wait_for_ready=True)), 5)
    await server.stop(None)
