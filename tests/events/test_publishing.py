"""What a publisher promises while the broker is there."""

import asyncio
from typing import Any

import pytest

import rpc
from rpc.embedded import Broker
from rpc.events import buffer
from rpc.jetstream.api import MAX_PENDING
from rpc.status import StatusCode, StatusError
from tests.events.conftest import World
from tests.events.stage import stage
from tests.waiting import until


async def test_it_is_stored_when_publish_returns(world: World) -> None:
    publisher = await world.publisher()
    for number in range(1, 4):
        assert await publisher.publish(stage.placed(number)) == number
        assert [stage.pb.Placed.FromString(event.data).id for event in await world.stored()][-1] == str(number)


async def test_events_of_one_id_are_stored_once_whoever_publishes_them(world: World) -> None:
    publishers = [await world.publisher() for _ in range(3)]
    places = await asyncio.gather(*(each.publish(stage.placed("x"), id="order-7") for each in publishers * 3))
    assert set(places) == {1}
    assert len(await world.stored()) == 1


async def test_events_without_an_id_are_all_stored(world: World) -> None:
    publishers = [await world.publisher() for _ in range(2)]
    await asyncio.gather(*(each.publish(stage.placed("x")) for each in publishers * 5))
    assert len(await world.stored()) == 10


async def test_very_many_at_once_are_stored_in_the_order_of_the_calls(world: World) -> None:
    publisher = await world.publisher()
    names = [str(number) for number in range(2 * MAX_PENDING)]
    places = await asyncio.gather(*(publisher.publish(stage.placed(name)) for name in names))
    assert places == list(range(1, len(names) + 1))


async def test_no_more_than_4096_are_under_way(world: World) -> None:
    publisher = await world.publisher()
    await publisher.publish(stage.placed("first"))
    under_way: list[int] = []
    sent = publisher._js.connection.publish

    async def publish(subject: str, data: bytes, **options: Any) -> None:
        await sent(subject, data, **options)
        under_way.append(len(publisher._js._waiting))

    publisher._js.connection.publish = publish
    await asyncio.gather(*(publisher.publish(stage.placed(number)) for number in range(3 * MAX_PENDING)))
    assert max(under_way) <= MAX_PENDING == 4096
    assert len(under_way) == 3 * MAX_PENDING


async def test_what_is_too_large_is_refused_with_both_sizes(world: World) -> None:
    publisher = await world.publisher()
    text = "x" * world.connection.max_payload
    with pytest.raises(StatusError, match="max_payload") as refused:
        await publisher.publish(stage.placed(1, text))
    assert refused.value.code is StatusCode.RESOURCE_EXHAUSTED
    assert "stage.v1.Placed" in refused.value.details
    await publisher.publish(stage.placed(2))  # The connection is still there.
    assert len(await world.stored()) == 1


@pytest.mark.parametrize("bad", ["line\nend", "naïve", "\x00"])
async def test_an_id_that_cannot_travel_is_refused(world: World, bad: str) -> None:
    publisher = await world.publisher()
    with pytest.raises(StatusError, match="printable ASCII") as refused:
        await publisher.publish(stage.placed(1), id=bad)
    assert refused.value.code is StatusCode.INVALID_ARGUMENT


async def test_a_broker_without_jetstream_is_unavailable_within_the_timeout() -> None:
    with Broker(port=0, config="jetstream: disabled") as broker:
        async with rpc.Publisher(broker.url) as publisher:
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(StatusError, match="JetStream") as refused:
                await publisher.publish(stage.placed(1), timeout=0.5)
            assert refused.value.code is StatusCode.UNAVAILABLE
            assert loop.time() - began < 1.5


async def test_publishing_outside_of_handlers_by_rpc_publish_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"rpc\.Publisher"):
        await rpc.publish(stage.placed(1))


async def test_a_handler_publishes_over_its_servers_connection(world: World) -> None:
    async def pass_on(events: Any, _context: Any) -> None:
        await rpc.publish(stage.moved("Ann", int(events[0].id)), id=f"moved-{events[0].id}")

    await world.serve(stage.subscriber("Mail", pass_on))
    publisher = await world.publisher()
    await publisher.publish(stage.placed(7))
    (moved,) = await until(lambda: world.stored("stage.v1.Moved"))
    assert stage.pb.Moved.FromString(moved.data) == stage.moved("Ann", 7)
    assert moved.headers == {"Nats-Msg-Id": "moved-7"}


# ----------------------------------------------------------------------------------------------------- the buffer


async def test_what_is_offered_is_published_in_the_background(world: World) -> None:
    publisher = await world.publisher()
    event = stage.placed("first")
    assert publisher.offer(event)
    event.id = "changed after it was offered"
    for number in range(1000):
        assert publisher.offer(stage.placed(number), id=f"id-{number % 500}")
    assert await publisher.flush(10)
    stored = await world.stored()
    names = [stage.pb.Placed.FromString(message.data).id for message in stored]
    assert names[0] == "first"
    assert sorted(names[1:], key=int) == [str(number) for number in range(500)]
    assert publisher.dropped == 0


async def test_a_full_buffer_says_no_at_once_and_counts(world: World) -> None:
    publisher = await world.publisher(buffer=10)
    taken = [publisher.offer(stage.placed(number)) for number in range(15)]  # without giving it time to send
    assert taken == [True] * 10 + [False] * 5
    assert publisher.dropped == 5
    assert await publisher.flush(10)
    assert len(await world.stored()) == 10
    assert publisher.offer(stage.placed("later"))


async def test_flush_waits_for_what_was_offered_before_it_and_no_longer(world: World) -> None:
    publisher = await world.publisher(buffer=100_000)
    stop = asyncio.Event()

    async def go_on() -> None:
        while not stop.is_set():
            publisher.offer(stage.placed("more"))
            await asyncio.sleep(0)

    publisher.offer(stage.placed("mine"))
    going = asyncio.create_task(go_on())
    assert await publisher.flush(5)
    stop.set()
    await going
    assert any(b"mine" in message.data for message in await world.stored())


async def test_one_that_cannot_be_published_does_not_hold_up_the_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = await world.publisher()
    for _ in range(20):
        publisher.offer(stage.placed("large", "x" * world.connection.max_payload))
    publisher.offer(stage.placed("small"))
    assert await publisher.flush(10)
    assert publisher.dropped == 20
    assert len(await world.stored()) == 1
    warnings = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert len(warnings) == 1, "one a second at most"
    assert "stage.v1.Placed" in warnings[0]


async def test_all_that_close_gives_up_is_counted(world: World) -> None:
    publisher = await world.publisher()
    for number in range(1000):
        publisher.offer(stage.placed(number))
    await publisher.close(0)
    assert len(await world.stored()) + publisher.dropped >= 1000
    assert publisher.dropped <= 1000
    assert not publisher.offer(stage.placed("late"))
    with pytest.raises(StatusError, match="closed"):
        await publisher.publish(stage.placed("late"))


async def test_the_buffer_is_bounded_in_bytes_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "MAX_BYTES", 100_000)
    publisher = await world.publisher()
    taken = [publisher.offer(stage.placed(number, "x" * 30_000)) for number in range(5)]
    assert taken == [True] * 3 + [False] * 2
    assert await publisher.flush(10)
    assert publisher.offer(stage.placed(5, "x" * 30_000))
    assert await publisher.flush(10)
    assert len(await world.stored()) == 4
