"""Syslog over real sockets: nothing that is sent over TCP gets lost, UDP is bounded, garbage is borne."""

import asyncio
import logging
import logging.handlers
import socket
from collections.abc import AsyncIterator

import pytest

from mesh.v1 import log_pb2
from natsmesh.syslog.listener import Listener
from rpc.logs.shipper import Backlog, Shipper


class Mesh:
    """A listener whose records end in a list, as fast as the test allows."""

    def __init__(self) -> None:
        self.records: list[log_pb2.LogRecord] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.backlog = Backlog(capacity=200)
        self.shipper = Shipper(self.backlog, lambda number: log_pb2.LogRecord(body=f"{number} dropped"))
        self.listener = Listener(self.backlog, self.shipper, max_connections=3)

    async def publish(self, record: log_pb2.LogRecord, _key: str) -> None:
        await self.takes.wait()
        self.records.append(record)

    @property
    def bodies(self) -> list[str]:
        return [record.body for record in self.records]

    async def has(self, number: int) -> None:
        async with asyncio.timeout(10):
            while len(self.records) < number:
                await asyncio.sleep(0.01)


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    mesh = Mesh()
    running = asyncio.create_task(mesh.shipper.run(mesh.publish))
    await mesh.listener.start("127.0.0.1", 0)
    yield mesh
    await mesh.listener.close()
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_pythons_own_handler(mesh: Mesh, kind: socket.SocketKind) -> None:
    def log() -> None:
        handler = logging.handlers.SysLogHandler(("127.0.0.1", mesh.listener.port), socktype=kind)
        handler.ident = "shop: "
        logger = logging.Logger("x")  # noqa: LOG001 - of no hierarchy
        logger.addHandler(handler)
        for number in range(50):
            logger.error("order %d", number)
        handler.close()

    await asyncio.to_thread(log)
    await mesh.has(50)
    assert sorted(mesh.bodies) == sorted(f"order {number}" for number in range(50))
    assert {(record.service, record.severity, record.host) for record in mesh.records} == {("shop", 17, "127.0.0.1")}


async def test_who_sends_over_tcp_waits_for_room(mesh: Mesh) -> None:
    mesh.takes.clear()
    messages = [f"<14>1 - - app - - - {number} {'x' * 2000}" for number in range(20_000)]
    _, writer = await asyncio.open_connection("127.0.0.1", mesh.listener.port)

    async def send() -> None:
        for message in messages:
            writer.write(f"{len(message)} {message}".encode())
            await writer.drain()
        writer.close()

    sending = asyncio.create_task(send())
    async with asyncio.timeout(10):
        while not mesh.backlog.is_full:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert not sending.done()
    mesh.takes.set()
    await sending
    await mesh.has(20_000)
    assert {body.split()[0] for body in mesh.bodies} == {str(number) for number in range(20_000)}
    assert mesh.backlog.dropped == 0


async def test_what_comes_too_fast_over_udp_is_counted(mesh: Mesh) -> None:
    mesh.takes.clear()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(2000):
            sender.sendto(f"<14>1 - - app - - - {number}".encode(), ("127.0.0.1", mesh.listener.port))
            if number % 50 == 0:
                await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while not mesh.backlog.dropped:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    dropped = mesh.backlog.dropped
    mesh.takes.set()
    await mesh.has(2001 - dropped)
    assert f"{dropped} dropped" in mesh.bodies


async def test_garbage_is_borne(mesh: Mesh) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for data in (b"", b"\0\0", b"\xff\xfe\x00<", b"<", b"<14>", b"x" * 60_000):
            sender.sendto(data, ("127.0.0.1", mesh.listener.port))
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n\r\n", b"999999 <14>a"):
        _, writer = await asyncio.open_connection("127.0.0.1", mesh.listener.port)
        writer.write(data)
        writer.close()
        await writer.wait_closed()
    _, writer = await asyncio.open_connection("127.0.0.1", mesh.listener.port)
    writer.write(b"<14>1 - - app - - - still here\n")
    await writer.drain()
    async with asyncio.timeout(10):
        while "still here" not in mesh.bodies:
            await asyncio.sleep(0.01)
    assert "GET / HTTP/1.1" in mesh.bodies
    writer.close()


async def test_connections_are_bounded(mesh: Mesh) -> None:
    connections = [await asyncio.open_connection("127.0.0.1", mesh.listener.port) for _ in range(3)]
    async with asyncio.timeout(10):
        while len(mesh.listener._connections) < 3:
            await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.listener.port)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    connections[0][1].write(b"<14>1 - - app - - - one of them\n")
    await mesh.has(1)
    for _, each in [*connections, (reader, writer)]:
        each.close()
