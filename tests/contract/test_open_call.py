"""Channel.open: calls of bytes for gateways and proxies, of all four kinds."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import ServicerContext

import rpc
from rpc import Call, MethodInfo, StatusError
from tests.contract.meshes import TIMEOUT, MemoryTransport, Mesh, NatsTransport
from tests.protos.probe_pb2 import Answer, Question

LARGE = b"x" * 300_000


@pytest.fixture(params=["memory", "nats"])
async def mesh(request: pytest.FixtureRequest) -> AsyncIterator[Mesh]:
    made = MemoryTransport() if request.param == "memory" else NatsTransport(request.getfixturevalue("broker_url"))
    yield made
    await made.close()


class Caller:
    def __init__(self, mesh: Mesh) -> None:
        channel = mesh.channel()
        assert isinstance(channel, rpc.Channel)
        self.channel = channel

    def open(self, method: str, number: int = 0, **options: Any) -> rpc.OpenCall:
        kinds = {"Tell": (False, True), "Gather": (True, False), "Talk": (True, True), "Ask": (False, False)}
        client_streaming, server_streaming = kinds[method]
        info = MethodInfo(
            "probe.v1.Probe", method, client_streaming=client_streaming, server_streaming=server_streaming
        )
        deadline = asyncio.get_running_loop().time() + TIMEOUT
        return self.channel.open(Call(info, question(number), deadline=deadline, **options))


def question(number: int) -> bytes:
    return Question(number=number).SerializeToString()


async def rest_of(call: rpc.OpenCall) -> list[int]:
    numbers = []
    while (message := await call.read()) is not None:
        numbers.append(Answer.FromString(message).number)
    return numbers


async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
    context.set_trailing_metadata((("x-trail", "t"),))
    for number in range(request.number):
        yield Answer(number=number)


async def add(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
    return Answer(number=sum([request.number async for request in requests]))


async def echo(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
    async for request in requests:
        yield Answer(number=request.number)


async def test_all_kinds_are_read_alike(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        return Answer(number=request.number)

    await mesh.start(ask, tell=tell, gather=add, talk=echo)
    caller = Caller(mesh)
    async with caller.open("Ask", 7) as call:
        assert await rest_of(call) == [7]
        assert await call.read() is None
    async with caller.open("Tell", 3) as call:
        assert await rest_of(call) == [0, 1, 2]
        assert await call.read() is None
        assert call.call.trailing_metadata == (("x-trail", "t"),)
    async with caller.open("Gather") as call:
        for number in (1, 2, 3):
            assert await call.write(question(number))
        await call.half_close()
        assert await rest_of(call) == [6]
    async with caller.open("Talk") as call:
        for number in (1, 2, 3):
            assert await call.write(question(number))
            message = await call.read()
            assert message is not None
            assert Answer.FromString(message).number == number
        await call.half_close()
        assert await rest_of(call) == []


async def test_headers_come_before_the_first_message(mesh: Mesh) -> None:
    go_on = asyncio.Event()

    async def wait(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        await context.send_initial_metadata((("x-lead", "1"),))
        await go_on.wait()
        yield Answer()

    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        await context.send_initial_metadata((("x-lead", "2"),))
        await go_on.wait()
        return Answer()

    await mesh.start(tell=wait, gather=gather)
    caller = Caller(mesh)
    async with caller.open("Tell") as told, caller.open("Gather") as gathered:
        async with asyncio.timeout(TIMEOUT):
            assert await told.headers() == (("x-lead", "1"),)
            assert await gathered.headers() == (("x-lead", "2"),)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(told.read(), 0.01)
        go_on.set()
        assert await rest_of(told) == [0]
        assert await rest_of(gathered) == [0]
        assert await gathered.headers() == (("x-lead", "2"),)


async def test_the_status_is_raised_after_the_messages(mesh: Mesh) -> None:
    async def fail(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        context.set_trailing_metadata((("x-trail", "t"),))
        yield Answer(number=1)
        await context.abort(StatusCode.NOT_FOUND, "no more")

    await mesh.start(tell=fail)
    async with Caller(mesh).open("Tell") as call:
        assert await call.read() is not None
        for _ in range(2):
            with pytest.raises(StatusError) as caught:
                await call.read()
            assert (caught.value.code, caught.value.details) == (StatusCode.NOT_FOUND, "no more")
        assert call.call.trailing_metadata == (("x-trail", "t"),)
        assert not await call.write(b"")


async def test_a_call_that_nobody_takes(mesh: Mesh) -> None:
    caller = Caller(mesh)
    async with caller.open("Talk") as call:
        assert await call.headers() == ()
        assert not await call.write(b"")
        await call.half_close()
        with pytest.raises(StatusError) as caught:
            await call.read()
        assert caught.value.code is StatusCode.UNAVAILABLE


async def test_whoever_leaves_the_block_cancels(mesh: Mesh) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        started.set()
        try:
            await asyncio.Event().wait()
            yield Answer()
        finally:
            cancelled.set()

    await mesh.start(tell=hang, talk=hang)
    for method in ("Tell", "Talk"):
        started.clear()
        cancelled.clear()
        async with asyncio.timeout(TIMEOUT), Caller(mesh).open(method):
            await started.wait()
        async with asyncio.timeout(1):
            await cancelled.wait()


async def test_cancel_gives_the_status_that_read_raises(mesh: Mesh) -> None:
    cancelled = asyncio.Event()

    async def hang(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        try:
            yield Answer()
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await mesh.start(talk=hang)
    async with Caller(mesh).open("Talk") as call:
        assert await call.read() is not None
        call.cancel(StatusCode.INVALID_ARGUMENT, "that was nonsense")
        with pytest.raises(StatusError) as caught:
            await call.read()
        assert (caught.value.code, caught.value.details) == (StatusCode.INVALID_ARGUMENT, "that was nonsense")
        assert not await call.write(b"")
        async with asyncio.timeout(1):
            await cancelled.wait()


async def test_writing_waits_for_a_back_end_that_does_not_read(mesh: Mesh) -> None:
    go_on = asyncio.Event()

    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        await go_on.wait()
        return Answer(number=sum([len(request.data) async for request in requests]))

    await mesh.start(gather=gather)
    async with Caller(mesh).open("Gather") as call:
        sent = 0
        message = Question(data=LARGE).SerializeToString()

        async def write() -> None:
            nonlocal sent
            while sent < 20:
                assert await call.write(message)
                sent += 1
            await call.half_close()

        writer = asyncio.create_task(write())
        done, _ = await asyncio.wait([writer], timeout=0.3)
        assert not done
        assert sent < 8
        go_on.set()
        message_back = await call.read()
        assert message_back is not None
        assert Answer.FromString(message_back).number == 20 * len(LARGE)
        await writer


async def test_reading_can_be_given_up_and_taken_up_again(mesh: Mesh) -> None:
    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        async for request in requests:
            yield Answer(number=request.number)

    await mesh.start(talk=talk)
    async with Caller(mesh).open("Talk") as call:
        for number in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await call.read()
            assert await call.write(question(number))
            message = await call.read()
            assert message is not None
            assert Answer.FromString(message).number == number


async def test_a_bug_is_raised_as_what_it_is() -> None:
    async def broken(call: Call) -> None:
        raise ZeroDivisionError

    async with rpc.OpenCall(broken, Call(MethodInfo("a.B", "C", server_streaming=True))) as call:
        with pytest.raises(ZeroDivisionError):
            await call.read()
    async with rpc.OpenCall(broken, Call(MethodInfo("a.B", "C"))):
        await asyncio.sleep(0)  # Nobody looks, and nobody complains.


async def test_two_at_once_do_not_disturb_each_other(mesh: Mesh) -> None:
    await mesh.start(tell=tell)
    caller = Caller(mesh)

    async def one(number: int) -> list[int]:
        async with caller.open("Tell", number) as call:
            return await rest_of(call)

    assert await asyncio.gather(*(one(number) for number in range(20))) == [list(range(n)) for n in range(20)]
