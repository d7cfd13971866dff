"""The floor of the jobs benchmark: a work queue by hand, with nats-py alone.

    python -m benchmarks.programs.jobs_floor <nats url> <jobs at once>

A job is published to a work-queue stream and confirmed; a pull consumer fetches a hundred, which are handled one after
the other or all at once; each result is published to a second stream, under the job's id, and confirmed; then the job
is acknowledged. No retries, no dead letters, no heartbeats, no record of what runs, no
deduplication, no error handling.
"""

from __future__ import annotations

import asyncio
import sys
from uuid import uuid4

import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy

from benchmarks.programs import jobs_client

JOBS, RESULTS, DURABLE = "JOBS", "RESULTS", "worker"
FETCH = 100
"""Jobs that are fetched together."""
TIMEOUT = 10.0


async def make_streams(jetstream: JetStreamContext) -> None:
    """The two streams, made where they are not there yet."""
    await jetstream.add_stream(name=JOBS, subjects=["jobs.>"], retention=RetentionPolicy.WORK_QUEUE)
    await jetstream.add_stream(name=RESULTS, subjects=["results.>"], max_msgs_per_subject=1, allow_direct=True)


class Results:
    """Results as they are published: who waits for one, by the job's id."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def listen(self, client: Client) -> None:
        await client.subscribe("results.>", cb=self._take)

    async def _take(self, message: Msg) -> None:
        waiting = self._waiting.pop(message.subject.removeprefix("results."), None)
        if waiting is not None:
            waiting.set_result(message.data)

    def expect(self, job: str) -> asyncio.Future[bytes]:
        self._waiting[job] = asyncio.get_running_loop().create_future()
        return self._waiting[job]


class Queue(jobs_client.Queue):
    def __init__(self, url: str) -> None:
        self._url = url
        self._results = Results()

    async def open(self) -> None:
        client = await nats.connect(self._url)
        self._jetstream = client.jetstream(timeout=TIMEOUT)
        await make_streams(self._jetstream)
        await self._results.listen(client)

    async def enqueue(self, number: int) -> asyncio.Future[bytes]:
        job = uuid4().hex
        result = self._results.expect(job)
        await self._jetstream.publish(f"jobs.{job}", b"%d" % number)
        return result

    async def result(self, handle: asyncio.Future[bytes]) -> int:
        return int(await handle)

    async def state(self) -> tuple[int, int]:
        jobs = await self._jetstream.stream_info(JOBS)
        results = await self._jetstream.stream_info(RESULTS)
        return jobs.state.messages, results.state.messages


async def main() -> None:
    """The worker."""
    url, at_once = sys.argv[1], int(sys.argv[2])
    jetstream = (await nats.connect(url)).jetstream(timeout=TIMEOUT)
    await make_streams(jetstream)
    config = ConsumerConfig(max_ack_pending=1000)
    jobs = await jetstream.pull_subscribe("jobs.>", durable=DURABLE, stream=JOBS, config=config)

    async def handle(message: Msg) -> None:
        job = message.subject.removeprefix("jobs.")
        await jetstream.publish(f"results.{job}", b"%d" % (int(message.data) + 1))
        await message.ack()

    while True:
        try:
            messages = await jobs.fetch(FETCH, timeout=TIMEOUT)
        except NatsTimeoutError:
            continue
        for first in range(0, len(messages), at_once):
            await asyncio.gather(*map(handle, messages[first : first + at_once]))


if __name__ == "__main__":
    uvloop.run(main())
