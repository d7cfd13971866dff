"""Publishes and takes events: the same for every peer, whose module says how.

    python -m benchmarks.programs.events_client <module> <nats url> publish|consume

Does what the lines on its standard input say, and answers each with a line: `RESULT {...}`.

    {"events": 50000, "first": 0}     publish: so many, each confirmed; `WINDOW` of them wait for that at most
    {"events": 50000}                 consume: from now on, until so many are handled and acknowledged

Ends with status 1 when anything is missing after `LIMIT`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from abc import ABC, abstractmethod
from typing import Any

import nats
import uvloop

WINDOW = 1000
BATCH = 1000
LIMIT = 60.0
"""Seconds that everything must be done in."""
POLL = 0.02
"""Seconds between two looks at what is left."""

PAGES = [f"/page/{number}" for number in range(100)]


def fields(number: int) -> dict[str, Any]:
    """What is in the event with this number."""
    return {
        "page": PAGES[number % 100],
        "visitor": f"visitor-{number % 1009}",
        "at_ms": 1_800_000_000_000 + number,
        "count": 1,
    }


class Counts:
    """What all handlers do with events: count them by page."""

    def __init__(self) -> None:
        self.by_page: dict[str, int] = {}
        self.batches = 0

    def add(self, page: str, count: int) -> None:
        self.by_page[page] = self.by_page.get(page, 0) + count

    @property
    def total(self) -> int:
        """Events so far."""
        return sum(self.by_page.values())


class Events(ABC):
    """How one peer is used."""

    stream: str
    consumer: str

    def __init__(self, url: str) -> None:
        self.url = url
        self.counts = Counts()

    @abstractmethod
    async def open(self) -> None:
        """Connects, to publish; makes the stream."""

    @abstractmethod
    async def publish(self, number: int) -> None:
        """Publishes an event; returns when it is confirmed."""

    async def publish_all(self, numbers: range) -> None:
        """Publishes events, `WINDOW` at a time."""
        left = iter(numbers)

        async def loop() -> None:
            for number in left:
                await self.publish(number)

        await asyncio.gather(*(loop() for _ in range(WINDOW)))

    @abstractmethod
    async def prepare(self) -> None:
        """Connects, to consume; takes nothing yet."""

    @abstractmethod
    async def consume(self) -> None:
        """Begins to take events, in batches, into `counts`."""


async def publish(events: Events) -> None:
    """Publishes what is asked for."""
    await events.open()
    while order := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(order)
        began = time.perf_counter()
        async with asyncio.timeout(LIMIT):
            await events.publish_all(range(asked["first"], asked["first"] + asked["events"]))
        answer({"events": asked["events"], "seconds": time.perf_counter() - began})


async def consume(events: Events) -> None:
    """Consumes once."""
    await events.prepare()
    jetstream = (await nats.connect(events.url)).jetstream()
    answer({})
    asked = json.loads(await asyncio.to_thread(sys.stdin.readline))
    began = time.perf_counter()
    async with asyncio.timeout(LIMIT):
        await events.consume()
        while events.counts.total < asked["events"]:  # noqa: ASYNC110 - the peer's own code counts, and tells nobody
            await asyncio.sleep(POLL)
        while True:
            left = await jetstream.consumer_info(events.stream, events.consumer)
            if not left.num_pending and not left.num_ack_pending:
                break
            await asyncio.sleep(POLL)
    seconds = time.perf_counter() - began
    if events.counts.total != asked["events"]:
        raise SystemExit(f"{events.counts.total} events instead of {asked['events']}")
    answer({"events": events.counts.total, "batches": events.counts.batches, "seconds": seconds})
    await asyncio.to_thread(sys.stdin.read)


def answer(result: dict[str, Any]) -> None:
    """Tells the harness."""
    print("RESULT " + json.dumps(result), flush=True)


async def main() -> None:
    """The command line; see the module's text."""
    module = importlib.import_module(f"benchmarks.programs.{sys.argv[1]}")
    await {"publish": publish, "consume": consume}[sys.argv[3]](module.Events(sys.argv[2]))


if __name__ == "__main__":
    uvloop.run(main())
