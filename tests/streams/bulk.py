"""One end of a transfer of much, in a process of its own.

``python -m tests.streams.bulk server|down|up URL BYTES SIZE``

The reader sleeps. Each end tells how much larger its resident memory is than before the transfer, at the most.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import psutil

import rpc
from tests.streams.buses import handlers, method, options

PAUSE = 1.0
"""Seconds that the reader sleeps at first: all buffers are full then."""
READ_SECONDS = 5.0
"""How long it sleeps between messages, all in all."""


class Memory:
    """Watches the resident memory of this process."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._base = self._now()
        self.growth = 0

    def _now(self) -> int:
        rss: int = self._process.memory_info().rss
        return rss

    def reset(self) -> None:
        self._base, self.growth = self._now(), 0

    async def watch(self) -> None:
        while True:
            self.growth = max(self.growth, self._now() - self._base)
            await asyncio.sleep(0.01)


def tell(**state: object) -> None:
    print(json.dumps(state), flush=True)


def message(number: int, size: int) -> bytes:
    """A message that shows if it is another one; fresh memory, as an application's would be."""
    return number.to_bytes(8, "big") * (size // 8)


async def written(total: int, size: int) -> AsyncIterator[bytes]:
    for number in range(total // size):
        yield message(number, size)


async def read(messages: AsyncIterator[bytes], total: int, size: int) -> int:
    """Reads and sleeps, and checks what comes."""
    count = total // size
    got = 0
    await asyncio.sleep(PAUSE)
    behind = 0.0
    async for one in messages:
        assert len(one) == size
        assert one[:8] == one[-8:] == got.to_bytes(8, "big")
        got += 1
        behind += READ_SECONDS / count
        if behind > 0.001:
            before = time.monotonic()
            await asyncio.sleep(behind)
            behind -= time.monotonic() - before
    return got * size


async def serve(url: str, total: int, size: int) -> None:
    memory = Memory()

    async def spread(request: bytes, context: Any) -> AsyncIterator[bytes]:
        memory.reset()
        async for one in written(int(request), size):
            yield one

    async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
        memory.reset()
        return b"%d" % await read(requests, total, size)

    async def unary(request: bytes, context: Any) -> bytes:
        return request

    server = rpc.Server(url, options=options(limit=5))
    server.add_generic_rpc_handlers([handlers(spread=spread, collect=collect, unary=unary)])
    await server.start()
    watch = asyncio.ensure_future(memory.watch())
    while not watch.done():
        tell(growth=memory.growth)
        await asyncio.sleep(0.1)


async def transfer(role: str, url: str, total: int, size: int) -> None:
    async with rpc.Channel(url, options=options(limit=5)) as channel:
        for _ in range(100):
            await method(channel, "unary")(b"warm")
        memory = Memory()
        watch = asyncio.ensure_future(memory.watch())
        begin = time.monotonic()
        if role == "down":
            done = await read(method(channel, "spread")(b"%d" % total), total, size)
        else:
            done = int(await method(channel, "collect")(written(total, size)))
        tell(growth=memory.growth, done=done, seconds=time.monotonic() - begin)
        watch.cancel()


if __name__ == "__main__":
    arguments = (sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    if sys.argv[1] == "server":
        asyncio.run(serve(*arguments))
    else:
        asyncio.run(transfer(sys.argv[1], *arguments))
    os._exit(0)
