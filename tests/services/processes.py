"""The reference services as real processes, on a mesh of the test's own."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import rpc
from tests.cli.commands import Command, Commands, closing

ROOT = Path(__file__).parent.parent.parent
SERVING = r"serving .* as instance"


@pytest.fixture
def prefix() -> str:
    """They share a broker."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def commands(nats_url: str, prefix: str, tmp_path: Path) -> Iterator[Commands]:
    """Runs ``natsmesh ...`` in the repository; files that services keep are the test's own."""
    files = {"CLICKS_DB": str(tmp_path / "clicks.duckdb"), "LOGS_DB": str(tmp_path / "logs.duckdb")}
    with closing(Commands(ROOT, NATS_URL=nats_url, NATSMESH_PREFIX=prefix, **files)) as commands:
        yield commands


@pytest.fixture
async def channel(nats_url: str, prefix: str) -> AsyncIterator[rpc.Channel]:
    async with rpc.Channel(nats_url, prefix=prefix) as channel:
        yield channel


@pytest.fixture
async def publisher(nats_url: str, prefix: str) -> AsyncIterator[rpc.Publisher]:
    async with rpc.Publisher(nats_url, prefix=prefix) as publisher:
        yield publisher


async def serving(command: Command) -> Command:
    """Wait until a back-end serves."""
    await asyncio.to_thread(command.says, SERVING)
    return command
