"""Cancellations and deadlines, from either side, in every state of every kind of call and at any moment: the other side
hears of it within a round trip, and not only when somebody looks after calls that were lost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc import aio

from rpc.transport.rollcall import INTERVAL
from rpc.wire.stream import INITIAL_WINDOW
from tests.streams.buses import KINDS, Bus, method, outcome, released
from tests.streams.standing import NAMES, Handlers, stand
from tests.waiting import until

SOON = 0.6 * INTERVAL
"""Seconds. A round trip is far less; what roll calls find takes longer."""


@pytest.mark.parametrize("name", NAMES)
async def test_the_caller_cancels(bus: Bus, name: str) -> None:
    handlers = Handlers()
    server = await bus.serve(**handlers.behaviors)
    channel = bus.channel()
    standing = await stand(channel, name)
    await until(lambda: handlers.running)
    await asyncio.sleep(0.05)
    since = time.monotonic()
    assert standing.call.cancel()
    await until(lambda: handlers.ended)
    assert time.monotonic() - since < SOON
    assert handlers.ended == ["cancelled"]
    assert await standing.code() is grpc.StatusCode.CANCELLED
    await released(server, channel)


@pytest.mark.parametrize("name", NAMES)
async def test_the_back_end_cancels(bus: Bus, name: str) -> None:
    handlers = Handlers()
    server = await bus.serve(**handlers.behaviors)
    channel = bus.channel()
    standing = await stand(channel, name)
    await until(lambda: handlers.running)
    await asyncio.sleep(0.05)
    since = time.monotonic()
    (held,) = server._transport._held.values()  # type: ignore[union-attr]
    held.call.cancel(grpc.StatusCode.ABORTED, "enough")
    assert await outcome(standing.call) == (grpc.StatusCode.ABORTED, "enough")
    assert time.monotonic() - since < SOON
    assert handlers.ended == ["cancelled"]
    assert await standing.code() is grpc.StatusCode.ABORTED
    await released(server, channel)


@pytest.mark.parametrize("name", NAMES)
async def test_the_deadline_comes(bus: Bus, name: str) -> None:
    handlers = Handlers()
    server = await bus.serve(**handlers.behaviors)
    channel = bus.channel()
    begin = time.monotonic()
    standing = await stand(channel, name, timeout=0.5)
    assert await standing.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.45 < time.monotonic() - begin < 0.5 + SOON
    await until(lambda: handlers.ended)
    assert time.monotonic() - begin < 0.5 + SOON
    assert handlers.ended == ["cancelled"]
    await released(server, channel)


class Busy:
    """Handlers and callers that read and write at random moments."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.running = 0
        self.last_end = 0.0

    async def pause(self) -> None:
        await asyncio.sleep(self.chance.choice((0, 0, 0.001, 0.005)))

    def message(self) -> bytes:
        return bytes(self.chance.choice((0, 1, 1000, 300_000, INITIAL_WINDOW)))

    async def unary(self, request: bytes, context: Any) -> bytes:
        async with _Busy(self):
            for _ in range(20):
                await self.pause()
            return request

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        async with _Busy(self):
            async for _ in requests:
                await self.pause()
            return self.message()

    async def spread(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        async with _Busy(self):
            await self.pause()
            for _ in range(20):
                yield self.message()
                await self.pause()

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async with _Busy(self):
            async for _ in requests:
                yield self.message()
                await self.pause()

    @property
    def behaviors(self) -> dict[str, Any]:
        return {"unary": self.unary, "collect": self.collect, "spread": self.spread, "talk": self.talk}

    async def requests(self) -> AsyncIterator[bytes]:
        for _ in range(20):
            yield self.message()
            await self.pause()

    async def make(self, call: Any, kind: str) -> grpc.StatusCode:
        """Carries a call to its end, as its caller does."""
        with suppress(aio.AioRpcError, asyncio.CancelledError):
            if kind in ("unary", "collect"):
                await call
            else:
                async for _ in call:
                    await self.pause()
        code: grpc.StatusCode = await call.code()
        return code


class _Busy:
    def __init__(self, busy: Busy) -> None:
        self.busy = busy

    async def __aenter__(self) -> None:
        self.busy.running += 1

    async def __aexit__(self, *_exception: object) -> None:
        self.busy.running -= 1
        self.busy.last_end = time.monotonic()


@pytest.mark.parametrize("by", ["caller", "back-end", "deadline"])
@pytest.mark.parametrize("kind", KINDS)
async def test_at_any_moment(bus: Bus, kind: str, by: str) -> None:
    busy = Busy(seed=1)
    server = await bus.serve(**busy.behaviors)
    channel = bus.channel()
    held = server._transport._held  # type: ignore[union-attr]
    codes: list[grpc.StatusCode] = []
    for number in range(30):
        seconds = number * 0.0014
        timeout = seconds if by == "deadline" else None
        request: Any = b"x" if kind in ("unary", "spread") else busy.requests()
        call = method(channel, kind)(request, timeout=timeout)
        making = asyncio.ensure_future(busy.make(call, kind))
        await asyncio.sleep(seconds)
        since = time.monotonic()
        if by == "caller":
            call.cancel()
        elif by == "back-end":
            await until(lambda making=making: held or making.done())  # type: ignore[misc]
            for one in list(held.values()):
                one.call.cancel(grpc.StatusCode.ABORTED, "enough")
        codes.append(await making)
        await until(lambda: not busy.running)
        assert time.monotonic() - since < SOON
        await released(server, channel)
    right = {
        "caller": grpc.StatusCode.CANCELLED,
        "back-end": grpc.StatusCode.ABORTED,
        "deadline": grpc.StatusCode.DEADLINE_EXCEEDED,
    }[by]
    assert set(codes) <= {right, grpc.StatusCode.OK}
    assert codes.count(right) > 8


async def test_a_status_behind_messages_that_nobody_reads_gives_way_to_the_deadline(bus: Bus) -> None:
    """The handler has returned, its last messages wait for room: the caller learns of the deadline all the same."""

    async def spread(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield bytes(INITIAL_WINDOW)
        yield bytes(INITIAL_WINDOW)

    server = await bus.serve(spread=spread)
    channel = bus.channel()
    call = method(channel, "spread")(b"", timeout=0.5)
    await until(lambda: server._transport._held)  # type: ignore[union-attr]
    assert await outcome(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    await released(server, channel)


async def test_a_caller_that_never_reads_and_cancels(bus: Bus) -> None:
    async def spread(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(100_000)

    server = await bus.serve(spread=spread)
    channel = bus.channel()
    call = method(channel, "spread")(b"")
    await until(lambda: server._transport._held)  # type: ignore[union-attr]
    await asyncio.sleep(0.05)
    call.cancel()
    await released(server, channel, seconds=SOON)


@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND])
async def test_a_handler_that_ends_while_its_caller_is_stuck_in_a_write(bus: Bus, code: grpc.StatusCode) -> None:
    stuck = asyncio.Event()

    async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
        await anext(requests)
        await stuck.wait()
        if code is not grpc.StatusCode.OK:
            await context.abort(code, "enough")
        return b"enough"

    server = await bus.serve(collect=collect)
    channel = bus.channel()
    call = method(channel, "collect")()

    async def write() -> None:
        while True:
            await call.write(bytes(100_000))

    writing = asyncio.ensure_future(write())
    await asyncio.sleep(0.2)
    assert not writing.done()
    stuck.set()
    with pytest.raises((aio.AioRpcError, asyncio.InvalidStateError)):
        await asyncio.wait_for(writing, SOON)
    assert await outcome(call) == (code, "enough" if code is not grpc.StatusCode.OK else "")
    if code is grpc.StatusCode.OK:
        assert await call == b"enough"
    await released(server, channel)


@pytest.mark.parametrize("kind", ["spread", "talk"])
async def test_a_handler_that_swallows_its_cancellation_has_not_ended_well(bus: Bus, kind: str) -> None:
    """Its messages were dropped: OK would be a lie."""

    async def swallow(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    server = await bus.serve(**{kind: swallow})
    channel = bus.channel()
    call = method(channel, kind)(b"") if kind == "spread" else method(channel, kind)()
    assert await call.read() == b"first"
    (held,) = server._transport._held.values()  # type: ignore[union-attr]
    held.call.cancel(grpc.StatusCode.DEADLINE_EXCEEDED, "late")
    assert await outcome(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "late")
    await released(server, channel)
