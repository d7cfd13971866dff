"""A hundred thousand calls of all kinds that end in every possible way leave nothing behind: no task, no subscription,
no entry in a table, no memory.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc import aio

import rpc
from tests.streams.buses import KINDS, Bus, MemoryBus, NatsBus, handlers, leftovers, method, options, released
from tests.waiting import until

ENDINGS = ("success", "error", "exception", "caller", "back-end", "deadline", "forgotten")
WEIGHTS = (55, 10, 2, 12, 8, 8, 5)


class Mixture:
    """Calls of all kinds and endings; the request says what the handler is to do."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.running = 0
        self.codes: Counter[str] = Counter()

    # ------------------------------------------------------------------------------------------------- the back-end

    async def behave(self, ending: bytes, context: Any) -> None:
        if ending == b"error":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        elif ending == b"exception":
            raise RuntimeError("broken")
        elif ending == b"back-end":
            context.cancel()
            await asyncio.sleep(30)
        elif ending != b"success":
            await asyncio.sleep(30)

    async def unary(self, request: bytes, context: Any) -> bytes:
        async with _Running(self):
            await self.behave(request, context)
            return request

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        async with _Running(self):
            async for request in requests:
                await self.behave(request, context)
            return b"done"

    async def spread(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        async with _Running(self):
            yield b"first"
            await self.behave(request, context)
            yield b"second"

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async with _Running(self):
            async for request in requests:
                yield request
                await self.behave(request, context)

    @property
    def behaviors(self) -> dict[str, Any]:
        return {"unary": self.unary, "collect": self.collect, "spread": self.spread, "talk": self.talk}

    # --------------------------------------------------------------------------------------------------- the callers

    async def requests(self, ending: str) -> AsyncIterator[bytes]:
        yield b"success"
        yield ending.encode()

    async def make(self, channel: aio.Channel, count: int) -> None:
        for _ in range(count):
            kind = self.chance.choice(KINDS)
            (ending,) = self.chance.choices(ENDINGS, WEIGHTS)
            timeout = self.chance.random() * 0.02 if ending == "deadline" else 30
            request: Any = ending.encode() if kind in ("unary", "spread") else self.requests(ending)
            call = method(channel, kind)(request, timeout=timeout)
            if ending == "forgotten" and kind in ("spread", "talk"):
                async for _response in call:
                    break
                self.codes["forgotten"] += 1
                del call
                continue
            if ending in ("caller", "forgotten"):
                await asyncio.sleep(self.chance.choice((0, 0, self.chance.random() * 0.02)))
                call.cancel()
            with suppress(aio.AioRpcError, asyncio.CancelledError):
                if kind in ("unary", "collect"):
                    await call
                else:
                    async for _response in call:
                        pass
            self.codes[(await call.code()).name] += 1


class _Running:
    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture

    async def __aenter__(self) -> None:
        self.mixture.running += 1

    async def __aexit__(self, *_exception: object) -> None:
        self.mixture.running -= 1


async def census() -> Counter[str]:
    """The objects of ours and of asyncio that are alive."""
    for _ in range(2):
        gc.collect()
        await asyncio.sleep(0.05)  # Generators that were forgotten are closed by the event loop.
    kinds: Counter[str] = Counter()
    for one in gc.get_objects():
        if isinstance(one, asyncio.TimerHandle):
            continue  # Deadlines share timers, and these last: their number is bounded, and they hold no call.
        kind = type(one)
        if str(kind.__module__).split(".")[0] in ("rpc", "asyncio", "_asyncio") or kind.__name__ in (
            "coroutine",
            "async_generator",
        ):
            kinds[kind.__qualname__] += 1
    return kinds


async def settled(mixture: Mixture, *ends: Any) -> None:
    """Everything has come to rest: also what only roll calls or time can end."""
    await until(lambda: not mixture.running, 15)
    await released(*ends, seconds=15)
    for end in ends:
        transport = end._transport
        await until(lambda transport=transport: not transport._tasks, 15)
        if isinstance(end, rpc.Channel):
            await until(lambda transport=transport: not transport._abandoned and transport._sweeper is None, 15)
        else:
            await until(lambda transport=transport: transport._sweeper is None, 15)
            assert (end._limit.running, end._limit.waiting) == (0, 0)


async def run(bus: Bus, calls: int, *, at_once: int = 100) -> Mixture:
    mixture = Mixture(seed=5)
    server = await bus.serve(**mixture.behaviors)
    channel = bus.channel()

    async def make(count: int) -> None:
        await asyncio.gather(*(mixture.make(channel, count // at_once) for _ in range(at_once)))

    await make(calls // 10)
    await settled(mixture, server, channel)
    tasks, objects = len(asyncio.all_tasks()), await census()
    blocks = sys.getallocatedblocks()
    begin = time.perf_counter()
    await make(calls)
    seconds = time.perf_counter() - begin
    await settled(mixture, server, channel)
    assert sum(mixture.codes.values()) == calls + calls // 10
    assert leftovers(server, channel) == []
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    grown = await census() - objects
    more_blocks = sys.getallocatedblocks() - blocks
    print(f"{calls} calls in {seconds:.1f} s: {dict(mixture.codes)}; grown: {dict(grown)}, {more_blocks} blocks")
    # What grows by one with each call, or with each tenth one, is far beyond; the last calls may be held for a while.
    assert not {kind: many for kind, many in grown.items() if many > calls // 200}
    assert more_blocks < calls // 5
    return mixture


@pytest.mark.timeout(300)
async def test_a_hundred_thousand_calls_leave_nothing_behind(
    memory: MemoryBus, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")  # a traceback for each exception of a handler is as it should be, but not here
    mixture = await run(memory, 100_000)
    assert {"OK", "NOT_FOUND", "UNKNOWN", "CANCELLED", "DEADLINE_EXCEEDED", "forgotten"} == set(mixture.codes)
    before = len(memory.mesh.interests)
    assert before == len({id(one) for one in memory.mesh.interests})
    await memory.close()
    assert memory.mesh.interests == []
    memory.channels.clear()
    memory.servers.clear()


async def test_calls_on_a_broker_leave_nothing_behind(nats: NatsBus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    await run(nats, 10_000)


async def test_dead_peers_leave_nothing_behind(memory: MemoryBus) -> None:
    """Back-ends that vanish without a word, again and again, with hundreds of calls in them."""
    mixture = Mixture(seed=6)
    channel = memory.channel()
    standing: list[Any] = []
    codes: Counter[str] = Counter()
    for _ in range(5):
        server = rpc.Server(memory.connection(), options=options())
        server.add_generic_rpc_handlers([handlers(**mixture.behaviors)])
        await server.start()
        for number in range(400):
            kind = KINDS[number % 4]
            request: Any = b"wait" if kind in ("unary", "spread") else mixture.requests("wait")
            standing.append(method(channel, kind)(request))
        await until(lambda: mixture.running == 400)
        await asyncio.sleep(0.05)
        for one in [one for one in memory.mesh.interests if one.owner is server._connection]:
            one.remove()
        server._connection.set_connected(False)  # type: ignore[attr-defined]
        codes.update([(await call.code()).name for call in standing])
        standing.clear()
        await until(lambda: not mixture.running)
        await server.stop(None)
    assert codes == {"UNAVAILABLE": 2000}
    await settled(mixture, channel)
