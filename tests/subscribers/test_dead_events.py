"""Events that a group cannot handle: tried again, buried, and put back: to that group alone."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.jobs.lab import lab
from tests.subscribers.conftest import Mesh
from tests.waiting import until

Code = grpc.StatusCode


async def test_an_event_that_fails_is_tried_again_then_buried(mesh: Mesh) -> None:
    async def act(request: Any, context: Any) -> None:
        if request.what == "flaky" and context.attempt == 1:
            await context.retry_later(0.05)
        if request.what == "unlucky":
            await context.abort(Code.INTERNAL, "no luck")
        if request.what == "bad":
            await context.abort(Code.INVALID_ARGUMENT, "never")

    shop = await mesh.shop(act)
    audit = await mesh.audit()
    await mesh.publish("flaky", "unlucky", "bad", "good")
    await until(lambda: _has(mesh, 2))
    await until(lambda: len(shop.one) == 6)
    assert sorted((what, delivery.attempt) for delivery, what in shop.one) == [
        ("bad", 1),
        ("flaky", 1),
        ("flaky", 2),
        ("good", 1),
        ("unlucky", 1),
        ("unlucky", 2),
    ]
    letters = {letter.code: letter for letter in await mesh.dead()}
    bad, unlucky = letters["INVALID_ARGUMENT"], letters["INTERNAL"]
    assert (bad.name, bad.attempts, bad.message) == ("events/lab.v1.Shop/OnDone/3", 1, "never")
    assert (unlucky.name, unlucky.attempts, unlucky.message) == ("events/lab.v1.Shop/OnDone/2", 2, "no luck")
    assert lab.pb.Done.FromString(bad.stored.data).what == "bad"
    await until(lambda: len(audit.one) == 4)  # others are not concerned
    await until(lambda: _settled(mesh, "lab_v1_Shop-OnDone"))


async def _has(mesh: Mesh, count: int) -> bool:
    return len(await mesh.dead()) == count


async def _settled(mesh: Mesh, group: str, event: str = "lab.v1.Done") -> bool:
    return await mesh.lag(group, event) == 0


async def test_one_bad_event_does_not_take_its_batch_along(mesh: Mesh) -> None:
    stored: list[str] = []

    async def batch(got: list[str], context: Any) -> None:
        if "bad" in got:
            await context.abort(Code.INVALID_ARGUMENT, "one of them is bad")
        stored.extend(got)

    await mesh.publish("a", "b", "bad", "c")
    await mesh.shop(batch=batch)
    await until(lambda: _settled(mesh, "lab_v1_Shop-StoreDone"))
    assert sorted(stored) == ["a", "b", "c"]
    (letter,) = await mesh.dead()
    assert letter.name == "events/lab.v1.Shop/StoreDone/3"


async def test_a_batch_that_comes_too_early_comes_again_as_a_whole(mesh: Mesh) -> None:
    async def batch(_got: list[str], context: Any) -> None:
        if context.attempt == 1:
            await context.retry_later(0.05)

    await mesh.publish("a", "b", "c")
    shop = await mesh.shop(batch=batch)
    await until(lambda: _settled(mesh, "lab_v1_Shop-StoreDone"))
    assert [[what for _, what in each] for each in shop.batches] == [["a", "b", "c"]] * 2
    assert await mesh.dead() == []


# ------------------------------------------------------------------------------------------- out of the dead letters


async def test_a_dead_event_goes_back_to_its_group_alone(mesh: Mesh) -> None:
    is_mended = False

    async def act(request: Any, context: Any) -> None:
        if request.what == "bad" and not is_mended:
            await context.abort(Code.INVALID_ARGUMENT, "not yet")

    shop, audit = await mesh.shop(act), await mesh.audit()
    await mesh.publisher.publish(lab.pb.Done(what="bad"), id="its-id")
    await mesh.publish("good")
    await until(lambda: _has(mesh, 1))
    await until(lambda: len(audit.one) == 2)
    (letter,) = await mesh.dead()
    await mesh.letters.revive(letter)
    # It fails again: a dead letter again, of the same event.
    await until(lambda: _has(mesh, 1))
    await until(lambda: len(shop.one) == 3)
    (again,) = await mesh.dead()
    is_mended = True
    await mesh.letters.revive(again)
    await mesh.letters.revive(again)  # twice is once
    await until(lambda: len(shop.one) == 4)
    await mesh.publish("last")
    await until(lambda: shop.one[-1][1] == audit.one[-1][1] == "last")
    assert [what for _, what in shop.one] == ["bad", "good", "bad", "bad", "last"]
    assert [what for _, what in audit.one] == ["bad", "good", "last"]
    deliveries = [delivery for delivery, what in shop.one if what == "bad"]
    assert {delivery.id for delivery in deliveries} == {"its-id"}
    assert [delivery.attempt for delivery in deliveries] == [1, 1, 1]
    # Its place is a new one: who has noted how far it is takes it for what it is, an event that is to be handled.
    sequences = [delivery.sequence for delivery, _ in shop.one]
    assert sequences == sorted(set(sequences))
    assert await mesh.dead() == []
    await until(lambda: sum(map(len, shop.batches)) >= 3)
    assert [what for each in shop.batches for _, what in each] == ["bad", "good", "last"]


async def test_a_dead_event_of_a_key_goes_back_to_its_place(mesh: Mesh) -> None:
    is_mended = False

    async def moved(request: Any, context: Any) -> None:
        if request.place == 1 and not is_mended:
            await context.abort(Code.INVALID_ARGUMENT, "not yet")

    shop = await mesh.shop(moved=moved)
    await mesh.move("a", 0, 1, 2)
    await until(lambda: _has(mesh, 1))
    await until(lambda: len(shop.moves) == 3)
    is_mended = True
    (letter,) = await mesh.dead()
    await mesh.letters.revive(letter)
    await until(lambda: len(shop.moves) == 4)
    assert [place for _, _, place in shop.moves] == [0, 1, 2, 1]
    assert await mesh.dead() == []


@pytest.mark.parametrize("kind", ["OnDone", "OnMoved"])
async def test_dead_events_wait_for_their_group(mesh: Mesh, kind: str) -> None:
    """Nobody of it is up when they are put back."""

    async def bad(_request: Any, context: Any) -> None:
        await context.abort(Code.INVALID_ARGUMENT, "not yet")

    shop = await mesh.shop(bad, moved=bad)
    if kind == "OnDone":
        await mesh.publish("x")
    else:
        await mesh.move("x", 1)
    await until(lambda: _has(mesh, 1))
    await shop.server.stop(1)
    (letter,) = await mesh.dead()
    assert letter.method == kind
    await mesh.letters.revive(letter)
    shop = await mesh.shop()
    await until(lambda: shop.one or shop.moves)
