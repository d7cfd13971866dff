"""Celery with Redis as broker and as store of results.

BENCH_URL=redis://... celery --app benchmarks.programs.jobs_celery worker ...
"""

from __future__ import annotations

import os

from celery import Celery
from celery.result import AsyncResult
from redis import Redis

from benchmarks.programs import jobs_client

QUEUE = "celery"
URL = os.environ["BENCH_URL"]
app = Celery("bench", broker=f"{URL}/0", backend=f"{URL}/1")
# At least once, as with all others: a job is acknowledged when its result is stored.
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


@app.task(name="run")
def run(number: int) -> int:
    return number + 1


class Queue(jobs_client.Queue):
    """Celery's client blocks: jobs are enqueued one after the other. More threads do not make it faster."""

    def __init__(self) -> None:
        self._queue = Redis.from_url(f"{URL}/0")
        self._results = Redis.from_url(f"{URL}/1")

    async def open(self) -> None:
        """Nothing: it connects by itself."""

    async def enqueue(self, number: int) -> AsyncResult:
        return run.delay(number)

    async def enqueue_all(self, numbers: range) -> None:
        for number in numbers:
            run.delay(number)

    async def result(self, handle: AsyncResult) -> int:
        return int(handle.get(timeout=30))

    async def state(self) -> tuple[int, int]:
        left = int(self._queue.llen(QUEUE)) + int(self._queue.hlen("unacked"))
        return left, int(self._results.dbsize())
