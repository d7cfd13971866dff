"""Groups that handle events again from a time on, while their processes run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from rpc.events.groups import EventType, Group, event_types, replay
from tests.subscribers.conftest import Mesh
from tests.waiting import until


async def group_of(mesh: Mesh, method: str, service: str = "lab.v1.Shop") -> tuple[EventType, Group]:
    kinds = await event_types(mesh.world.js, mesh.world.subjects)
    return next(
        (kind, group) for kind in kinds for group in kind.groups if (group.service, group.method) == (service, method)
    )


async def test_what_is_known_of_types_and_groups(mesh: Mesh) -> None:
    assert await event_types(mesh.world.js, mesh.world.subjects) == []
    shop = await mesh.shop()
    await mesh.audit()
    await shop.server.stop(1)
    await mesh.publish("a", "b")
    await mesh.move("thing", 1)
    kinds = {kind.event: kind for kind in await event_types(mesh.world.js, mesh.world.subjects)}
    assert sorted(kinds) == ["lab.v1.Done", "lab.v1.Moved"]
    done, moved = kinds["lab.v1.Done"], kinds["lab.v1.Moved"]
    assert (done.messages, moved.messages) == (2, 1)
    assert done.oldest is not None
    groups = {(group.service, group.method): group for group in done.groups}
    assert {name: group.lag for name, group in groups.items() if name[0] == "lab.v1.Shop"} == {
        ("lab.v1.Shop", "OnDone"): 2,
        ("lab.v1.Shop", "StoreDone"): 2,
    }
    (ordered,) = moved.groups
    assert (ordered.method, len(ordered.consumers), ordered.lag) == ("OnMoved", 4, 1)

    async def is_settled() -> bool:
        _, group = await group_of(mesh, "OnDone", "lab.v1.Audit")
        return (group.lag, group.in_flight, group.has_subscribers) == (0, 0, True)

    await until(is_settled)


async def test_from_a_time_on(mesh: Mesh) -> None:
    shop, audit = await mesh.shop(), await mesh.audit()
    await mesh.publish("old")
    await until(lambda: len(shop.one) == len(audit.one) == 1)
    since = datetime.now(UTC)
    await mesh.publish("a", "b")
    await until(lambda: len(shop.one) == len(audit.one) == 3)
    js = mesh.world.js
    assert await replay(js, *await group_of(mesh, "OnDone"), since) == 2
    await until(lambda: len(shop.one) == 5)
    assert await replay(js, *await group_of(mesh, "OnDone"), datetime(1970, 1, 1, tzinfo=UTC)) == 3
    await until(lambda: len(shop.one) == 8)
    assert await replay(js, *await group_of(mesh, "OnDone"), since + timedelta(hours=1)) == 0
    await mesh.publish("new")
    await until(lambda: len(shop.one) == 9 and len(audit.one) == 4)
    assert [what for _, what in shop.one] == ["old", "a", "b", "a", "b", "old", "a", "b", "new"]
    assert [what for _, what in audit.one] == ["old", "a", "b", "new"]
    assert await mesh.lag("lab_v1_Shop-OnDone") == 0


async def test_in_the_middle_of_the_work(mesh: Mesh) -> None:
    """With events in the hands of two processes, and others waiting: each is handled again, none is stuck."""

    async def slow(_request: Any, _context: Any) -> None:
        await asyncio.sleep(0.02)

    shops = [await mesh.shop(slow), await mesh.shop(slow)]
    whats = [str(number) for number in range(20)]
    await mesh.publish(*whats)
    for _ in range(3):
        before = sum(len(shop.one) for shop in shops)
        await until(lambda before=before: sum(len(shop.one) for shop in shops) >= before + 4)
        assert await replay(mesh.world.js, *await group_of(mesh, "OnDone"), datetime(1970, 1, 1, tzinfo=UTC)) == 20

    async def is_settled() -> bool:
        return await mesh.lag("lab_v1_Shop-OnDone") == 0

    await until(is_settled)
    got = [what for shop in shops for _, what in shop.one]
    assert set(got) == set(whats)
    assert len(got) >= 20 + 3 * 3
    assert await mesh.dead() == []


async def test_of_an_ordered_group(mesh: Mesh) -> None:
    shop = await mesh.shop()
    for thing in "abc":
        await mesh.move(thing, 1, 2, 3)
    await until(lambda: len(shop.moves) == 9)
    kind, group = await group_of(mesh, "OnMoved")
    assert await replay(mesh.world.js, kind, group, datetime(1970, 1, 1, tzinfo=UTC)) == 9
    await until(lambda: len(shop.moves) == 18)
    for thing in "abc":
        assert [place for _, each, place in shop.moves if each == thing] == [1, 2, 3, 1, 2, 3]
