"""Connections to a real broker that are given up, closed, lost or forked in the middle of something."""

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import rpc
from rpc import Call, MethodInfo, Refusal, StatusCode, StatusError
from rpc.connections import make_connection
from rpc.embedded import Broker
from tests.integration.processes import freeze
from tests.waiting import until

SERVICE = "test.v1.Test"
INFO = MethodInfo(SERVICE, "Do")
TIMEOUT = 10.0

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="none")


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(port=0) as broker:
        yield broker


def server_on(connection: rpc.Connection) -> rpc.Server:
    async def do(request: bytes, context: object) -> bytes:
        return request

    server = rpc.Server(connection)
    handler = grpc.unary_unary_rpc_method_handler(do)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Do": handler})])
    return server


@pytest.fixture
async def channel(broker: Broker) -> AsyncIterator[rpc.Channel]:
    async with rpc.Channel(broker.url, retry=False) as channel:
        yield channel


def other_tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_flush_that_is_given_up_does_no_harm(broker: Broker) -> None:
    """nats-py's client would be deaf from then on."""
    connection = await rpc.connect(broker.url)
    server = server_on(connection)
    await server.start()
    flush = asyncio.create_task(connection.flush())
    await asyncio.sleep(0)
    flush.cancel()
    await asyncio.gather(flush, return_exceptions=True)
    channel = rpc.Channel(connection)
    for _ in range(3):
        await asyncio.wait_for(channel.invoke(Call(INFO)), TIMEOUT)
    await connection.flush()
    await channel.close()
    await server.stop(None)
    await connection.close()


@pytest.mark.parametrize("lost", ["before", "meanwhile"])
async def test_a_server_that_stops_without_a_broker_does_not_come_back_with_it(
    broker: Broker, channel: rpc.Channel, lost: str
) -> None:
    connection = await rpc.connect(broker.url)
    server = server_on(connection)
    await server.start()
    await channel.invoke(Call(INFO))
    if lost == "before":
        broker.kill()
        await until(lambda: not connection.is_connected)
        begin = time.monotonic()
        stopping = asyncio.create_task(server.stop(None))
    else:
        assert broker.pid is not None
        await freeze(broker.pid)
        stopping = asyncio.create_task(server.stop(None))
        await asyncio.sleep(0.2)
        assert not stopping.done()  # it waits for the broker to confirm that no more calls come
        begin = time.monotonic()
        broker.kill()
    await asyncio.wait_for(stopping, TIMEOUT)
    assert time.monotonic() - begin < 3
    await asyncio.to_thread(broker.start)
    await connection.wait_connected()
    await channel.channel_ready()
    await connection.flush()
    with pytest.raises(Refusal) as error:
        await asyncio.wait_for(channel.invoke(Call(INFO)), TIMEOUT)
    assert error.value.reason == "no-responders"
    await connection.close()


@pytest.mark.parametrize("after", range(10))
async def test_a_channel_closed_while_it_connects_leaves_nothing_open(broker: Broker, after: int) -> None:
    channel = rpc.Channel(broker.url)
    call = asyncio.create_task(channel.invoke(Call(INFO)))
    for _ in range(after):
        await asyncio.sleep(0.0002)
    await channel.close()
    with pytest.raises(StatusError) as error:
        await asyncio.wait_for(call, TIMEOUT)
    assert error.value.code in {StatusCode.CANCELLED, StatusCode.UNAVAILABLE}
    await until(lambda: not other_tasks())


@pytest.mark.parametrize("after", range(10))
async def test_nor_does_one_on_a_shared_connection(broker: Broker, after: int) -> None:
    connection = make_connection(broker.url)
    channel = rpc.Channel(connection)
    call = asyncio.create_task(channel.invoke(Call(INFO)))
    for _ in range(after):
        await asyncio.sleep(0.0002)
    await channel.close()
    with pytest.raises(StatusError):
        await asyncio.wait_for(call, TIMEOUT)
    assert not connection._interests  # type: ignore[attr-defined]
    assert not connection._listeners  # type: ignore[attr-defined]
    await connection.close()


async def test_connecting_that_is_given_up_leaves_nothing_open(broker: Broker) -> None:
    descriptors = len(list(Path("/dev/fd").iterdir()))
    for attempt in range(20):
        connection = make_connection(broker.url)
        connecting = asyncio.create_task(connection.connect())
        await asyncio.sleep(0.0002 * attempt)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await connection.close()
    await until(lambda: not other_tasks())
    await until(lambda: len(list(Path("/dev/fd").iterdir())) <= descriptors)


async def test_a_listener_that_raises_does_not_stop_the_reconnect(broker: Broker) -> None:
    def listener(connected: bool) -> None:
        raise ValueError(connected)

    connection = await rpc.connect(broker.url)
    connection.on_state_change(listener)
    for _ in range(2):
        broker.kill()
        await until(lambda: not connection.is_connected)
        await asyncio.to_thread(broker.start)
        await asyncio.wait_for(connection.wait_connected(), 3)
    await connection.close()


async def test_a_flush_waits_for_the_reconnect_but_not_for_ever(broker: Broker) -> None:
    connection = await rpc.connect(broker.url)
    broker.kill()
    await until(lambda: not connection.is_connected)
    with pytest.raises(TimeoutError):
        await connection.flush(0.2)
    flush = asyncio.create_task(connection.flush())
    await asyncio.to_thread(broker.start)
    await flush
    await connection.close()


async def test_a_flush_ends_with_the_connection(broker: Broker) -> None:
    connection = await rpc.connect(broker.url)
    assert broker.pid is not None
    await freeze(broker.pid)
    flush = asyncio.create_task(connection.flush())
    await asyncio.sleep(0.05)
    begin = time.monotonic()
    broker.kill()
    with pytest.raises(ConnectionError):
        await flush
    assert time.monotonic() - begin < 2
    await connection.close()


async def test_publishing_into_a_full_buffer_can_be_cancelled(broker: Broker) -> None:
    """nats-py swallows the cancellation."""
    connection = await rpc.connect(broker.url)
    assert broker.pid is not None
    await freeze(broker.pid)

    async def fill() -> None:
        while True:
            await connection.publish("x", bytes(900_000))

    filling = asyncio.create_task(fill())
    await asyncio.sleep(0.3)
    assert not filling.done()
    filling.cancel()
    done, _ = await asyncio.wait([filling], timeout=2)
    assert done
    assert filling.cancelled()
    os.kill(broker.pid, signal.SIGCONT)
    await connection.close()


async def test_a_start_that_fails_leaves_nothing_and_can_be_repeated(
    broker: Broker, channel: rpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(timeout: float = 0) -> None:
        raise TimeoutError

    connection = await rpc.connect(broker.url)
    server = server_on(connection)
    with monkeypatch.context() as patch:
        patch.setattr(connection, "flush", fail)
        with pytest.raises(TimeoutError):
            await server.start()
    assert not connection._interests  # type: ignore[attr-defined]
    assert not connection._listeners  # type: ignore[attr-defined]
    await server.start()
    await channel.invoke(Call(INFO))
    await server.stop(None)
    await connection.close()


async def test_a_server_that_is_stopped_while_it_starts_is_stopped(broker: Broker, channel: rpc.Channel) -> None:
    server = server_on(make_connection(broker.url))
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    await server.stop(None)
    await starting
    assert not await server.wait_for_termination(1)
    with pytest.raises(Refusal):
        await channel.invoke(Call(INFO))
    await server._connection.close()


FORKING = """
import asyncio, os, sys
import rpc
from rpc.connections import make_connection

connection = make_connection(sys.argv[1])
server = rpc.Server(connection)
child = os.fork()

async def main():
    await connection.connect()
    server._service_names["test.v1.Test"] = None
    await server.start()
    os.write(1, f"{connection.inbox} {server.instance}\\n".encode())  # in one piece: two processes write
    await server.stop(None)
    await connection.close()

asyncio.run(main())
if child:
    os.waitpid(child, 0)
"""


def test_processes_forked_before_they_connected_are_two_for_everyone(broker: Broker) -> None:
    """Else each would get the other one's replies."""
    command = [sys.executable, "-c", FORKING, broker.url]
    output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    parent, child = (line.split() for line in output.splitlines())
    assert parent[0] != child[0]
    assert parent[1] != child[1]


async def test_handlers_keep_the_context_of_their_server_whatever_becomes_of_the_connection(
    broker: Broker, channel: rpc.Channel
) -> None:
    seen: list[str] = []

    async def do(request: bytes, context: object) -> bytes:
        seen.append(VARIABLE.get())
        return b""

    connection = make_connection(broker.url)
    VARIABLE.set("of the call that needed the connection first")
    await connection.connect()
    VARIABLE.set("of the server")
    server = rpc.Server(connection)
    handler = grpc.unary_unary_rpc_method_handler(do)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Do": handler})])
    await server.start()
    await channel.invoke(Call(INFO))
    client = connection._client  # type: ignore[attr-defined]
    client._transport.write(b"PUB too.large 99999999\r\n")  # The broker throws it out, for good.
    await until(lambda: connection._client not in (None, client) and connection.is_connected)  # type: ignore[attr-defined]
    await connection.flush()
    await channel.invoke(Call(INFO))
    assert seen == ["of the server"] * 2
    await server.stop(None)
    await connection.close()


async def test_what_a_connection_logs_has_no_context_of_a_call(broker: Broker) -> None:
    VARIABLE.set("of a call")
    connection = await rpc.connect(broker.url)
    seen: list[str] = []
    connection.on_state_change(lambda connected: seen.append(VARIABLE.get()))
    broker.kill()
    await until(lambda: not connection.is_connected)
    await asyncio.to_thread(broker.start)
    await connection.wait_connected()
    assert seen == ["none", "none"]
    await connection.close()


async def test_many_small_messages_wait_for_a_broker_that_stands_still(broker: Broker) -> None:
    connection = await rpc.connect(broker.url)
    assert broker.pid is not None
    await freeze(broker.pid)
    published = 0

    async def pump() -> None:
        nonlocal published
        while True:
            await connection.publish("x", bytes(10_000))
            published += 10_000
            await asyncio.sleep(0)

    pumps = [asyncio.create_task(pump()) for _ in range(10)]
    await asyncio.sleep(0.5)
    before = published
    await asyncio.sleep(0.2)
    assert published == before
    writer = connection._client._transport._io_writer  # type: ignore[attr-defined]
    assert writer.transport.get_write_buffer_size() < 1024 * 1024
    os.kill(broker.pid, signal.SIGCONT)
    await until(lambda: published > before)
    for one in pumps:
        one.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)
    await connection.close()


async def test_a_request_that_was_written_is_not_called_never_started(
    broker: Broker, channel: rpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker may have got it before the connection broke."""

    async def broken() -> None:
        raise ConnectionResetError

    server = server_on(await rpc.connect(broker.url))
    await server.start()
    await channel.invoke(Call(INFO))
    with monkeypatch.context() as patch:
        patch.setattr(channel._connection._client._transport, "drain", broken)  # type: ignore[attr-defined]
        call = Call(INFO, bytes(500_000))
        await asyncio.wait_for(channel.invoke(call), TIMEOUT)
    assert call.response == call.request
    await server.stop(None)
    await server._connection.close()


async def test_a_malformed_subscription_deafens_no_other_one(broker: Broker) -> None:
    connection = await rpc.connect(broker.url)
    received: list[bytes] = []
    await connection.subscribe("good", lambda message: received.append(message.data))
    for subject in ("", "a b", "a..b"):
        with pytest.raises(ValueError, match="subscribe"):
            await connection.subscribe(subject, lambda message: None)
    await connection.publish("good", b"x")
    await until(lambda: received)
    await connection.close()
