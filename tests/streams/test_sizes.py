"""Messages of every size that could matter, both ways, of all kinds; what is too large is refused where it is received,
before memory is spent on it; compression, and what hides in it.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio

from rpc.testing import MemoryMesh
from rpc.transport.memory import DEFAULT_MAX_PAYLOAD, MemoryMessage
from rpc.transport.stream import HEADER_ROOM, MAX_PACKET
from rpc.wire.frames import FRAME_HEADER, INITIAL_WINDOW, MESSAGE_COST, MIN_PART, PACKET_HEADER, PART_HEADER
from tests.streams.buses import KINDS, Bus, MemoryBus, method, options, outcome, released
from tests.waiting import until

MIB = 1024 * 1024
LIMIT = 64 * MIB


def around(size: int, reach: int = 1) -> set[int]:
    return set(range(size - reach, size + reach + 1))


SIZES = sorted(
    {0, 1}
    | around(MIN_PART)
    | around(MAX_PACKET - PACKET_HEADER.size - FRAME_HEADER.size)  # whole in a packet, or not
    | around(MAX_PACKET - PACKET_HEADER.size - FRAME_HEADER.size - PART_HEADER.size + MIN_PART)  # the last part
    | around(MAX_PACKET)
    | around(2 * MAX_PACKET)
    | around(INITIAL_WINDOW // 2 - MESSAGE_COST)
    | around(INITIAL_WINDOW - MESSAGE_COST)
    | around(INITIAL_WINDOW)
    | around(DEFAULT_MAX_PAYLOAD - HEADER_ROOM)  # in one NATS message, or not
    | around(DEFAULT_MAX_PAYLOAD - 12, 3)
    | around(DEFAULT_MAX_PAYLOAD)
    | around(4 * MIB)
)


def pattern(size: int) -> bytes:
    """Bytes that show when some of them are missing, or at another place: a prime number of them, again and again."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def echo_last(requests: AsyncIterator[bytes], context: Any) -> bytes:
    last = b""
    async for request in requests:
        last = request
    return last


async def echo_twice(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield request
    yield request


async def echo_all(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


ECHO: dict[str, Any] = {"unary": echo, "collect": echo_last, "spread": echo_twice, "talk": echo_all}


async def send(channel: aio.Channel, kind: str, data: bytes, **arguments: Any) -> list[bytes]:
    """Sends a message by a call of this kind; returns what comes back."""

    async def requests() -> AsyncIterator[bytes]:
        yield data

    call = method(channel, kind)(data if kind in ("unary", "spread") else requests(), timeout=50, **arguments)
    if kind in ("unary", "collect"):
        return [await call]
    return [one async for one in call]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_size(bus: Bus, kind: str) -> None:
    await bus.serve(settings=options(limit=10, max_receive=LIMIT), **ECHO)
    channel = bus.channel(options(limit=10, max_receive=LIMIT))
    for size in SIZES:
        data = pattern(size)
        assert all(one == data for one in await send(channel, kind, data)), size
    await released(channel, *bus.servers)


@pytest.mark.parametrize("kind", ["spread", "talk"])
async def test_every_size_in_one_stream_behind_each_other(bus: Bus, kind: str) -> None:
    """Small behind large, large behind small: nobody waits for credit that never comes."""
    sizes = [*SIZES, *reversed(SIZES), 0, 0, 2 * MIB, 1]

    async def all_of_them(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for size in sizes:
            yield pattern(size)

    await bus.serve(settings=options(limit=10, max_receive=LIMIT), spread=all_of_them, talk=echo_all)
    channel = bus.channel(options(limit=10, max_receive=LIMIT))

    async def requests() -> AsyncIterator[bytes]:
        for size in sizes:
            yield pattern(size)

    call = method(channel, kind)(b"" if kind == "spread" else requests(), timeout=50)
    assert [len(one) async for one in call] == sizes


@pytest.mark.parametrize("kind", KINDS)
async def test_64_mib(bus: Bus, kind: str) -> None:
    await bus.serve(settings=options(limit=20, max_receive=LIMIT), **ECHO)
    channel = bus.channel(options(limit=20, max_receive=LIMIT))
    data = pattern(LIMIT)
    assert all(one == data for one in await send(channel, kind, data))
    with pytest.raises(aio.AioRpcError) as caught:
        await send(channel, kind, data + b"!")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("max_payload", [8 * 1024, 64 * 1024, 100_000, 300_000, 8 * MIB])
@pytest.mark.parametrize("kind", KINDS)
async def test_brokers_of_other_sizes(kind: str, max_payload: int) -> None:
    bus = MemoryBus()
    bus.mesh = MemoryMesh(max_payload=max_payload)
    await bus.serve(**ECHO)
    channel = bus.channel()
    data = pattern(1000)
    assert all(one == data for one in await send(channel, kind, data, metadata=(("a", "b" * 1000),)))
    data = pattern(3 * MIB)
    if max_payload < 64 * 1024:
        # Packets would be so small that metadata does not fit: it is an error that says what is wrong.
        with pytest.raises(aio.AioRpcError, match="larger than the broker takes"):
            await send(channel, kind, data)
    else:
        assert all(one == data for one in await send(channel, kind, data))
    await bus.close()


# --------------------------------------------------------------------------------------------------------------- limits


class Handlers:
    """Handlers that give or take a message, and note how they ended."""

    def __init__(self, response: bytes = b"") -> None:
        self.response = response
        self.got: list[bytes] = []
        self.ended: list[str] = []
        self.running = 0

    async def unary(self, request: bytes, context: Any) -> bytes:
        self.got.append(request)
        return self.response

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        async with _Ending(self):
            async for request in requests:
                self.got.append(request)
            return self.response

    async def spread(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.got.append(request)
        async with _Ending(self):
            yield self.response
            yield b"next"

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async with _Ending(self):
            async for request in requests:
                self.got.append(request)
                yield self.response

    @property
    def behaviors(self) -> dict[str, Any]:
        return {"unary": self.unary, "collect": self.collect, "spread": self.spread, "talk": self.talk}


class _Ending:
    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers

    async def __aenter__(self) -> None:
        self.handlers.running += 1

    async def __aexit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        self.handlers.running -= 1


TOO_LARGE = [4 * MIB + 1, 5 * MIB, 30 * MIB]


@pytest.mark.parametrize("size", TOO_LARGE)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_that_is_too_large(bus: Bus, kind: str, size: int) -> None:
    handlers = Handlers()
    server = await bus.serve(**handlers.behaviors)
    channel = bus.channel()
    with pytest.raises(aio.AioRpcError) as caught:
        await send(channel, kind, bytes(size))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == f"Received message larger than max ({size} vs. {4 * MIB})"
    assert handlers.got == []
    await until(lambda: not handlers.running)
    await released(server, channel)


@pytest.mark.parametrize("size", TOO_LARGE)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_response_that_is_too_large(bus: Bus, kind: str, size: int) -> None:
    handlers = Handlers(bytes(size))
    server = await bus.serve(**handlers.behaviors)
    channel = bus.channel()
    with pytest.raises(aio.AioRpcError) as caught:
        await send(channel, kind, b"please")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == f"Received message larger than max ({size} vs. {4 * MIB})"
    await until(lambda: not handlers.running)
    await released(server, channel)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["request", "response"])
async def test_what_is_too_large_costs_neither_memory_nor_the_bus(memory: MemoryBus, kind: str, direction: str) -> None:
    data = bytes(64 * MIB)
    handlers = Handlers(data if direction == "response" else b"")
    server = await memory.serve(**handlers.behaviors)
    channel = memory.channel()
    await channel.channel_ready()
    carried = 0

    def count(message: MemoryMessage) -> int:
        nonlocal carried
        carried += len(message.data)
        return 1

    memory.mesh.fault = count
    tracemalloc.start()
    with pytest.raises(aio.AioRpcError) as caught:
        await send(channel, kind, data if direction == "request" else b"")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await released(server, channel)
    assert carried < 3 * MIB
    assert peak < 8 * MIB


# ---------------------------------------------------------------------------------------------------------- compression


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 1000, 300_000, 3 * MIB])
async def test_compressed_messages(memory: MemoryBus, kind: str, size: int) -> None:
    carried = 0

    def count(message: MemoryMessage) -> int:
        nonlocal carried
        carried += len(message.data)
        return 1

    await memory.serve(**ECHO)
    memory.mesh.fault = count
    data = b"abcdefgh" * (size // 8) + b"z" * (size % 8)
    answers = await send(memory.channel(), kind, data, compression=grpc.Compression.Gzip)
    assert all(one == data for one in answers)
    if size > 100_000:
        assert carried < size / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["channel", "call", "server", "handler"])
async def test_who_may_ask_for_compression(bus: Bus, kind: str, side: str) -> None:
    async def spread(request: bytes, context: Any) -> AsyncIterator[bytes]:
        context.set_compression(grpc.Compression.Gzip)
        yield request
        context.disable_next_message_compression()
        yield request

    await bus.serve(**{**ECHO, **({"spread": spread} if side == "handler" else {})})
    channel = bus.channel(compression=grpc.Compression.Gzip if side == "channel" else None)
    arguments = {"compression": grpc.Compression.Gzip} if side == "call" else {}
    data = b"again and " * 50_000
    assert all(one == data for one in await send(channel, kind, data, **arguments))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["request", "response"])
async def test_a_bomb(memory: MemoryBus, kind: str, direction: str) -> None:
    """64 MiB of zeros are 64 KiB compressed."""
    data = bytes(64 * MIB)

    def behavior(behave: Any) -> Any:
        if kind in ("unary", "collect"):

            async def once(request: Any, context: Any) -> bytes:
                context.set_compression(grpc.Compression.Gzip)
                result: bytes = await behave(request, context)
                return data if direction == "response" else result

            return once

        async def more(request: Any, context: Any) -> AsyncIterator[bytes]:
            context.set_compression(grpc.Compression.Gzip)
            async for one in behave(request, context):
                yield data if direction == "response" else one

        return more

    handlers = Handlers()
    server = await memory.serve(**{kind: behavior(handlers.behaviors[kind])})
    channel = memory.channel()
    await channel.channel_ready()
    tracemalloc.start()
    with pytest.raises(aio.AioRpcError) as caught:
        await send(channel, kind, data if direction == "request" else b"", compression=grpc.Compression.Gzip)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "decompressed" in (caught.value.details() or "")
    assert peak < 16 * MIB
    await until(lambda: not handlers.running)
    await released(server, channel)


async def test_a_message_that_is_no_gzip_ends_the_call_on_both_sides(bus: Bus) -> None:
    """A peer's mistake, which only shows when the message is read."""
    handlers = Handlers()
    server = await bus.serve(spread=_waits_after(b"first"), collect=handlers.collect)
    channel = bus.channel()

    down = method(channel, "spread")(b"")
    assert await down.read() == b"first"
    (held,) = server._transport._held.values()  # type: ignore[union-attr]
    held.stream._machine.send_message(b"this is no gzip", compressed=True)  # type: ignore[union-attr]
    await held.stream.flush()  # type: ignore[union-attr]
    with pytest.raises(aio.AioRpcError):
        await down.read()
    assert (await outcome(down))[0] is grpc.StatusCode.INTERNAL
    await released(server, channel)

    up = method(channel, "collect")()
    await up.write(b"first")
    (pending,) = channel._transport._pending.values()
    pending.stream._machine.send_message(b"this is no gzip", compressed=True)  # type: ignore[union-attr]
    await pending.stream.flush()  # type: ignore[union-attr]
    assert (await outcome(up))[0] is grpc.StatusCode.INTERNAL
    await until(lambda: not handlers.running)
    await released(server, channel)


def _waits_after(first: bytes) -> Any:
    async def spread(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield first
        await asyncio.Event().wait()

    return spread
