"""The pytest plugin: fixtures for tests of services. pytest finds it by itself where natsmesh is installed.

Nothing is imported or started before a test asks for one of the fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rpc.embedded import Broker
    from rpc.testing import MemoryMesh


@pytest.fixture
def memory_mesh() -> MemoryMesh:
    """A broker in this process: ``memory_mesh.connection()`` is a target for ``rpc.Server`` and ``rpc.Channel``."""
    from rpc.testing import MemoryMesh  # noqa: PLC0415 - most runs of pytest do not need it

    return MemoryMesh()


@pytest.fixture(scope="session")
def nats_server() -> Iterator[Broker]:
    """A real nats-server on a free port, JetStream on, its data in a temporary folder; one for the whole session."""
    from rpc.embedded import Broker  # noqa: PLC0415 - most runs of pytest do not need it

    with Broker(port=0) as broker:
        yield broker


@pytest.fixture(scope="session")
def nats_url(nats_server: Broker) -> str:
    """Where ``nats_server`` listens: a target for ``rpc.Server`` and ``rpc.Channel``."""
    return nats_server.url
