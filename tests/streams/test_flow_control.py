"""A slow reader slows the writer: memory stays bounded on both sides, the broker has no slow consumer, and nobody else
on the connection has to wait.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from rpc.embedded import Broker
from rpc.wire.stream import INITIAL_WINDOW
from tests.streams.buses import Bus, method, options, released
from tests.streams.processes import Peer
from tests.waiting import until

MIB = 1024 * 1024
GIB = 1024 * MIB


@pytest.fixture
def logging_broker(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a broker, and its log."""
    log = tmp_path / "broker.log"
    with log.open("wb") as file, Broker(port=0, output=file, max_payload=MIB) as broker:
        yield broker.url, log


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("total", "size", "most"),
    [
        pytest.param(GIB, 256 * 1024, 20 * MIB, id="small messages"),
        # A message of this size alone is held three times: by the reader, in parts, and when these are joined.
        pytest.param(GIB // 4, 4 * MIB, 32 * MIB, id="large messages"),
    ],
)
@pytest.mark.parametrize("direction", ["down", "up"])
async def test_much_through_a_reader_that_sleeps(
    logging_broker: tuple[str, Path], direction: str, total: int, size: int, most: int
) -> None:
    url, log = logging_broker
    arguments = (url, str(total), str(size))
    async with Peer("server", *arguments, module="bulk") as server:
        await until(lambda: server.state)
        async with Peer(direction, *arguments, module="bulk") as client:
            await until(lambda: client.state, 60)
            assert client.state["done"] == total
            assert client.state["growth"] < most, "the caller's memory"
            assert server.state["growth"] < most, "the back-end's memory"
            assert client.state["seconds"] < 60
            print(direction, size, client.state, server.state)
    assert "slow consumer" not in log.read_text().lower()


async def test_a_writer_waits_for_its_reader(bus: Bus) -> None:
    """As long as nobody reads, about a window is on its way, and not more."""
    written = 0
    block = bytes(10_000)

    async def spread(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal written
        while True:
            yield block
            written += len(block)

    async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    server = await bus.serve(spread=spread, collect=collect)
    channel = bus.channel()
    down = method(channel, "spread")(b"")
    await until(lambda: written > INITIAL_WINDOW * 0.9)
    await asyncio.sleep(0.2)
    assert INITIAL_WINDOW * 0.9 < written < INITIAL_WINDOW * 1.2
    for _ in range(200):  # 2 MB: room for as much again
        assert await down.read() == block
    await until(lambda: written > INITIAL_WINDOW + 1_500_000)
    down.cancel()

    up = method(channel, "collect")()
    sent = 0

    async def write() -> None:
        nonlocal sent
        while True:
            await up.write(block)
            sent += len(block)

    writing = asyncio.ensure_future(write())
    await until(lambda: sent > INITIAL_WINDOW * 0.9)
    await asyncio.sleep(0.2)
    assert sent < INITIAL_WINDOW * 1.2
    up.cancel()
    with pytest.raises((asyncio.CancelledError, aio.AioRpcError, asyncio.InvalidStateError)):
        await writing
    await released(channel, server)


async def test_a_larger_window_takes_in_more(bus: Bus) -> None:
    written = 0
    block = bytes(10_000)

    async def spread(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal written
        while True:
            yield block
            written += len(block)

    await bus.serve(spread=spread)
    call = method(bus.channel(options(window=4 * MIB)), "spread")(b"")
    await until(lambda: written > 4 * MIB * 0.9)
    await asyncio.sleep(0.2)
    assert written < 4 * MIB * 1.2
    call.cancel()


async def test_empty_messages_do_not_pile_up(bus: Bus) -> None:
    """They have no bytes, and cost memory all the same; and a handler that never waits must not stop the others."""
    written = 0

    async def spread(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal written
        while True:
            yield b""
            written += 1

    async def unary(request: bytes, context: Any) -> bytes:
        return request

    await bus.serve(spread=spread, unary=unary)
    channel = bus.channel()
    call = method(channel, "spread")(b"")
    assert await call.read() == b""
    assert await method(channel, "unary")(b"x", timeout=5) == b"x"
    await asyncio.sleep(0.2)
    assert written < 40_000
    call.cancel()


async def latencies(call: Any, count: int) -> list[float]:
    """Seconds that calls took, one after the other, in order of their size."""
    taken: list[float] = []
    for _ in range(count):
        begin = time.perf_counter()
        await call(b"x")
        taken.append(time.perf_counter() - begin)
        await asyncio.sleep(0.001)
    return sorted(taken)


@pytest.mark.parametrize("size", [16, 10_000, 2 * MIB])
async def test_a_slow_stream_does_not_delay_other_calls_of_its_connection(bus: Bus, size: int) -> None:
    block = bytes(size)

    async def spread(request: bytes, context: Any) -> AsyncIterator[bytes]:
        while True:
            yield block

    async def unary(request: bytes, context: Any) -> bytes:
        return request

    await bus.serve(spread=spread, unary=unary)
    channel = bus.channel()
    unary_call = method(channel, "unary")
    alone = await latencies(unary_call, 300)
    stuck = [method(channel, "spread")(b"") for _ in range(5)]
    flowing = method(channel, "spread")(b"")

    async def read_slowly() -> None:
        while True:
            await flowing.read()
            await asyncio.sleep(0.002)

    reading = asyncio.ensure_future(read_slowly())
    await asyncio.sleep(0.1)
    beside = await latencies(unary_call, 300)
    p50, p99 = statistics.median(beside), beside[-3]
    print(f"alone p50 {statistics.median(alone) * 1e3:.2f} ms, p99 {alone[-3] * 1e3:.2f} ms; "
          f"beside slow streams p50 {p50 * 1e3:.2f}, p99 {p99 * 1e3:.2f}")  # fmt: skip
    assert p99 < 0.1
    for call in [*stuck, flowing]:
        call.cancel()
    with pytest.raises((asyncio.CancelledError, aio.AioRpcError)):
        await reading
