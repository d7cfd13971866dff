"""Runs every contract test on grpc.aio and on both transports of natsmesh."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rpc.embedded import Broker
from tests.contract.meshes import GrpcMesh, MemoryTransport, Mesh, NatsTransport


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    with Broker(port=0) as broker:
        yield broker.url


@pytest.fixture(params=["grpc", "memory", "nats"])
async def mesh(request: pytest.FixtureRequest) -> AsyncIterator[Mesh]:
    made: Mesh
    if request.param == "grpc":
        made = GrpcMesh()
    elif request.param == "memory":
        made = MemoryTransport()
    else:
        made = NatsTransport(request.getfixturevalue("broker_url"))
    yield made
    await made.close()


@pytest.fixture
async def threads() -> AsyncIterator[ThreadPoolExecutor]:
    """A pool for sync handlers. In grpc.aio these wait for the event loop when they abort: it must run to the end."""
    pool = ThreadPoolExecutor(4, "pool")
    yield pool
    await asyncio.to_thread(pool.shutdown)
