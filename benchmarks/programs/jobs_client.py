"""The client of the jobs benchmark: the same for every peer, whose module says how a job is put into its queue.

    python -m benchmarks.programs.jobs_client <module> <url> [arguments of its Queue]

Does what the lines on its standard input say, and answers each with a line: `RESULT {...}`.

    {"do": "first"}                 one job; answered when its result is there, so when a worker is up
    {"do": "idle", "jobs": 20}      one job after the other: how long one takes when nothing else is done
    {"do": "load", "jobs": 5000}    all at once; answered when all results are stored and nothing is left to redeliver

A job is a number; its result is the next one. Ends with status 1 when a result is wrong, or missing after `LIMIT`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from abc import ABC, abstractmethod
from itertools import count
from typing import Any

import uvloop

AT_ONCE = 64
"""Jobs that are being enqueued at once, where the peer's client can."""
LIMIT = 60.0
"""Seconds that everything must be done in."""
POLL = 0.02
"""Seconds between two looks at what is left."""
PAUSE = 0.01
"""Seconds between two jobs that find everything idle."""


class Queue(ABC):
    """How one peer is used."""

    @abstractmethod
    async def open(self) -> None:
        """Connects."""

    @abstractmethod
    async def enqueue(self, number: int) -> Any:
        """Puts a job into the queue; returns when it is stored there, with what `result` takes."""

    async def enqueue_all(self, numbers: range) -> None:
        """Puts many jobs into the queue, `AT_ONCE` at a time."""
        left = iter(numbers)

        async def loop() -> None:
            for number in left:
                await self.enqueue(number)

        await asyncio.gather(*(loop() for _ in range(AT_ONCE)))

    @abstractmethod
    async def result(self, handle: Any) -> int:
        """The result of a job, as soon as the peer can tell."""

    @abstractmethod
    async def state(self) -> tuple[int, int]:
        """How many jobs are not done yet, or not acknowledged; how many results are stored."""


async def first(queue: Queue, numbers: count[int]) -> dict[str, Any]:
    """One job."""
    number = next(numbers)
    check(number, await queue.result(await queue.enqueue(number)))
    return {}


async def idle(queue: Queue, numbers: count[int], jobs: int) -> dict[str, Any]:
    """One job at a time; microseconds from the call that enqueues it to its result."""
    took: list[float] = []
    for _ in range(jobs):
        await asyncio.sleep(PAUSE)
        number = next(numbers)
        began = time.perf_counter_ns()
        result = await queue.result(await queue.enqueue(number))
        took.append((time.perf_counter_ns() - began) / 1000)
        check(number, result)
    took.sort()
    return {"p50_us": took[len(took) // 2], "p95_us": took[len(took) * 95 // 100]}


async def load(queue: Queue, numbers: count[int], jobs: int) -> dict[str, Any]:
    """All jobs; seconds until they are stored, and until they are done."""
    begin = next(numbers)
    for _ in range(jobs - 1):
        next(numbers)
    began = time.perf_counter()
    await queue.enqueue_all(range(begin, begin + jobs))
    enqueued = time.perf_counter() - began
    while await queue.state() != (0, begin + jobs):  # noqa: ASYNC110 - brokers do not tell, they must be asked
        await asyncio.sleep(POLL)
    return {"jobs": jobs, "enqueue_seconds": enqueued, "seconds": time.perf_counter() - began}


def check(number: int, result: int) -> None:
    """Ends the program when a result is wrong."""
    if result != number + 1:
        raise SystemExit(f"the result of {number} is {result!r}")


async def main() -> None:
    """The command line; see the module's text."""
    module = importlib.import_module(f"benchmarks.programs.{sys.argv[1]}")
    queue: Queue = module.Queue(*sys.argv[2:])
    numbers = count()
    await queue.open()
    todo = {"first": first, "idle": idle, "load": load}
    while line := await asyncio.to_thread(sys.stdin.readline):
        order: dict[str, Any] = json.loads(line)
        async with asyncio.timeout(LIMIT):
            answer = await todo[order.pop("do")](queue, numbers, **order)
        print("RESULT " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
