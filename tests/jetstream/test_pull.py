"""A pull consumer asks for what it wants: not less after a silence, not more after a stall of its own."""

import asyncio
import time
from typing import Any

import pytest

from rpc.jetstream import pull
from rpc.jetstream.api import JetStream
from rpc.jetstream.consumers import ensure_consumer
from rpc.jetstream.pull import PullConsumer, PulledMessage, settle
from rpc.jetstream.specs import ConsumerSpec, StreamSpec
from rpc.jetstream.streams import ensure_stream

GROUP = ConsumerSpec(name="M", description="a group")


class Puller:
    """A consumer, and what it got."""

    def __init__(self, js: JetStream, name: str) -> None:
        self.js, self.name = js, name
        self.got: list[bytes] = []
        self.repairs = 0
        self.consumer = PullConsumer(js.connection, name, "M", self._receive, repair=self._repair)

    def _receive(self, message: PulledMessage) -> None:
        self.got.append(message.data)
        self.settling = asyncio.ensure_future(settle(self.js.connection, message))
        self.consumer.want(1)

    async def _repair(self) -> None:
        self.repairs += 1
        await ensure_consumer(self.js, self.name, GROUP, migrate=True)

    async def waiting(self) -> int:
        """How many requests to pull the broker has."""
        info: dict[str, Any] = await self.js.request(f"CONSUMER.INFO.{self.name}.M")
        return int(info["num_waiting"])


@pytest.fixture
async def puller(js: JetStream, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(pull, "HEARTBEAT", 0.1)
    monkeypatch.setattr(pull, "_CHECK", 0.05)
    await ensure_stream(js, StreamSpec(name=name, subjects=(f"{name}.>",)), migrate=True)
    await ensure_consumer(js, name, GROUP, migrate=True)
    puller = Puller(js, name)
    await puller.consumer.start()
    puller.consumer.want(1)
    yield puller
    await puller.consumer.stop()


async def test_a_stall_of_our_own_is_no_silence_of_the_broker(puller: Puller, js: JetStream) -> None:
    for _ in range(3):
        await asyncio.sleep(0.1)
        time.sleep(0.5)  # noqa: ASYNC251 - somebody's handler holds up the loop
        await asyncio.sleep(0.2)
    assert await puller.waiting() == 1
    await js.publish(f"{puller.name}.a", b"1", {})
    while puller.got != [b"1"]:
        await asyncio.sleep(0.01)


async def test_a_consumer_that_is_deleted_is_made_anew(puller: Puller, js: JetStream) -> None:
    await js.request(f"CONSUMER.DELETE.{puller.name}.M")
    while not puller.repairs:
        await asyncio.sleep(0.01)
    await js.publish(f"{puller.name}.a", b"1", {})
    while puller.got != [b"1"]:
        await asyncio.sleep(0.01)
    assert puller.repairs == 1


async def test_requests_that_got_lost_are_made_again(puller: Puller, js: JetStream) -> None:
    """As after an election: the broker knows nothing of them, and says nothing."""
    puller.consumer._asked = 5
    await js.request(f"CONSUMER.DELETE.{puller.name}.M")
    await ensure_consumer(js, puller.name, GROUP, migrate=True)
    await js.publish(f"{puller.name}.a", b"1", {})
    while puller.got != [b"1"]:
        await asyncio.sleep(0.01)
