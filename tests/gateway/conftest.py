"""Gateways for tests: one with a canned back-end for what is about HTTP, others on a mesh."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

import pytest

import rpc
from gateway.app import Gateway
from gateway.config import Config
from gateway.filters import Surroundings, application, route_filters
from gateway.schema import load_schema
from gateway.unary import UnaryServer
from rpc import Call, Connection
from rpc.testing import MemoryMesh
from tests.gateway.asgi import Client
from tests.gateway.contracts import Messages, library
from tests.gateway.worlds import World

_load = cache(load_schema)

# Envoy's wheel is for Linux.
collect_ignore = [] if sys.platform == "linux" else ["test_envoy_oracle.py"]


class CannedGateway:
    """A gateway for one schema whose calls end in a function of the test instead of on a bus.

    ``calls`` are those that were made. ``respond`` decides what becomes of them; by default they are answered with an
    empty message.
    """

    def __init__(self, schema: bytes, service: str, config: Config) -> None:
        self.calls: list[Call] = []
        self.respond: Callable[[Call], None] = lambda call: None
        self.messages = Messages(schema)
        self.gateway = Gateway(config)
        unary = self.gateway._unary = UnaryServer(self._invoke, config, tracer=None)
        nowhere: Any = None
        self.gateway._filters = route_filters(config, Surroundings(unary, nowhere))
        self.gateway._catalog._routes[service] = self.gateway._compile(_load(schema, service))
        self.gateway._catalog._publish()
        self.client = Client(application(self.gateway, config))
        self._input = {
            method.name: (method.input_type.full_name, method.output_type.full_name)
            for method in self.messages.pool.FindServiceByName(service).methods
        }

    async def _invoke(self, call: Call) -> None:
        self.calls.append(call)
        call.response = b""
        self.respond(call)

    def answer(self, value: dict[str, Any]) -> None:
        """Answer calls with this message, given as its JSON."""

        def respond(call: Call) -> None:
            call.response = self.messages.write(self._input[call.info.name][1], value)

        self.respond = respond

    def fail(self, error: Exception, trailing_metadata: Any = ()) -> None:
        """Let calls end with this error."""

        def respond(call: Call) -> None:
            call.trailing_metadata = trailing_metadata
            raise error

        self.respond = respond

    def request(self, number: int = -1) -> dict[str, Any]:
        """What a call was asked, as JSON."""
        call = self.calls[number]
        assert isinstance(call.request, bytes)
        return self.messages.read(self._input[call.info.name][0], call.request)


@pytest.fixture
async def canned() -> CannedGateway:
    return CannedGateway(library(), "library.v1.Library", Config())


@pytest.fixture(params=["memory", "nats"])
async def world(request: pytest.FixtureRequest, memory_mesh: MemoryMesh) -> AsyncIterator[World]:
    async def connect() -> Connection:
        connection: Connection
        if request.param == "memory":
            connection = memory_mesh.connection()
            await connection.connect()
        else:
            connection = await rpc.connect(request.getfixturevalue("nats_url"))
        return connection

    world = World(connect, f"t{secrets.token_hex(4)}")
    yield world
    await world.close()
