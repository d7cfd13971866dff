"""Questions to the mesh, and answers that are garbage."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rpc
from greeter.v1 import greeter_pb2_grpc
from rpc.discovery.query import parse_reply
from rpc.discovery.schema import digest_of
from rpc.testing import MemoryConnection, MemoryMesh, MemoryMessage
from services.greeter import Greeter

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "name", "id", "version", "metadata", "endpoints"]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=10,
)


def message(data: bytes) -> MemoryMessage:
    return MemoryMessage("x", "", data)


def ping(**changes: Any) -> dict[str, Any]:
    kind = "io.nats.micro.v1.ping_response"
    return {"type": kind, "name": "a_B", "id": "1", "version": "1.0.0", "metadata": {}, **changes}


@pytest.fixture
async def connection(memory_mesh: MemoryMesh) -> MemoryConnection:
    connection = memory_mesh.connection()
    await connection.connect()
    return connection


@pytest.fixture
async def server(memory_mesh: MemoryMesh) -> AsyncIterator[rpc.Server]:
    server = rpc.Server(memory_mesh.connection(), version="1.2.3", metadata={"region": "north"})
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    yield server
    await server.stop(None)


def test_a_reply_is_read() -> None:
    assert parse_reply(message(json.dumps(ping()).encode()), "ping") == ping()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        json.dumps(ping(type="io.nats.micro.v1.info_response")).encode(),
        json.dumps(ping(name=None)).encode(),
        json.dumps(ping(id=5)).encode(),
        json.dumps(ping(version=["1.0.0"])).encode(),
        json.dumps(ping(metadata=None)).encode(),
        json.dumps(ping(metadata=[])).encode(),
        b"1" * 5000,
    ],
    ids=range(14),
)
def test_garbage_is_no_reply(data: bytes) -> None:
    assert parse_reply(message(data), "ping") is None


@given(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_reply_or_none(data: bytes) -> None:
    reply = parse_reply(message(data), "ping")
    assert reply is None or {"type", "name", "id", "version", "metadata"} <= reply.keys()


async def test_all_instances_answer(memory_mesh: MemoryMesh, connection: MemoryConnection, server: rpc.Server) -> None:
    other = rpc.Server(memory_mesh.connection())
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), other)
    await other.start()
    replies = await rpc.discover(connection, "info")
    assert {reply["id"] for reply in replies} == {server.instance, other.instance}
    (one,) = await rpc.discover(connection, "ping", "greeter.v1.Greeter", server.instance)
    assert one["version"] == "1.2.3"
    assert one["metadata"]["region"] == "north"
    assert one["metadata"]["mesh-service"] == "greeter.v1.Greeter"
    await other.stop(None)


async def test_where_nobody_is_the_answer_is_empty_and_comes_at_once(connection: MemoryConnection) -> None:
    async with asyncio.timeout(0.2):
        assert await rpc.discover(connection, "stats", wait=60, longest=60) == []


async def test_garbage_among_the_answers_is_passed_over(
    memory_mesh: MemoryMesh, connection: MemoryConnection, server: rpc.Server
) -> None:
    liar = memory_mesh.connection()
    await liar.connect()

    async def lie(reply: str) -> None:
        for data in (b"", b"{}", b"\xff", json.dumps(ping(id=None)).encode()):
            await liar.publish(reply, data)
            await liar.publish(reply, data, headers={"Status": "100", "x": "y"})

    tasks: list[asyncio.Task[None]] = []
    await liar.subscribe("$SRV.>", lambda message: tasks.append(asyncio.create_task(lie(message.reply))))
    assert [reply["id"] for reply in await rpc.discover(connection, "ping")] == [server.instance]
    assert tasks


@pytest.mark.parametrize(("service", "instance"), [("a b", None), ("a.*", None), (">", None), ("a.B", "x.y z")])
async def test_malformed_names_are_refused(connection: MemoryConnection, service: str, instance: str | None) -> None:
    with pytest.raises(ValueError, match="cannot be part of a NATS subject"):
        await rpc.discover(connection, "info", service, instance)


async def test_a_schema_is_fetched_by_its_digest(connection: MemoryConnection, server: rpc.Server) -> None:
    (info,) = await rpc.discover(connection, "info")
    digest = info["metadata"]["mesh-schema"]
    assert digest_of(await rpc.fetch_schema(connection, digest)) == digest
    with pytest.raises(LookupError, match="no instance serves the schema 000000000000"):
        await rpc.fetch_schema(connection, "0" * 64)


async def test_a_schema_that_is_not_the_one_is_passed_over(
    memory_mesh: MemoryMesh, connection: MemoryConnection, server: rpc.Server
) -> None:
    """Neither alone nor beside those who tell the truth."""
    liar = memory_mesh.connection()
    await liar.connect()
    tasks: list[asyncio.Task[None]] = []
    await liar.subscribe(
        "schema.*", lambda message: tasks.append(asyncio.create_task(liar.publish(message.reply, b"false")))
    )
    (info,) = await rpc.discover(connection, "info")
    digest = info["metadata"]["mesh-schema"]
    assert digest_of(await rpc.fetch_schema(connection, digest)) == digest
    with pytest.raises(TimeoutError):
        await rpc.fetch_schema(connection, "0" * 64, timeout=0.01)


async def test_a_schema_that_does_not_come_is_not_waited_for(
    memory_mesh: MemoryMesh, connection: MemoryConnection
) -> None:
    silent = memory_mesh.connection()
    await silent.connect()
    await silent.subscribe("schema.*", lambda message: None)
    with pytest.raises(TimeoutError):
        await rpc.fetch_schema(connection, "0" * 64, timeout=0.01)


async def test_away_from_the_bus_the_caller_is_told(memory_mesh: MemoryMesh, connection: MemoryConnection) -> None:
    memory_mesh.stop()
    with pytest.raises(ConnectionError):
        await rpc.discover(connection, "info")
    with pytest.raises(ConnectionError):
        await rpc.fetch_schema(connection, "0" * 64)


async def test_a_service_without_a_descriptor_is_served_and_told(
    memory_mesh: MemoryMesh, connection: MemoryConnection, caplog: pytest.LogCaptureFixture
) -> None:
    server = rpc.Server(memory_mesh.connection())
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("no.descriptor.Here", {"Do": handler})])
    await server.start()
    assert "no descriptor of no.descriptor.Here" in caplog.text
    (info,) = await rpc.discover(connection, "info")
    assert info["metadata"]["mesh-service"] == "no.descriptor.Here"
    assert "mesh-schema" not in info["metadata"]
    await server.stop(None)
