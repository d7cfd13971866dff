"""Handlers that are plain functions run in the thread pool."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc import StatusCode

from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs, status
from tests.protos.probe_pb2 import Answer, Question


async def test_it_runs_in_the_given_pool(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        return Answer(text=threading.current_thread().name)

    stub = await mesh.serve(ask, migration_thread_pool=threads)
    assert (await stub.Ask(Question(), timeout=TIMEOUT)).text.startswith("pool")


async def test_without_a_pool_it_runs_in_the_loops(mesh: Mesh) -> None:
    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        return Answer(number=threading.get_ident())

    answer = await (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    assert answer.number != threading.get_ident()


async def test_slow_ones_run_side_by_side_and_block_nobody(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    together = threading.Barrier(4, timeout=TIMEOUT)

    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        together.wait()
        return Answer(number=request.number)

    async def other(request: Question, context: grpc.aio.ServicerContext) -> Answer:
        return Answer(text="meanwhile")

    stub = await mesh.serve(ask, other=other, migration_thread_pool=threads)
    calls = [stub.Ask(Question(number=n), timeout=TIMEOUT) for n in range(3)]
    assert (await stub.Other(Question(), timeout=TIMEOUT)).text == "meanwhile"
    calls.append(stub.Ask(Question(number=3), timeout=TIMEOUT))
    assert [answer.number for answer in await asyncio.gather(*calls)] == [0, 1, 2, 3]


async def test_abort(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        context.abort(StatusCode.NOT_FOUND, "gone")
        return Answer(text="is never reached")

    stub = await mesh.serve(ask, migration_thread_pool=threads)
    assert await status(stub.Ask(Question(), timeout=TIMEOUT)) == (StatusCode.NOT_FOUND, "gone")


async def test_set_code_and_details(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        context.set_code(StatusCode.NOT_FOUND)
        context.set_details("gone")
        return Answer()

    stub = await mesh.serve(ask, migration_thread_pool=threads)
    assert await status(stub.Ask(Question(), timeout=TIMEOUT)) == (StatusCode.NOT_FOUND, "gone")


async def test_an_exception(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        raise ValueError("secret")

    stub = await mesh.serve(ask, migration_thread_pool=threads)
    error = await failure(stub.Ask(Question(), timeout=TIMEOUT))
    assert error.code() is StatusCode.UNKNOWN
    assert ("secret" in error.details()) == mesh.shows_exceptions


async def test_metadata_both_ways(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        sent = pairs(context.invocation_metadata())
        context.send_initial_metadata((("begin", "1"),))
        context.set_trailing_metadata((("end-bin", b"\xff"),))
        return Answer(text=repr(sent))

    stub = await mesh.serve(ask, migration_thread_pool=threads)
    call = stub.Ask(Question(), timeout=TIMEOUT, metadata=(("key", "value"),))
    assert (await call).text == repr([("key", "value")])
    assert pairs(await call.initial_metadata()) == [("begin", "1")]
    assert pairs(await call.trailing_metadata()) == [("end-bin", b"\xff")]


async def test_time_and_peer(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        first = context.time_remaining()
        time.sleep(0.05)
        assert TIMEOUT - 5 < context.time_remaining() < first <= TIMEOUT + 0.1  # grpc.aio rounds up
        assert context.peer_identities() is None
        assert context.peer_identity_key() is None
        return Answer(text=context.peer())

    stub = await mesh.serve(ask, migration_thread_pool=threads)
    assert (await stub.Ask(Question(), timeout=TIMEOUT)).text


async def test_without_a_timeout_the_time_is_none(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        return Answer(text=repr(context.time_remaining()))

    assert (await (await mesh.serve(ask, migration_thread_pool=threads)).Ask(Question())).text == "None"


async def test_the_deadline_frees_the_caller_though_the_thread_goes_on(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    release, ended = threading.Event(), threading.Event()

    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        release.wait(TIMEOUT)
        ended.set()
        return Answer(text="too late")

    stub = await mesh.serve(ask, migration_thread_pool=threads)
    try:
        assert (await failure(stub.Ask(Question(), timeout=0.3))).code() is StatusCode.DEADLINE_EXCEEDED
        assert not ended.is_set()
    finally:
        release.set()
    assert await asyncio.to_thread(ended.wait, TIMEOUT)


async def test_callbacks_run_at_the_end(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    ended = threading.Event()

    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        context.add_callback(ended.set)
        assert not ended.is_set()
        return Answer()

    await (await mesh.serve(ask, migration_thread_pool=threads)).Ask(Question(), timeout=TIMEOUT)
    assert await asyncio.to_thread(ended.wait, TIMEOUT)
