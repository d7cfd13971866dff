"""Servers that stop, are cut off or cannot start: what they had goes back, and counts as it should."""

import asyncio
import contextvars
import dataclasses
from typing import Any

import grpc
import pytest

import rpc
from rpc.durable.options import event_of
from rpc.events.layout import stream
from rpc.jetstream.specs import MigrationError
from rpc.jetstream.streams import ensure_stream
from tests.events.conftest import World
from tests.events.stage import stage
from tests.waiting import until


async def publish(world: World, *events: Any) -> None:
    publisher = await world.publisher()
    await asyncio.gather(*(publisher.publish(event) for event in events))


async def test_unfinished_events_are_handled_by_another_process_at_once(world: World) -> None:
    hold = asyncio.Event()

    async def wait(_events: Any, _context: Any) -> None:
        await hold.wait()

    slow, quick = stage.subscriber("Patient", wait), stage.subscriber("Patient")
    stopping = await world.serve(slow)
    names = [str(number) for number in range(20)]
    await publish(world, *map(stage.placed, names))
    await until(lambda: slow.running == 4)  # its max_concurrency
    await world.serve(quick)
    await stopping.stop(0.1)
    await until(lambda: sorted(quick.ids) == sorted(names), 10)  # an ack_wait would take 30 s
    assert not slow.done
    assert all(attempts == [1] for attempts in slow.attempts)


async def test_what_ends_within_the_grace_is_not_handled_twice(world: World) -> None:
    go = asyncio.Event()

    async def wait(_events: Any, _context: Any) -> None:
        await go.wait()

    subscriber = stage.subscriber("Mail", wait)
    server = await world.serve(subscriber)
    await publish(world, *(stage.placed(number) for number in range(4)))
    await until(lambda: subscriber.running == 4)
    stop = asyncio.create_task(server.stop(5))
    go.set()
    await stop
    assert len(subscriber.done) == 4
    again = stage.subscriber("Mail")
    await world.serve(again)
    assert await until(lambda: world.settled("stage_v1_Mail-OnPlaced"))
    assert not again.got


async def test_a_stop_while_a_failed_batch_is_tried_one_by_one_gives_all_back(world: World) -> None:
    alone = asyncio.Event()

    async def fail(events: Any, context: Any) -> None:
        if len(events) > 1:
            await context.abort(grpc.StatusCode.INTERNAL, "all of you")
        if events[0].id == "3":
            alone.set()
            await asyncio.Event().wait()

    broken, sound = stage.subscriber("Archive", fail), stage.subscriber("Archive")
    server = await world.serve(broken)
    names = [str(number) for number in range(10)]
    publisher = await world.publisher()
    for name in names:
        await publisher.publish(stage.placed(name))
    await asyncio.wait_for(alone.wait(), 10)
    await server.stop(None)
    await world.serve(sound)
    await until(lambda: sorted(broken.ids + sound.ids) == sorted(names), 10)  # an ack_wait would take 30 s
    assert not await world.dead_letters()


async def test_an_event_that_was_given_back_is_handled_although_its_attempts_are_used_up(world: World) -> None:
    """Nobody has tried it to its end: it does not belong to the dead letters."""

    async def never(_events: Any, _context: Any) -> None:
        await asyncio.Event().wait()

    await publish(world, stage.placed(1))
    for _ in range(3):
        hanging = stage.subscriber("Audit", never)  # max_attempts: 1
        server = await world.serve(hanging)
        await until(lambda hanging=hanging: hanging.running)
        await server.stop(None)
    sound = stage.subscriber("Audit")
    await world.serve(sound)
    await until(lambda: sound.ids == ["1"])
    assert not await world.dead_letters()


async def test_an_event_that_kills_all_who_have_it_ends_as_a_dead_letter(world: World) -> None:
    async def cut_off(_events: Any, _context: Any) -> None:
        await asyncio.Event().wait()

    await publish(world, stage.placed(1))
    hanging = stage.subscriber("Audit", cut_off)
    while not (letters := await world.dead_letters()):
        # As a kill does: what a server without signs of life has, goes to the next one after its ack_wait.
        server = await world.serve(hanging)
        began = len(hanging.got)
        await until(lambda began=began: len(hanging.got) > began or world.dead_letters())
        await server.stop(None)
        assert len(hanging.got) < 20
    assert letters[0].headers["natsmesh-error-code"] == "UNAVAILABLE"


async def test_a_handler_finds_no_context_of_the_one_before_it(world: World) -> None:
    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="")
    found: list[str] = []

    async def leave(events: Any, _context: Any) -> None:
        found.append(mark.get())
        mark.set(events[0].id)
        rpc.current_connection()  # its own server's

    subscriber = stage.subscriber("Audit", leave)
    await world.serve(subscriber)
    await publish(world, *(stage.placed(number) for number in range(20)))
    await until(lambda: len(subscriber.done) == 20)
    assert found == [""] * 20


async def test_a_start_that_fails_says_why_and_leaves_nothing_behind(world: World) -> None:
    # The stream has more partitions than the .proto says, and events in the others.
    options = dataclasses.replace(event_of(stage.pb.Moved.DESCRIPTOR), partitions=8)
    await ensure_stream(world.js, stream(world.subjects, options), migrate=True)
    await world.js.publish(world.subjects.event("stage.v1.Moved", 6), b"", {})
    await publish(world, stage.placed(1))
    first = stage.subscriber("Mail")
    with pytest.raises(MigrationError) as raised:
        await world.serve(first, stage.subscriber("Ledger"))
    assert "8" in str(raised.value)
    assert "4" in str(raised.value)
    assert "partitions" in str(raised.value)
    # The subscription that could be made has ended as well: another one gets the event at once.
    before = len(first.got)
    second = stage.subscriber("Mail")
    await world.serve(second)
    publisher = await world.publisher()
    for number in range(10):
        await publisher.publish(stage.placed(number))
    await until(lambda: len(second.done) >= 10)
    assert len(first.got) == before
