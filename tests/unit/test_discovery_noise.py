"""Others on the bus who answer oddly, a lot, or with headers: discovery goes on, and its memory is bounded."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

import rpc
from greeter.v1 import greeter_pb2_grpc
from rpc.discovery import query as query_module
from rpc.discovery.limits import MAX_NAME
from rpc.discovery.schema import digest_of
from rpc.testing import FakeClock, MemoryConnection, MemoryMesh, MemoryMessage
from services.greeter import Greeter

SERVICE = "greeter.v1.Greeter"
HEADERS = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture
async def clock() -> AsyncIterator[FakeClock]:
    async with FakeClock() as clock:
        yield clock


@pytest.fixture
async def noise(memory_mesh: MemoryMesh) -> MemoryConnection:
    connection = memory_mesh.connection()
    await connection.connect()
    return connection


async def serve(mesh: MemoryMesh) -> rpc.Server:
    server = rpc.Server(mesh.connection(), version="1.0.0")
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    return server


async def answer(connection: MemoryConnection, subject: str, data: bytes) -> None:
    """Answers all questions at a subject with this, and with headers."""
    tasks = set()

    def reply(message: MemoryMessage) -> None:
        tasks.add(asyncio.create_task(connection.publish(message.reply, data, headers=HEADERS)))

    await connection.subscribe(subject, reply)


@pytest.mark.parametrize("data", [b"", b"hm", b"{}"])
async def test_an_odd_answer_with_headers_does_not_end_a_question(
    clock: FakeClock, memory_mesh: MemoryMesh, noise: MemoryConnection, data: bytes
) -> None:
    await answer(noise, "$SRV.INFO", data)  # It subscribed first, so it answers first.
    server = await serve(memory_mesh)
    replies = await clock.run(rpc.discover(noise))
    assert [reply["id"] for reply in replies] == [server.instance]
    await server.stop(None)


async def test_answers_may_have_headers(clock: FakeClock, noise: MemoryConnection) -> None:
    """A back-end in another language may add some to all that it sends."""
    schema = b"any bytes"
    digest = digest_of(schema)
    await answer(noise, f"schema.{digest}", schema)
    assert await clock.run(rpc.fetch_schema(noise, digest)) == schema


async def test_the_answers_to_a_question_are_bounded_in_bytes(
    clock: FakeClock, noise: MemoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_module, "MAX_REPLY_BYTES", 10_000)
    info = {"type": "io.nats.micro.v1.info_response", "name": "a", "id": "1", "version": "1.0.0", "fat": "x" * 900}
    for _ in range(20):
        await answer(noise, "$SRV.INFO", json.dumps(info).encode())
    assert len(await clock.run(rpc.discover(noise))) == 10


@pytest.mark.parametrize("field", ["id", "mesh-service"])
async def test_endless_names_are_passed_over(
    clock: FakeClock, memory_mesh: MemoryMesh, noise: MemoryConnection, field: str
) -> None:
    watcher = rpc.ServiceWatcher(noise)
    await watcher.start()
    info: dict[str, Any] = {
        "type": "io.nats.micro.v1.info_response",
        "name": "a",
        "id": "1",
        "version": "1.0.0",
        "metadata": {"mesh-service": "a.B"},
    }
    (info if field == "id" else info["metadata"])[field] = "x" * (MAX_NAME + 1)
    await noise.publish("mesh.announce.up", json.dumps(info).encode())
    await clock.advance(0.1)
    assert not watcher.services
    await watcher.close()


async def test_a_cancelled_question_is_cancelled_even_while_an_answer_comes(noise: MemoryConnection) -> None:
    """``asyncio.wait_for`` would swallow it (before Python 3.12)."""
    asking = asyncio.create_task(rpc.discover(noise, wait=30, longest=30))
    inbox = ""

    def question(message: MemoryMessage) -> None:
        nonlocal inbox
        inbox = message.reply

    await noise.subscribe("$SRV.INFO", question)
    while not inbox:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    info = {"type": "io.nats.micro.v1.info_response", "name": "a", "id": "1", "version": "1.0.0"}
    await noise.publish(inbox, json.dumps(info).encode())
    await asyncio.sleep(0)
    asking.cancel()
    done, _ = await asyncio.wait([asking], timeout=5)
    assert done
    assert asking.cancelled()
