"""Handlers with streams that are plain functions and generators run in the thread pool."""

import asyncio
import contextvars
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs
from tests.protos.probe_pb2 import Answer, Question


async def numbers(responses: Any) -> list[int]:
    return [answer.number async for answer in responses]


def questions(*values: int) -> list[Question]:
    return [Question(number=value) for value in values]


def count(request: Question, context: grpc.ServicerContext) -> Iterator[Answer]:
    for number in range(request.number):
        yield Answer(number=number)


def count_without_generator(request: Question, context: grpc.ServicerContext) -> Iterator[Answer]:
    return (Answer(number=number) for number in range(request.number))


class Count:
    """A callable object."""

    def __call__(self, request: Question, context: grpc.ServicerContext) -> Iterator[Answer]:
        yield from count(request, context)


@pytest.mark.parametrize("handler", [count, count_without_generator, Count()], ids=["generator", "function", "object"])
@pytest.mark.parametrize("many", [0, 1, 20])
async def test_a_stream_of_responses(mesh: Mesh, handler: Any, many: int) -> None:
    call = (await mesh.serve(tell=handler)).Tell(Question(number=many), timeout=TIMEOUT)
    assert await numbers(call) == list(range(many))
    assert await call.code() is StatusCode.OK


@pytest.mark.parametrize("values", [(), (7,), tuple(range(20))], ids=len)
async def test_a_stream_of_requests(mesh: Mesh, values: tuple[int, ...]) -> None:
    def gather(requests: Iterator[Question], context: grpc.ServicerContext) -> Answer:
        return Answer(number=sum(request.number for request in requests))

    assert (await (await mesh.serve(gather=gather)).Gather(questions(*values), timeout=TIMEOUT)).number == sum(values)


@pytest.mark.parametrize("values", [(), (7,), tuple(range(20))], ids=len)
async def test_streams_both_ways(mesh: Mesh, values: tuple[int, ...]) -> None:
    def talk(requests: Iterator[Question], context: grpc.ServicerContext) -> Iterator[Answer]:
        for request in requests:
            yield Answer(number=request.number)

    call = (await mesh.serve(talk=talk)).Talk(questions(*values), timeout=TIMEOUT)
    assert await numbers(call) == list(values)


async def test_requests_are_read_while_responses_are_given(mesh: Mesh) -> None:
    def talk(requests: Iterator[Question], context: grpc.ServicerContext) -> Iterator[Answer]:
        for request in requests:
            yield Answer(number=request.number + 1)

    call = (await mesh.serve(talk=talk)).Talk(timeout=TIMEOUT)
    for number in (1, 10, 100):
        await call.write(Question(number=number))
        assert (await call.read()).number == number + 1
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("kind", ["gather", "tell", "talk"])
async def test_they_run_in_the_given_pool(mesh: Mesh, threads: ThreadPoolExecutor, kind: str) -> None:
    def gather(requests: Iterator[Question], context: grpc.ServicerContext) -> Answer:
        assert len(list(requests)) == 1
        return Answer(text=threading.current_thread().name)

    def tell(request: Question, context: grpc.ServicerContext) -> Iterator[Answer]:
        yield Answer(text=threading.current_thread().name)

    def talk(requests: Iterator[Question], context: grpc.ServicerContext) -> Iterator[Answer]:
        for _request in requests:
            yield Answer(text=threading.current_thread().name)

    stub = await mesh.serve(gather=gather, tell=tell, talk=talk, migration_thread_pool=threads)
    if kind == "gather":
        answer = await stub.Gather(questions(1), timeout=TIMEOUT)
    else:
        call = stub.Tell(Question(), timeout=TIMEOUT) if kind == "tell" else stub.Talk(questions(1), timeout=TIMEOUT)
        (answer,) = [answer async for answer in call]
    assert answer.text.startswith("pool")


async def test_a_slow_one_blocks_nobody(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    gate = threading.Event()

    def tell(request: Question, context: grpc.ServicerContext) -> Iterator[Answer]:
        yield Answer(number=1)
        gate.wait(TIMEOUT)
        yield Answer(number=2)

    async def ask(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        return Answer(text="meanwhile")

    stub = await mesh.serve(ask, tell=tell, migration_thread_pool=threads)
    call = stub.Tell(Question(), timeout=TIMEOUT)
    assert (await call.read()).number == 1
    assert (await stub.Ask(Question(), timeout=TIMEOUT)).text == "meanwhile"
    gate.set()
    assert (await call.read()).number == 2
    assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("how", ["abort", "set", "raise"])
async def test_an_error_in_the_middle(mesh: Mesh, threads: ThreadPoolExecutor, how: str) -> None:
    gate = threading.Event()

    def tell(request: Question, context: grpc.ServicerContext) -> Iterator[Answer]:
        yield Answer(number=1)
        gate.wait(TIMEOUT)
        if how == "abort":
            context.abort(StatusCode.NOT_FOUND, "gone")
        elif how == "raise":
            raise ValueError("secret")
        context.set_code(StatusCode.NOT_FOUND)
        context.set_details("gone")

    call = (await mesh.serve(tell=tell, migration_thread_pool=threads)).Tell(Question(), timeout=TIMEOUT)
    assert (await call.read()).number == 1
    gate.set()
    error = await failure(call.read())
    if how == "raise":
        assert error.code() is StatusCode.UNKNOWN
        assert ("secret" in error.details()) == mesh.shows_exceptions
    else:
        assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "gone")


async def test_a_generator_stays_in_one_thread(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    """As sqlite3 and others demand."""

    def tell(request: Question, context: grpc.ServicerContext) -> Iterator[Answer]:
        for _ in range(20):
            yield Answer(number=threading.get_ident())

    stub = await mesh.serve(tell=tell, migration_thread_pool=threads)
    calls = [numbers(stub.Tell(Question(), timeout=TIMEOUT)) for _ in range(4)]
    for idents in await asyncio.gather(*calls):
        assert len(set(idents)) == 1


async def test_variables_of_the_context_last_for_the_call(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    def tell(request: Question, context: grpc.ServicerContext) -> Iterator[Answer]:
        for _ in range(3):
            variable.set(variable.get() + request.number)
            yield Answer(number=variable.get())

    stub = await mesh.serve(tell=tell)  # a pool of grpc.aio's would keep the variables from call to call
    assert await numbers(stub.Tell(Question(number=10), timeout=TIMEOUT)) == [10, 20, 30]


async def test_metadata_both_ways(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    def talk(requests: Iterable[Question], context: grpc.ServicerContext) -> Iterator[Answer]:
        sent = dict(pairs(context.invocation_metadata()))
        context.send_initial_metadata((("begin", "1"),))
        yield Answer(text=sent["key"])
        context.set_trailing_metadata((("end-bin", b"\xff"),))

    call = (await mesh.serve(talk=talk, migration_thread_pool=threads)).Talk(
        [], timeout=TIMEOUT, metadata=(("key", "value"),)
    )
    assert [answer.text async for answer in call] == ["value"]
    assert pairs(await call.initial_metadata()) == [("begin", "1")]
    assert pairs(await call.trailing_metadata()) == [("end-bin", b"\xff")]


async def test_a_cancel_ends_the_requests(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def gather(requests: Iterator[Question], context: grpc.ServicerContext) -> Answer:
        for request in requests:
            loop.call_soon_threadsafe(seen.put_nowait, request.text)
        loop.call_soon_threadsafe(seen.put_nowait, "end")
        return Answer()

    call = (await mesh.serve(gather=gather, migration_thread_pool=threads)).Gather()
    await call.write(Question(text="first"))
    assert await asyncio.wait_for(seen.get(), TIMEOUT) == "first"
    call.cancel()
    assert await asyncio.wait_for(seen.get(), TIMEOUT) == "end"


async def test_the_deadline_frees_the_caller_though_the_thread_goes_on(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    release, ended = threading.Event(), threading.Event()

    def gather(requests: Iterator[Question], context: grpc.ServicerContext) -> Answer:
        release.wait(TIMEOUT)
        ended.set()
        return Answer(text="too late")

    call = (await mesh.serve(gather=gather, migration_thread_pool=threads)).Gather(questions(1), timeout=0.3)
    try:
        assert (await failure(call)).code() is StatusCode.DEADLINE_EXCEEDED
        assert not ended.is_set()
    finally:
        release.set()
    assert await asyncio.to_thread(ended.wait, TIMEOUT)
