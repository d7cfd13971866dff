"""FastStream with a JetStream pull subscriber on a work-queue stream.

    python -m benchmarks.programs.jobs_faststream <nats url> <jobs at once>

FastStream has no store of results: the handler publishes its result to a second stream, under the job's id, and
FastStream acknowledges the job after that.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated
from uuid import uuid4

import uvloop
from faststream import FastStream, Path
from faststream.nats import JStream, NatsBroker, PullSub
from nats.js.api import ConsumerConfig
from pydantic import BaseModel

from benchmarks.programs import jobs_client
from benchmarks.programs.jobs_floor import JOBS, RESULTS, TIMEOUT, Results, make_streams


class Number(BaseModel):
    number: int


class Queue(jobs_client.Queue):
    def __init__(self, url: str) -> None:
        self._broker = NatsBroker(url, logger=None)
        self._results = Results()

    async def open(self) -> None:
        await self._broker.start()
        client = await self._broker.connect()
        self._jetstream = client.jetstream()
        await make_streams(self._jetstream)
        await self._results.listen(client)

    async def enqueue(self, number: int) -> asyncio.Future[bytes]:
        job = uuid4().hex
        result = self._results.expect(job)
        await self._broker.publish(Number(number=number), f"jobs.{job}", stream=JOBS, timeout=TIMEOUT)
        return result

    async def result(self, handle: asyncio.Future[bytes]) -> int:
        return Number.model_validate_json(await handle).number

    async def state(self) -> tuple[int, int]:
        jobs = await self._jetstream.stream_info(JOBS)
        results = await self._jetstream.stream_info(RESULTS)
        return jobs.state.messages, results.state.messages


async def main() -> None:
    """The worker."""
    url, at_once = sys.argv[1], int(sys.argv[2])
    broker = NatsBroker(url, logger=None)
    await make_streams((await broker.connect()).jetstream())

    @broker.subscriber(
        "jobs.{job}",
        stream=JStream(JOBS, declare=False),
        durable="worker",
        config=ConsumerConfig(max_ack_pending=1000),
        pull_sub=False if at_once == 1 else PullSub(batch_size=at_once, timeout=TIMEOUT),
    )
    async def run(request: Number, job: Annotated[str, Path()]) -> None:
        await broker.publish(Number(number=request.number + 1), f"results.{job}", stream=RESULTS, timeout=TIMEOUT)

    await FastStream(broker, logger=None).run()


if __name__ == "__main__":
    uvloop.run(main())
