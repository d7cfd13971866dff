"""Batches of large events are bounded by their bytes, whatever their number may be."""

import asyncio
from typing import Any

import pytest

from rpc.durable import feed
from rpc.embedded import Broker
from tests.events.conftest import World
from tests.events.stage import stage
from tests.waiting import until

LIMIT = 256 * 1024
SIZE = 64 * 1024
GROUP = "stage_v1_Store-StorePlaced"


async def test_what_waits_for_a_batch_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_WAITING_BYTES", LIMIT)
    with Broker(port=0, max_payload=2 * SIZE) as broker:
        world = World(broker.url)
        await world.start()
        hold = asyncio.Event()

        async def wait(_events: Any, _context: Any) -> None:
            await hold.wait()

        subscriber = stage.subscriber("Store", wait)  # batches of 10
        await world.serve(subscriber)
        publisher = await world.publisher()
        for number in range(40):
            await publisher.publish(stage.placed(number, "x" * SIZE))
        await until(lambda: subscriber.running)
        # What is in the handler's hands, and what waits for the next batch; the broker keeps the others.
        taken = (await world.consumer(GROUP))["num_ack_pending"]
        assert taken * SIZE <= 3 * LIMIT
        hold.set()
        await until(lambda: len(subscriber.done) == 40)
        assert max(len(events) for events in subscriber.got) <= LIMIT / SIZE
        assert sorted(map(int, subscriber.ids)) == list(range(40))
        await world.close()


async def test_small_events_fill_their_batches_nevertheless(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_WAITING_BYTES", LIMIT)
    publisher = await world.publisher()
    await asyncio.gather(*(publisher.publish(stage.placed(number)) for number in range(500)))
    subscriber = stage.subscriber("Store")
    await world.serve(subscriber)
    await until(lambda: len(subscriber.done) == 500)
    assert len(subscriber.got) == 50


async def test_an_event_larger_than_the_bound_is_handled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_WAITING_BYTES", SIZE // 2)
    subscriber = stage.subscriber("Store")
    await world.serve(subscriber)
    publisher = await world.publisher()
    for number in range(3):
        await publisher.publish(stage.placed(number, "x" * SIZE))
    await until(lambda: len(subscriber.done) == 3)
