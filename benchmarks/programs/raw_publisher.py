"""The floor of the streams benchmark: messages published by plain nats-py, as many as are asked for.

    python -m benchmarks.programs.raw_publisher <nats url>

A request to `ASK` names count and size ("<count> <bytes>"); that many messages go to its reply subject. Core NATS has
no flow control, and drops what a subscriber does not take in time. So no more than `WINDOW_BYTES` and
`WINDOW_MESSAGES` are on their way: the subscriber says to `TAKEN` how many it has had, at each half of that.
"""

from __future__ import annotations

import asyncio
import sys

import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

ASK = "bench.raw.ask"
TAKEN = "bench.raw.taken"
WINDOW_BYTES = 8 * 1024 * 1024
WINDOW_MESSAGES = 8192


def window(size: int) -> int:
    """Messages of `size` bytes that may be on their way."""
    return max(2, min(WINDOW_MESSAGES, WINDOW_BYTES // size))


async def main() -> None:
    connection: Client = await nats.connect(sys.argv[1])
    taken = 0
    more = asyncio.Event()
    asked: asyncio.Queue[Msg] = asyncio.Queue()

    async def on_taken(message: Msg) -> None:
        nonlocal taken
        taken = int(message.data)
        more.set()

    await connection.subscribe(TAKEN, cb=on_taken)
    await connection.subscribe(ASK, cb=asked.put)
    while True:
        question = await asked.get()
        count, size = map(int, question.data.split())
        payload, limit, taken = bytes(size), window(size), 0
        for sent in range(count):
            while sent - taken >= limit:
                more.clear()
                await more.wait()
            await connection.publish(question.reply, payload)


if __name__ == "__main__":
    uvloop.run(main())
