"""Every test of streams runs in memory and on a real broker, unless it needs one of them."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.streams.buses import Bus, MemoryBus, NatsBus


@pytest.fixture(autouse=True)
def _no_warnings_of_missing_descriptors() -> Iterator[None]:
    """Methods of bytes need none."""
    logger = logging.getLogger("rpc.server")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


@pytest.fixture(params=["memory", "nats"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    made: Bus = MemoryBus() if request.param == "memory" else NatsBus(request.getfixturevalue("nats_url"))
    yield made
    await made.close()


@pytest.fixture
async def memory() -> AsyncIterator[MemoryBus]:
    made = MemoryBus()
    yield made
    await made.close()


@pytest.fixture
async def nats(nats_url: str) -> AsyncIterator[NatsBus]:
    made = NatsBus(nats_url)
    yield made
    await made.close()
