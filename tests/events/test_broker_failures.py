"""A broker that is killed, and comes back: what was accepted is there, once."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

import rpc
from rpc.embedded import Broker
from rpc.status import StatusCode, StatusError
from tests.events.conftest import World
from tests.events.stage import stage
from tests.waiting import until


async def restart(broker: Broker, away: float = 0.0) -> None:
    await asyncio.to_thread(broker.kill)
    await asyncio.sleep(away)  # as long as the test says that it is away
    await asyncio.to_thread(broker.start)


async def test_publishers_survive_a_killed_broker(tmp_path: Path) -> None:
    with Broker(port=0, store_dir=tmp_path) as broker:
        world = World(broker.url)
        await world.start()
        publisher = await world.publisher()
        accepted: list[str] = []
        stop = asyncio.Event()

        async def publish(worker: int) -> None:
            number = 0
            while not stop.is_set():
                name = f"{worker}-{number}"
                await publisher.publish(stage.placed(name))
                accepted.append(name)
                number += 1

        publishing = [asyncio.create_task(publish(worker)) for worker in range(50)]
        for number in range(2):
            before = len(accepted)
            await until(lambda before=before: len(accepted) > before + 1000)
            await restart(broker, 2.0 * number)
        before = len(accepted)
        await until(lambda: len(accepted) > before + 1000)
        stop.set()
        await asyncio.gather(*publishing)

        stored = [stage.pb.Placed.FromString(message.data).id for message in await world.stored()]
        assert len(stored) == len(set(stored)), "none twice"
        assert not set(accepted) - set(stored), "all that was confirmed"
        await world.close()


async def test_what_was_offered_while_the_broker_was_away_is_published(tmp_path: Path) -> None:
    with Broker(port=0, store_dir=tmp_path) as broker:
        world = World(broker.url)
        await world.start()
        publisher = await world.publisher()
        await publisher.publish(stage.placed("before"))
        await asyncio.to_thread(broker.kill)
        await until(lambda: not publisher._connection.is_connected)
        for number in range(500):
            assert publisher.offer(stage.placed(number))
        assert not await publisher.flush(0.2)
        await asyncio.to_thread(broker.start)
        assert await publisher.flush(10)
        assert publisher.dropped == 0
        assert len(await world.stored()) == 501
        await world.close()


async def test_a_publisher_that_begins_before_its_broker_waits_for_it(tmp_path: Path) -> None:
    with Broker(port=0, store_dir=tmp_path) as broker:
        url = broker.url
        await asyncio.to_thread(broker.kill)
        publisher = rpc.Publisher(url)
        with pytest.raises(StatusError) as refused:
            await publisher.publish(stage.placed("hasty"), timeout=0.2)
        assert refused.value.code is StatusCode.UNAVAILABLE
        waiting = asyncio.create_task(publisher.publish(stage.placed("patient"), timeout=20))
        assert publisher.offer(stage.placed("offered"))
        await asyncio.to_thread(broker.start)
        await waiting
        assert await publisher.flush(10)
        assert publisher.dropped == 0
        await publisher.close()


async def test_a_stream_that_somebody_deleted_is_made_again(tmp_path: Path) -> None:
    with Broker(port=0, store_dir=tmp_path) as broker:
        world = World(broker.url)
        await world.start()
        subscriber = stage.subscriber("Mail")
        await world.serve(subscriber)
        publisher = await world.publisher()
        await publisher.publish(stage.placed("before"))
        await until(lambda: subscriber.ids == ["before"])
        await world.js.request(f"STREAM.DELETE.{world.subjects.jetstream('EVENTS', 'stage.v1.Placed')}")
        await publisher.publish(stage.placed("after"))
        await until(lambda: subscriber.ids == ["before", "after"])
        await world.close()


async def test_subscribers_survive_a_killed_broker(tmp_path: Path) -> None:
    async def slowly(_events: Any, _context: Any) -> None:
        await asyncio.sleep(0.01)

    with Broker(port=0, store_dir=tmp_path) as broker:
        world = World(broker.url)
        await world.start()
        subscribers = [stage.subscriber("Mail", slowly), stage.subscriber("Store", slowly)]
        for subscriber in subscribers:
            await world.serve(subscriber)
        publisher = await world.publisher()
        names = [str(number) for number in range(600)]
        publishing = asyncio.gather(*(publisher.publish(stage.placed(name)) for name in names))
        await until(lambda: all(len(subscriber.done) > 50 for subscriber in subscribers))
        await restart(broker)
        await publishing
        for subscriber in subscribers:
            with contextlib.suppress(AssertionError):
                await until(lambda subscriber=subscriber: set(subscriber.ids) == set(names), 20)
            assert set(subscriber.ids) == set(names)
        await world.close()


async def test_the_order_of_a_key_survives_a_killed_broker(tmp_path: Path) -> None:
    order: dict[str, list[int]] = {}

    async def note(events: Any, _context: Any) -> None:
        await asyncio.sleep(0.002)
        order.setdefault(events[0].account, []).append(events[0].number)

    with Broker(port=0, store_dir=tmp_path) as broker:
        world = World(broker.url)
        await world.start()
        for _ in range(2):
            await world.serve(stage.subscriber("Ledger", note))
        publisher = await world.publisher()

        async def move(account: str) -> None:
            for number in range(100):
                await publisher.publish(stage.moved(account, number))

        publishing = asyncio.gather(*(move(account) for account in "ABCDEFGH"))
        await until(lambda: sum(map(len, order.values())) > 200)
        await restart(broker)
        await publishing
        await until(lambda: all(order.get(account, [0])[-1] == 99 for account in "ABCDEFGH"), 20)
        for numbers in order.values():
            # What was settled when the broker died may come again, in its order; nothing is passed over.
            assert set(numbers) == set(range(100))
            assert all(number <= max(numbers[:place], default=-1) + 1 for place, number in enumerate(numbers))
        await world.close()
