"""The floor of the events benchmark: protobuf messages in a stream, with nats-py alone.

Published with `publish_async`; fetched in batches, decoded, counted, and acknowledged one by one. No message ids, no
retries, no dead letters, no signs of life, no error handling.
"""

from __future__ import annotations

import asyncio

import nats
from bench.v1.bench_pb2 import PageClicked
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from benchmarks.programs import events_client
from benchmarks.programs.events_client import BATCH, WINDOW, fields

SUBJECT = "events.click"
TIMEOUT = 10.0


async def connect(url: str) -> JetStreamContext:
    """JetStream, with the stream in it."""
    client = await nats.connect(url)
    jetstream = client.jetstream(timeout=TIMEOUT, publish_async_max_pending=WINDOW)
    await jetstream.add_stream(name=Events.stream, subjects=[SUBJECT])
    return jetstream


class Events(events_client.Events):
    stream = "EVENTS"
    consumer = "counter"

    async def open(self) -> None:
        self._jetstream = await connect(self.url)

    async def publish(self, number: int) -> None:
        await self._jetstream.publish(SUBJECT, PageClicked(**fields(number)).SerializeToString())

    async def publish_all(self, numbers: range) -> None:
        confirmed: list[asyncio.Future] = []
        for number in numbers:
            payload = PageClicked(**fields(number)).SerializeToString()
            confirmed.append(await self._jetstream.publish_async(SUBJECT, payload))
        await asyncio.gather(*confirmed)

    async def prepare(self) -> None:
        self._jetstream = await connect(self.url)

    async def consume(self) -> None:
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=10 * BATCH)
        self._clicks = await self._jetstream.pull_subscribe(
            SUBJECT, durable=self.consumer, stream=self.stream, config=config
        )
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                messages = await self._clicks.fetch(BATCH, timeout=TIMEOUT)
            except NatsTimeoutError:
                continue
            for message in messages:
                click = PageClicked.FromString(message.data)
                self.counts.add(click.page, click.count)
            self.counts.batches += 1
            for message in messages:
                await message.ack()
