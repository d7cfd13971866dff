"""taskiq with taskiq-nats: a JetStream broker, and its store of results, which is JetStream's object store.

BENCH_URL=nats://... BENCH_AT_ONCE=1 taskiq worker benchmarks.programs.jobs_taskiq:broker ...
"""

from __future__ import annotations

import os
from typing import Any

from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig
from taskiq import AsyncTaskiqTask
from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

from benchmarks.programs import jobs_client

STREAM, BUCKET, DURABLE = "taskiq_jetstream", "taskiq_results", "taskiq_durable"
MESSAGES_OF_A_RESULT = 2
"""What the object store keeps of each: a chunk, and what describes it."""

URL = os.environ["BENCH_URL"]
broker = PullBasedJetStreamBroker(
    URL,
    stream_name=STREAM,
    durable=DURABLE,
    stream_config=StreamConfig(retention=RetentionPolicy.WORK_QUEUE),
    consumer_config=ConsumerConfig(durable_name=DURABLE, max_ack_pending=1000),
    pull_consume_batch=100,
    pull_consume_timeout=10.0,  # without one it waits until so many are there
).with_result_backend(NATSObjectStoreResultBackend(URL))


@broker.task
async def run(number: int) -> int:
    return number + 1


class Queue(jobs_client.Queue):
    async def open(self) -> None:
        await broker.startup()
        self._jetstream = broker.client.jetstream()

    async def enqueue(self, number: int) -> AsyncTaskiqTask[Any]:
        return await run.kiq(number)

    async def result(self, handle: AsyncTaskiqTask[Any]) -> int:
        return int((await handle.wait_result(check_interval=0.001)).return_value)

    async def state(self) -> tuple[int, int]:
        jobs = await self._jetstream.stream_info(STREAM)
        results = await self._jetstream.stream_info(f"OBJ_{BUCKET}")
        return jobs.state.messages, results.state.messages // MESSAGES_OF_A_RESULT
