"""Numbers of queues: what the broker says of them, and the rates that are made of it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from rpc.durable.letters import DeadLetters
from rpc.jobs.numbers import Meter, QueueNumbers, Rates, queue_numbers, queues
from tests.jobs.conftest import World
from tests.jobs.lab import lab
from tests.waiting import until


async def numbers(world: World, method: str = "Work") -> QueueNumbers:
    return await queue_numbers(world.js, world.subjects, "lab.v1.Lab", method)


async def test_of_what_nobody_has_ever_heard(world: World) -> None:
    assert await queues(world.js, world.subjects) == []
    found = await numbers(world)
    assert (found.length, found.scheduled, found.dead, found.oldest, found.has_workers) == (0, 0, 0, None, False)


async def test_a_queue_fills_and_drains(world: World) -> None:
    go_on = asyncio.Event()

    async def wait(_request: Any, _context: Any) -> None:
        await go_on.wait()

    async def bad(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "never")

    before = time.time()
    for what in ("wait", "bad", "a", "b"):
        await world.stub.Work(lab.request(what))
    later = datetime.now(UTC) + timedelta(hours=1)
    await world.stub.Work(lab.request("later"), metadata=(("natsmesh-run-at", later.isoformat()),))
    await world.stub.Many(lab.request("a"))
    assert await queues(world.js, world.subjects) == [("lab.v1.Lab", "Many"), ("lab.v1.Lab", "Work")]
    assert await queues(world.js, world.subjects, "lab.v1.La") == []
    found = await numbers(world)
    assert (found.waiting, found.in_flight, found.scheduled, found.has_workers) == (4, 0, 1, False)
    assert found.oldest is not None
    assert before - 1 < found.oldest < time.time() + 1
    worker = lab.worker(wait=wait, bad=bad)
    await world.serve(worker)
    await until(lambda: worker.running)
    found = await numbers(world)
    assert (found.waiting, found.in_flight, found.length, found.has_workers) == (3, 1, 4, True)
    settled = found.settled
    go_on.set()

    async def is_empty() -> bool:
        return (await numbers(world)).length == 0

    await until(is_empty)
    found = await numbers(world)
    assert (found.settled - settled, found.dead, found.scheduled, found.oldest) == (4, 1, 1, None)


NOTHING = QueueNumbers("a.B", "C", 0, 0, 0, 0, None, 0, has_workers=True)


def test_rates_and_when_it_will_be_empty() -> None:
    meter = Meter()
    assert meter.add(0.0, dataclasses.replace(NOTHING, waiting=100)) is None
    # In a second 10 came and 30 went.
    rates = meter.add(1.0, dataclasses.replace(NOTHING, waiting=80, settled=30))
    assert rates == Rates(10.0, 30.0)
    assert rates.eta(80) == 4.0
    assert meter.add(1.0, NOTHING) == rates  # no time has passed
    # Then nothing for long: that counts, the past does less and less.
    for second in range(2, 30):
        rates = meter.add(float(second), dataclasses.replace(NOTHING, waiting=80, settled=30))
    assert rates is not None
    assert rates.outgoing < 0.01
    assert rates.incoming < 0.01


@pytest.mark.parametrize(
    ("rates", "length", "eta"),
    [(Rates(0, 10), 50, 5.0), (Rates(10, 10), 50, None), (Rates(0, 0), 50, None), (Rates(5, 0), 0, 0.0)],
)
def test_eta(rates: Rates, length: int, eta: float | None) -> None:
    assert rates.eta(length) == eta


def test_a_consumer_that_was_made_anew_gives_no_negative_rates() -> None:
    meter = Meter()
    meter.add(0.0, dataclasses.replace(NOTHING, settled=1000, waiting=10))
    rates = meter.add(1.0, dataclasses.replace(NOTHING, settled=0, waiting=5))
    assert rates == Rates(0.0, 0.0)


# ------------------------------------------------------------------------------------------- out of the dead letters


async def test_a_dead_job_goes_back_and_begins_anew(world: World) -> None:
    letters = DeadLetters(world.js, world.subjects, world.records)
    is_mended = False

    async def bad(_request: Any, context: Any) -> None:
        if not is_mended:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "still not")

    worker = lab.worker(bad=bad)
    await world.serve(worker)
    operation = await world.stub.Work(lab.request("bad", request_id="r"), metadata=(("who", "me"),))
    assert (await world.failed(operation)).message == "still not"
    name = operation.name.split("/")[1:]
    letter = await letters.find("jobs", *name)
    assert letter is not None
    assert (letter.name, letter.attempts, letter.code) == (operation.name, 4, "UNAVAILABLE")
    assert await letters.count("lab.v1.Lab") == 1
    # Who waits for it hears of its second life.
    await letters.revive(letter)
    assert (await world.failed(operation)).message == "still not"
    assert [attempt for _, attempt, _ in worker.attempts] == [1, 2, 3, 4] * 2
    is_mended = True
    again = await letters.find("jobs", *name)
    assert again is not None
    assert await letters.revive(again)
    assert not await letters.revive(again)  # twice is once
    assert not await letters.revive(letter)
    response = await world.done(operation)
    assert response.attempt == 1
    assert await letters.count() == 0
    assert len(worker.attempts) == 9
    assert (await world.stub.Work(lab.request("bad", request_id="r"))).name == operation.name
    # A letter of a job that is done nevertheless is of no account.
    stored = again.stored
    await world.js.publish(stored.subject, stored.data, stored.headers | {"Nats-Msg-Id": "again"})
    stale = await letters.find("jobs", *name)
    assert stale is not None
    assert not await letters.revive(stale)
    assert (await letters.count(), (await world.done(operation)).attempt, len(worker.attempts)) == (0, 1, 9)


async def test_many_dead_letters_are_read_page_by_page_and_purged(world: World) -> None:
    letters = DeadLetters(world.js, world.subjects, world.records)
    assert [letter async for letter in letters.read()] == []
    assert (await letters.count(), await letters.purge("lab.v1.Lab")) == (0, 0)

    async def bad(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "never")

    await world.serve(lab.worker(bad=bad))
    for _ in range(300):
        last = await world.stub.Work(lab.request("bad"))
    await world.failed(await world.stub.Many(lab.request("bad")))
    await world.failed(last)
    assert len([letter async for letter in letters.read()]) == 301
    assert len([letter async for letter in letters.read("lab.v1.Lab", "Many")]) == 1
    assert await letters.purge("lab.v1.Lab", "Work") == 300
    assert await letters.count("lab.v1.Lab") == 1
