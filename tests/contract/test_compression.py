"""Compression: wherever it is switched on, messages arrive as they were sent."""

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import Compression, StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question
from tests.protos.probe_pb2_grpc import ProbeStub

MESSAGES = [b"", b"x", bytes(100_000), os.urandom(10_000), b"text " * 50_000]

EVERY = pytest.mark.parametrize("method", ["Ask", "Tell", "Gather", "Talk"])
ALGORITHMS = pytest.mark.parametrize("compression", list(Compression), ids=lambda compression: compression.name)


class Echo:
    """Handlers that send back what they are sent; `before` is called with the context first."""

    def __init__(self, before: Any = None) -> None:
        self.before = before or (lambda _context: None)

    async def ask(self, request: Question, context: ServicerContext) -> Answer:
        self.before(context)
        return Answer(data=request.data)

    async def tell(self, request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        self.before(context)
        for _ in range(3):
            yield Answer(data=request.data)

    async def gather(self, requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
        self.before(context)
        return Answer(data=b"".join([request.data async for request in requests]))

    async def talk(self, requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        self.before(context)
        async for request in requests:
            yield Answer(data=request.data)

    async def start(self, mesh: Mesh, **options: Any) -> None:
        await mesh.start(self.ask, tell=self.tell, gather=self.gather, talk=self.talk, **options)


async def check(stub: Any, method: str, **options: Any) -> None:
    """Makes calls with all messages, and compares."""
    options["timeout"] = TIMEOUT
    questions = [Question(data=data) for data in MESSAGES]
    if method == "Ask":
        assert [(await stub.Ask(question, **options)).data for question in questions] == MESSAGES
    elif method == "Tell":
        for question in questions:
            assert [answer.data async for answer in stub.Tell(question, **options)] == [question.data] * 3
    elif method == "Gather":
        assert (await stub.Gather(questions, **options)).data == b"".join(MESSAGES)
    else:
        assert [answer.data async for answer in stub.Talk(questions, **options)] == MESSAGES


@ALGORITHMS
@EVERY
async def test_of_a_call(mesh: Mesh, method: str, compression: Compression) -> None:
    await Echo().start(mesh)
    await check(mesh.stub(), method, compression=compression)


@EVERY
async def test_of_a_channel(mesh: Mesh, method: str) -> None:
    await Echo().start(mesh)
    stub = ProbeStub(mesh.channel(compression=Compression.Gzip))
    await check(stub, method)
    await check(stub, method, compression=Compression.NoCompression)


@EVERY
async def test_of_a_server(mesh: Mesh, method: str) -> None:
    await Echo().start(mesh, compression=Compression.Gzip)
    await check(mesh.stub(), method)


@EVERY
async def test_of_both(mesh: Mesh, method: str) -> None:
    await Echo().start(mesh, compression=Compression.Gzip)
    await check(ProbeStub(mesh.channel(compression=Compression.Gzip)), method)


@ALGORITHMS
@EVERY
async def test_that_the_handler_sets(mesh: Mesh, method: str, compression: Compression) -> None:
    await Echo(lambda context: context.set_compression(compression)).start(mesh)
    await check(mesh.stub(), method)


@EVERY
async def test_a_message_may_go_uncompressed(mesh: Mesh, method: str) -> None:
    def before(context: ServicerContext) -> None:
        context.set_compression(Compression.Gzip)
        context.disable_next_message_compression()

    await Echo(before).start(mesh, compression=Compression.Gzip)
    await check(mesh.stub(), method)


async def test_it_must_be_set_before_the_initial_metadata(mesh: Mesh) -> None:
    async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
        await context.send_initial_metadata((("begin", "1"),))
        with pytest.raises(RuntimeError, match="before sending initial metadata"):
            context.set_compression(Compression.Gzip)
        yield Answer()
        with pytest.raises(RuntimeError, match="before sending initial metadata"):
            context.set_compression(Compression.Gzip)

    assert len([answer async for answer in (await mesh.serve(tell=tell)).Tell(Question(), timeout=TIMEOUT)]) == 1


@pytest.mark.parametrize("method", ["Ask", "Gather", "Talk"])
async def test_the_limit_is_that_of_the_decompressed_message(mesh: Mesh, method: str) -> None:
    await Echo().start(mesh, options=[("grpc.max_receive_message_length", 1000)])
    question = Question(data=bytes(100_000))
    call = getattr(mesh.stub(), method)(
        question if method == "Ask" else [question], timeout=TIMEOUT, compression=Compression.Gzip
    )
    error = await failure(call.read() if method == "Talk" else call)
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
