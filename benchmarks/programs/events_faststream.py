"""FastStream: JSON of a pydantic model into a stream, a pull subscriber that takes batches."""

from __future__ import annotations

from faststream.nats import JStream, NatsBroker, PullSub
from nats.js.api import ConsumerConfig
from pydantic import BaseModel

from benchmarks.programs import events_client
from benchmarks.programs.events_client import BATCH, fields

SUBJECT = "events.click"
TIMEOUT = 10.0


class PageClicked(BaseModel):
    page: str
    visitor: str
    at_ms: int
    count: int


class Events(events_client.Events):
    stream = "EVENTS"
    consumer = "counter"

    async def open(self) -> None:
        await self.prepare()
        await self._broker.start()

    async def publish(self, number: int) -> None:
        await self._broker.publish(PageClicked(**fields(number)), SUBJECT, stream=self.stream, timeout=TIMEOUT)

    async def prepare(self) -> None:
        self._broker = NatsBroker(self.url, logger=None)
        client = await self._broker.connect()
        await client.jetstream().add_stream(name=self.stream, subjects=[SUBJECT])

    async def consume(self) -> None:
        @self._broker.subscriber(
            SUBJECT,
            stream=JStream(self.stream, declare=False),
            durable=self.consumer,
            config=ConsumerConfig(max_ack_pending=10 * BATCH),
            pull_sub=PullSub(batch_size=BATCH, timeout=1.0, batch=True),
        )
        async def store(clicks: list[PageClicked]) -> None:
            for click in clicks:
                self.counts.add(click.page, click.count)
            self.counts.batches += 1

        await self._broker.start()
