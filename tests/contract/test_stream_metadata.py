"""Metadata of calls with streams: initial before the messages, trailing after them."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import StatusCode
from grpc.aio import EOF, Metadata, ServicerContext
from grpc_status import rpc_status

from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs
from tests.protos.probe_pb2 import Answer, Question

BOTH = [("plain", "value"), ("twice", "1"), ("twice", "2"), ("raw-bin", b"\x00\xff")]

RESPONSES = pytest.mark.parametrize("method", ["Tell", "Talk"])
EVERY = pytest.mark.parametrize("method", ["Tell", "Gather", "Talk"])


async def serve(mesh: Mesh, stream: Any) -> Any:
    """Serves all three methods with a generator; the first answer is the one of Gather."""

    async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        answers = [answer async for answer in stream(requests, context)]
        return answers[0]

    return await mesh.serve(tell=stream, gather=gather, talk=stream)


async def read_all(request: Any) -> None:
    """Reads what the client sends: a client of grpc.aio that is still writing may miss why its call failed."""
    if isinstance(request, AsyncIterable):
        async for _request in request:
            pass


def begin(stub: Any, method: str, **options: Any) -> Any:
    return getattr(stub, method)(Question() if method == "Tell" else [Question()], timeout=TIMEOUT, **options)


async def end(call: Any, method: str) -> None:
    if method == "Gather":
        await call
    else:
        assert [answer async for answer in call]


@EVERY
async def test_invocation_metadata_arrives(mesh: Mesh, method: str) -> None:
    seen: list[Any] = []

    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        seen.extend(pairs(context.invocation_metadata()))
        yield Answer()

    await end(begin(await serve(mesh, stream), method, metadata=tuple(BOTH)), method)
    assert sorted(seen, key=lambda pair: pair[0]) == sorted(BOTH, key=lambda pair: pair[0])


@EVERY
async def test_initial_metadata_is_there_before_any_message(mesh: Mesh, method: str) -> None:
    gate = asyncio.Event()

    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        await context.send_initial_metadata(tuple(BOTH))
        await gate.wait()
        yield Answer()

    call = begin(await serve(mesh, stream), method)
    initial = await asyncio.wait_for(call.initial_metadata(), TIMEOUT)
    assert isinstance(initial, Metadata)
    assert sorted(pairs(initial), key=lambda pair: pair[0]) == sorted(BOTH, key=lambda pair: pair[0])
    assert not call.done()
    gate.set()
    await end(call, method)
    assert await call.initial_metadata() == initial


async def test_initial_metadata_is_there_before_any_request(mesh: Mesh) -> None:
    async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        await context.send_initial_metadata((("begin", "1"),))
        async for _request in requests:
            yield Answer()

    call = (await mesh.serve(talk=talk)).Talk(timeout=TIMEOUT)
    assert pairs(await asyncio.wait_for(call.initial_metadata(), TIMEOUT)) == [("begin", "1")]
    await call.done_writing()
    assert await call.read() is EOF


@RESPONSES
async def test_without_any_the_first_message_brings_empty_initial_metadata(mesh: Mesh, method: str) -> None:
    gate = asyncio.Event()

    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        yield Answer(number=1)
        await gate.wait()

    call = begin(await serve(mesh, stream), method)
    assert pairs(await asyncio.wait_for(call.initial_metadata(), TIMEOUT)) == []
    assert not call.done()
    gate.set()
    await end(call, method)


@RESPONSES
async def test_initial_metadata_is_sent_once_and_before_the_first_message(mesh: Mesh, method: str) -> None:
    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        if method == "Tell":
            await context.send_initial_metadata((("begin", "1"),))
        else:
            yield Answer(number=1)
        with pytest.raises(Exception, match="already sent"):
            await context.send_initial_metadata((("begin", "2"),))
        yield Answer(number=2)

    call = begin(await serve(mesh, stream), method)
    await end(call, method)
    assert pairs(await call.initial_metadata()) == ([("begin", "1")] if method == "Tell" else [])


@EVERY
async def test_trailing_metadata_comes_with_the_end(mesh: Mesh, method: str) -> None:
    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        context.set_trailing_metadata((("end", "too early"),))
        yield Answer()
        context.set_trailing_metadata(tuple(BOTH))

    call = begin(await serve(mesh, stream), method)
    await end(call, method)
    trailing = await call.trailing_metadata()
    assert isinstance(trailing, Metadata)
    assert sorted(pairs(trailing), key=lambda pair: pair[0]) == sorted(BOTH, key=lambda pair: pair[0])
    assert pairs(await call.initial_metadata()) == []


@EVERY
async def test_both_come_with_an_error(mesh: Mesh, method: str) -> None:
    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        await read_all(request)
        await context.send_initial_metadata((("begin", "1"),))
        await context.abort(StatusCode.NOT_FOUND, "gone", (("end", "2"), ("end-bin", b"\xfe")))
        yield Answer()

    call = begin(await serve(mesh, stream), method)
    error = await failure(call if method == "Gather" else call.read())
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "gone")
    assert pairs(error.initial_metadata()) == pairs(await call.initial_metadata()) == [("begin", "1")]
    trailing = [("end", "2"), ("end-bin", b"\xfe")]
    assert pairs(error.trailing_metadata()) == pairs(await call.trailing_metadata()) == trailing


@EVERY
async def test_there_may_be_none(mesh: Mesh, method: str) -> None:
    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        yield Answer()

    call = begin(await serve(mesh, stream), method)
    await end(call, method)
    assert await call.initial_metadata() == await call.trailing_metadata() == Metadata()


async def test_an_empty_stream_has_metadata_too(mesh: Mesh) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        await context.send_initial_metadata((("begin", "1"),))
        context.set_trailing_metadata((("end", "2"),))
        return
        yield

    call = (await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)
    assert [answer async for answer in call] == []
    assert pairs(await call.initial_metadata()) == [("begin", "1")]
    assert pairs(await call.trailing_metadata()) == [("end", "2")]


@pytest.mark.parametrize("how", ["initial", "abort"])
@EVERY
async def test_invalid_metadata_of_a_handler_is_an_error(mesh: Mesh, method: str, how: str) -> None:
    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        await read_all(request)
        invalid = (("Upper", "case"),)
        if how == "initial":
            await context.send_initial_metadata(invalid)
        else:
            await context.abort(StatusCode.NOT_FOUND, "gone", invalid)
        yield Answer()

    assert await begin(await serve(mesh, stream), method).code() is StatusCode.INTERNAL


@pytest.mark.parametrize("refused", [("Upper", "case"), ("key", "line\nbreak"), ("key-bin", "text")], ids=repr)
@EVERY
async def test_metadata_that_cannot_be_sent_is_refused_here(mesh: Mesh, method: str, refused: Any) -> None:
    called = False

    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        nonlocal called
        called = True
        yield Answer()

    stub = await serve(mesh, stream)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - grpc.aio raises this and that
        await end(begin(stub, method, metadata=(refused,)), method)
    assert not isinstance(caught.value, AssertionError)
    assert not called
    await end(begin(stub, method), method)


def rich() -> status_pb2.Status:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="BOOK_GONE", domain="library", metadata={"shelf": "7"}))
    return status_pb2.Status(code=code_pb2.NOT_FOUND, message="no such book", details=[detail])


@EVERY
async def test_a_rich_status(mesh: Mesh, method: str) -> None:
    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        await read_all(request)
        await context.abort_with_status(rpc_status.to_status(rich()))
        yield Answer()

    call = begin(await serve(mesh, stream), method)
    error = await failure(call if method == "Gather" else call.read())
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "no such book")
    assert rpc_status.from_call(error) == rich()


@RESPONSES
async def test_a_rich_status_after_messages(mesh: Mesh, method: str) -> None:
    gate = asyncio.Event()

    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        await read_all(request)
        yield Answer(number=1)
        await gate.wait()
        await context.abort_with_status(rpc_status.to_status(rich()))

    call = begin(await serve(mesh, stream), method)
    assert (await call.read()).number == 1
    gate.set()
    assert rpc_status.from_call(await failure(call.read())) == rich()
