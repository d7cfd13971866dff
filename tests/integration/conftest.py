"""A real broker and real processes for the tests in this folder."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import rpc
from tests.integration.processes import Backends


@pytest.fixture
def prefix() -> str:
    """A mesh of its own for each test: they share a broker."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def backends(nats_url: str, tmp_path: Path, prefix: str) -> Iterator[Backends]:
    """Starts back-end processes on the shared broker; they end with the test."""
    backends = Backends(nats_url, tmp_path, prefix)
    yield backends
    backends.close()


@pytest.fixture
def backends_at(tmp_path: Path, prefix: str) -> Iterator[Callable[[str], Backends]]:
    """The same for a broker of the test's own: ``backends_at(url)``."""
    made: list[Backends] = []

    def make(url: str) -> Backends:
        made.append(Backends(url, tmp_path, prefix))
        return made[-1]

    yield make
    for backends in made:
        backends.close()


@pytest.fixture
async def channel(nats_url: str, prefix: str) -> AsyncIterator[rpc.Channel]:
    """A channel to the test's mesh on the shared broker."""
    async with rpc.Channel(nats_url, prefix=prefix) as channel:
        yield channel
