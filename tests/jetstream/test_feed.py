"""What feeds handlers with messages goes on asking for more, whatever is delivered twice."""

import asyncio
from collections.abc import Coroutine

from rpc.durable.feed import Feed, Messages, give_back
from rpc.jetstream.api import JetStream
from rpc.jetstream.consumers import ensure_consumer
from rpc.jetstream.pull import PulledMessage, settle
from rpc.jetstream.specs import ConsumerSpec, StreamSpec
from rpc.jetstream.streams import ensure_stream
from tests.waiting import until


async def test_a_message_that_comes_again_while_it_is_settled_stops_nothing(js: JetStream, name: str) -> None:
    """As after a restart of the broker, or a sign of life that came late: both are the same message to the feed."""
    await ensure_stream(js, StreamSpec(name=name, subjects=(f"{name}.>",)), migrate=True)
    await ensure_consumer(js, name, ConsumerSpec(name="M", description="a group", ack_wait=1), migrate=True)
    handled: list[bytes] = []
    may_settle, done = asyncio.Event(), asyncio.Event()

    async def handle(messages: Messages) -> Coroutine[None, None, None]:
        handled.append(messages[0].data)
        if messages[0].data == b"second":
            done.set()
        return rest(messages[0])

    async def rest(message: PulledMessage) -> None:
        await may_settle.wait()
        await settle(js.connection, message)

    async def release(message: PulledMessage) -> None:
        raise AssertionError(message)

    async def repair() -> None:
        raise AssertionError

    feed = Feed(js.connection, name, "M", handle=handle, release=release, repair=repair, ack_wait=60, prefetches=False)
    await feed.start()
    await js.publish(f"{name}.a", b"first", {})
    while not (await js.request(f"CONSUMER.INFO.{name}.M"))["num_redelivered"]:
        await asyncio.sleep(0.05)
    may_settle.set()
    await js.publish(f"{name}.a", b"second", {})
    async with asyncio.timeout(10):
        await done.wait()
    assert handled == [b"first", b"second"]
    await feed.stop_pulling()
    await feed.wait_idle(5)
    await feed.close()


async def test_a_message_that_comes_again_because_it_was_given_back_is_handled(js: JetStream, name: str) -> None:
    """Although whoever gave it back is not done yet: it may be one of a large batch."""
    await ensure_stream(js, StreamSpec(name=name, subjects=(f"{name}.>",)), migrate=True)
    await ensure_consumer(js, name, ConsumerSpec(name="M", description="a group", ack_wait=60), migrate=True)
    handled: list[int] = []
    again = asyncio.Event()

    async def handle(messages: Messages) -> None:
        handled.append(messages[0].deliveries)
        if messages[0].deliveries == 1:
            await give_back(js.connection, messages[0])
            async with asyncio.timeout(10):
                await again.wait()
        else:
            await settle(js.connection, messages[0])
            again.set()

    async def release(message: PulledMessage) -> None:
        raise AssertionError(message)

    async def repair() -> None:
        raise AssertionError

    feed = Feed(js.connection, name, "M", handle=handle, release=release, repair=repair, ack_wait=60, concurrency=2)
    await feed.start()
    await js.publish(f"{name}.a", b"x", {})
    async with asyncio.timeout(10):
        await again.wait()
    assert handled == [1, 2]
    await feed.stop_pulling()
    await feed.wait_idle(5)
    await feed.close()


async def test_what_is_handled_is_not_kept(js: JetStream, name: str) -> None:
    """A worker lives for months: whatever it remembered of each message would add up."""
    await ensure_stream(js, StreamSpec(name=name, subjects=(f"{name}.>",)), migrate=True)
    await ensure_consumer(js, name, ConsumerSpec(name="M", description="a group", ack_wait=60), migrate=True)
    handled: list[bytes] = []

    async def handle(messages: Messages) -> None:
        handled.extend(message.data for message in messages)
        for message in messages:
            await settle(js.connection, message)
        if messages[0].data == b"bad":
            raise ValueError

    async def release(message: PulledMessage) -> None:
        raise AssertionError(message)

    async def repair() -> None:
        raise AssertionError

    feed = Feed(js.connection, name, "M", handle=handle, release=release, repair=repair, ack_wait=60)
    await feed.start()
    for number in range(20):
        await js.publish(f"{name}.a", b"bad" if number == 7 else b"good", {})
    await until(lambda: len(handled) == 20 and not feed.running)
    assert not feed._held
    assert not feed._waiting
    await feed.stop_pulling()
    await feed.close()
