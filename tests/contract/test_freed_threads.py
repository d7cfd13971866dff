"""Calls that end for a reason on the server's side: what becomes of the threads that serve them."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc import StatusCode

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question


class Reader:
    """A plain function that waits for requests in its thread."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self.ended = threading.Event()

    def gather(self, requests: Iterator[Question], context: grpc.ServicerContext) -> Answer:
        try:
            for _request in requests:
                self.waits.set()
        finally:
            self.ended.set()
        return Answer()


async def test_a_server_that_stops_frees_the_threads_that_wait_for_requests(
    mesh: Mesh, threads: ThreadPoolExecutor
) -> None:
    reader = Reader()
    server = await mesh.start(gather=reader.gather, migration_thread_pool=threads)
    call = mesh.stub().Gather(timeout=TIMEOUT)
    await call.write(Question())
    assert await asyncio.to_thread(reader.waits.wait, TIMEOUT)
    await server.stop(0)
    assert await asyncio.to_thread(reader.ended.wait, TIMEOUT)
    assert (await failure(call)).code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}


@pytest.mark.parametrize("round_", range(3))
async def test_a_deadline_frees_the_threads_that_wait_for_requests(
    mesh: Mesh, threads: ThreadPoolExecutor, round_: int
) -> None:
    reader = Reader()
    stub = await mesh.serve(gather=reader.gather, migration_thread_pool=threads)
    call = stub.Gather(timeout=0.3)
    await call.write(Question())
    assert await asyncio.to_thread(reader.waits.wait, TIMEOUT)
    assert (await failure(call)).code() is StatusCode.DEADLINE_EXCEEDED
    assert await asyncio.to_thread(reader.ended.wait, TIMEOUT)
