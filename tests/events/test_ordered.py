"""Events of one key: in their order, one at a time, whatever fails; different keys at once."""

import asyncio
import itertools
import random
from typing import Any

import grpc

from rpc.events.layout import partition_of
from tests.events.conftest import World
from tests.events.stage import stage
from tests.waiting import until

ACCOUNTS = list("ABCDEFGHIJKLMNOP")


async def publish(world: World, accounts: list[str], count: int) -> None:
    publisher = await world.publisher()

    async def of_one(account: str) -> None:
        for number in range(count):
            await publisher.publish(stage.moved(account, number))

    await asyncio.gather(*(of_one(account) for account in accounts))


async def test_the_order_of_a_key_holds_over_failures_and_processes(world: World) -> None:
    random.seed(7)
    order: list[tuple[str, int]] = []
    running: dict[str, int] = {}

    async def move(events: Any, context: Any) -> None:
        (event,) = events
        running[event.account] = running.get(event.account, 0) + 1
        assert running[event.account] == 1, "one at a time"
        try:
            await asyncio.sleep(random.random() * 0.003)
            if random.random() < 0.2:
                await context.abort(random.choice((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)), "stumbled")
        finally:
            running[event.account] -= 1
        order.append((event.account, event.number))

    members = [stage.subscriber("Ledger", move) for _ in range(2)]
    await publish(world, ACCOUNTS, 5)
    servers = [await world.serve(member) for member in members]
    await publish(world, ACCOUNTS, 5)
    await until(lambda: len(order) >= 80)
    await servers[0].stop(1)
    members.append(stage.subscriber("Ledger", move))
    await world.serve(members[-1])
    await until(lambda: len(order) >= len(ACCOUNTS) * 10, 20)
    for account in ACCOUNTS:
        assert [number for name, number in order if name == account] == [*range(5), *range(5)]
    assert sum(map(len, (member.got for member in members))) > len(order), "some have failed"
    assert all(member.done for member in members)
    assert not await world.dead_letters()


async def test_different_keys_are_handled_at_once_and_one_key_waits_for_itself(world: World) -> None:
    by_partition = {partition_of(account, 4): account for account in ACCOUNTS}
    accounts = list(by_partition.values())
    assert len(accounts) == 4
    hold = asyncio.Event()

    async def wait(_events: Any, _context: Any) -> None:
        await hold.wait()

    subscriber = stage.subscriber("Ledger", wait)
    await world.serve(subscriber)
    await publish(world, accounts, 2)
    await until(lambda: subscriber.running == 4)
    assert {events[0].account for events in subscriber.got} == set(accounts)
    assert {events[0].number for events in subscriber.got} == {0}
    hold.set()
    await until(lambda: len(subscriber.done) == 8)


async def test_a_dead_letter_lets_the_next_event_of_the_key_through(world: World) -> None:
    async def refuse(events: Any, context: Any) -> None:
        if events[0].number == 1:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "never")

    subscriber = stage.subscriber("Ledger", refuse)
    await world.serve(subscriber)
    await publish(world, ["A"], 4)
    await until(lambda: [event.number for event in subscriber.done] == [0, 2, 3])
    assert len(await world.dead_letters()) == 1


async def test_processes_share_the_partitions(world: World) -> None:
    members = [stage.subscriber("Ledger") for _ in range(3)]
    for member in members:
        await world.serve(member)
    await publish(world, ACCOUNTS, 10)
    await until(lambda: sum(len(member.done) for member in members) == 160)
    handled = [(event.account, event.number) for event in itertools.chain(*(member.done for member in members))]
    assert sorted(handled) == sorted(itertools.product(ACCOUNTS, range(10)))
