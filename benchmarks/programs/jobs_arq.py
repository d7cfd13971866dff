"""arq.

    python -m benchmarks.programs.jobs_arq <redis port> <jobs at once>

It polls its queue, twice a second if not told otherwise; here as often as it takes to be fast.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from arq import ArqRedis, Worker, create_pool
from arq.connections import RedisSettings
from arq.constants import default_queue_name, result_key_prefix
from arq.jobs import Job

from benchmarks.programs import jobs_client

QUEUE_POLL = 0.0001
"""Seconds between two looks of the worker at its queue; one job at a time, it takes one job at each."""
RESULT_POLL = 0.001
"""Seconds between two looks of who waits for a result."""


def settings(port: str) -> RedisSettings:
    """Where Redis is."""
    return RedisSettings(host="127.0.0.1", port=int(port))


async def run(_context: dict[str, Any], number: int) -> int:
    return number + 1


class Queue(jobs_client.Queue):
    def __init__(self, port: str) -> None:
        self._port = port

    async def open(self) -> None:
        self._pool: ArqRedis = await create_pool(settings(self._port))

    async def enqueue(self, number: int) -> Job:
        job = await self._pool.enqueue_job("run", number)
        assert job is not None
        return job

    async def result(self, handle: Job) -> int:
        return int(await handle.result(poll_delay=RESULT_POLL))

    async def state(self) -> tuple[int, int]:
        left = await self._pool.zcard(default_queue_name)
        if left:
            return left, 0
        # Nothing else is left of a job that is done.
        return left, sum([1 async for _ in self._pool.scan_iter(f"{result_key_prefix}*", count=10_000)])


async def main() -> None:
    """The worker."""
    worker = Worker(
        [run],
        redis_settings=settings(sys.argv[1]),
        max_jobs=int(sys.argv[2]),
        poll_delay=QUEUE_POLL,
        handle_signals=False,
    )
    await worker.async_run()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main())
