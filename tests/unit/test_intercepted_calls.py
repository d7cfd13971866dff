"""Client interceptors, where natsmesh does more than grpc.aio (what is the same, tests/contract tests)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import (
    StreamStreamClientInterceptor,
    StreamUnaryClientInterceptor,
    UnaryStreamClientInterceptor,
    UnaryUnaryClientInterceptor,
)

from rpc.testing import MemoryMesh
from tests.protos.probe_pb2 import Answer, Question
from tests.unit.streaming import TIMEOUT, Endless, Serve, serving


@pytest.fixture
async def serve(memory_mesh: MemoryMesh) -> AsyncIterator[Serve]:
    async with serving(memory_mesh) as start:
        yield start


class Every(
    UnaryUnaryClientInterceptor,
    UnaryStreamClientInterceptor,
    StreamUnaryClientInterceptor,
    StreamStreamClientInterceptor,
):
    """An interceptor for calls of every kind; grpc.aio would use it for unary calls only."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def _pass(self, continuation: Any, details: Any, request: Any) -> Any:
        self.seen.append(details.method.decode().rpartition("/")[2])
        return await continuation(details, request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _pass


async def test_one_may_be_for_every_kind(serve: Serve) -> None:
    async def ask(request: Question, context: Any) -> Answer:
        return Answer(text="asked")

    async def tell(request: Question, context: Any) -> AsyncIterator[Answer]:
        yield Answer(text="told")

    async def gather(requests: AsyncIterator[Question], context: Any) -> Answer:
        return Answer(text="gathered")

    async def talk(requests: AsyncIterator[Question], context: Any) -> AsyncIterator[Answer]:
        yield Answer(text="talked")

    every = Every()
    stub = await serve(Ask=ask, Tell=tell, Gather=gather, Talk=talk, channel={"interceptors": [every]})
    assert (await stub.Ask(Question(), timeout=TIMEOUT)).text == "asked"
    assert [answer.text async for answer in stub.Tell(Question(), timeout=TIMEOUT)] == ["told"]
    assert (await stub.Gather([], timeout=TIMEOUT)).text == "gathered"
    assert [answer.text async for answer in stub.Talk([], timeout=TIMEOUT)] == ["talked"]
    assert every.seen == ["Ask", "Tell", "Gather", "Talk"]


async def test_one_may_answer_a_stream_itself(serve: Serve) -> None:
    class Cached(UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            async def responses() -> AsyncIterator[Answer]:
                yield Answer(text="cached")

            return responses()

    stub = await serve(channel={"interceptors": [Every(), Cached()]})
    call = stub.Tell(Question(), timeout=TIMEOUT)
    assert [answer.text async for answer in call] == ["cached"]
    assert await call.code() is StatusCode.OK
    assert call.done()
    assert not call.cancel()


@pytest.mark.parametrize("how", ["iterate", "read"])
async def test_a_call_that_is_forgotten_is_cancelled(serve: Serve, how: str) -> None:
    endless = Endless()
    stub = await serve(Tell=endless, channel={"interceptors": [Every()]})

    async def first() -> int:
        call = stub.Tell(Question())
        if how == "read":
            return (await call.read()).number
        async for answer in call:
            return answer.number
        return -1

    assert await first() == 0
    await asyncio.wait_for(endless.ended.wait(), TIMEOUT)


async def test_a_call_that_is_forgotten_while_it_writes_is_cancelled(serve: Serve) -> None:
    endless = Endless()
    stub = await serve(Talk=endless, channel={"interceptors": [Every(), Every()]})

    async def first() -> int:
        call = stub.Talk()
        await call.write(Question())
        return (await call.read()).number

    assert await first() == 0
    await asyncio.wait_for(endless.ended.wait(), TIMEOUT)
