"""JetStream of the shared broker, and names of a test's own on it."""

import secrets
from collections.abc import AsyncIterator

import pytest

import rpc
from rpc.jetstream.api import JetStream


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[rpc.Connection]:
    connection = await rpc.connect(nats_url)
    yield connection
    await connection.close()


@pytest.fixture
async def js(connection: rpc.Connection) -> AsyncIterator[JetStream]:
    js = JetStream(connection)
    await js.start()
    yield js
    await js.close()


@pytest.fixture
def name() -> str:
    """A stream of the test's own: its subjects begin with it."""
    return f"t{secrets.token_hex(4)}"
