"""Counting sign-ups: each once, however often it is told, and by however many processes."""

import asyncio
import datetime as dt
import secrets
from collections.abc import AsyncIterator

import grpc
import pytest

import rpc
from accounts.v1 import accounts_pb2
from services import signups
from services.signups import Signups
from signups.v1 import signups_pb2
from tests.services.signed_up import Mesh, serving
from tests.waiting import until


@pytest.fixture
async def mesh(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    """Two processes that count, as far as the broker can tell."""
    monkeypatch.setenv("NATSMESH_PREFIX", f"t{secrets.token_hex(4)}")
    async with serving(nats_url, Signups(), instances=2) as mesh:
        yield mesh


@pytest.fixture
async def publisher(mesh: Mesh) -> AsyncIterator[rpc.Publisher]:
    async with rpc.Publisher(mesh.connection) as publisher:
        yield publisher


def signed_up(email: str, ago: float = 0.0) -> accounts_pb2.UserSignedUp:
    event = accounts_pb2.UserSignedUp(account_id=secrets.token_hex(16), email=email)
    event.create_time.FromDatetime(dt.datetime.now(dt.UTC) - dt.timedelta(days=ago))
    return event


async def day(mesh: Mesh, ago: int = 0) -> dict[str, int]:
    """The domains of a day."""
    date = (dt.datetime.now(dt.UTC).date() - dt.timedelta(days=ago)).isoformat()
    found = await mesh.signups.GetSignups(signups_pb2.GetSignupsRequest(days=31), timeout=10)
    return {domain.name: domain.count for day in found.days if day.date == date for domain in day.domains}


async def test_nobody_has_signed_up(mesh: Mesh) -> None:
    assert await mesh.counted() == 0


async def test_each_is_counted_once(mesh: Mesh, publisher: rpc.Publisher) -> None:
    events = [signed_up(f"{number}@{'example.com' if number % 3 else 'Example.ORG'}") for number in range(300)]
    for _ in range(3):  # with new ids, so that the broker does not know them again
        await asyncio.gather(*(publisher.publish(event) for event in events))
    last = signed_up("last@example.net")
    await publisher.publish(last)
    await until(lambda: mesh.counts(301))
    await until(lambda: _has(mesh, "example.net"))
    assert await day(mesh) == {"example.com": 200, "example.org": 100, "example.net": 1}


async def _has(mesh: Mesh, domain: str) -> bool:
    return domain in await day(mesh)


async def test_days_are_told_apart(mesh: Mesh, publisher: rpc.Publisher) -> None:
    for ago in (0, 1, 1, 6, 7, 30, 31):
        await publisher.publish(signed_up("ada@example.com", ago))
    await until(lambda: _has_days(mesh, 31, 6))
    found = await mesh.signups.GetSignups(signups_pb2.GetSignupsRequest(), timeout=10)
    assert ([each.total for each in found.days], found.total) == ([1, 2, 1], 4)
    assert [each.date for each in found.days] == sorted((each.date for each in found.days), reverse=True)
    found = await mesh.signups.GetSignups(signups_pb2.GetSignupsRequest(days=1), timeout=10)
    assert found.total == 1


async def _has_days(mesh: Mesh, days: int, total: int) -> bool:
    found = await mesh.signups.GetSignups(signups_pb2.GetSignupsRequest(days=days), timeout=10)
    return bool(found.total == total)


@pytest.mark.parametrize("days", [0, -1, 32])
async def test_too_many_days(mesh: Mesh, days: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.signups.GetSignups(signups_pb2.GetSignupsRequest(days=days), timeout=10)
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        f"days: {days} is not from 1 to 31",
    )


async def test_what_is_no_sign_up_does_not_hold_up_the_others(mesh: Mesh, publisher: rpc.Publisher) -> None:
    for event in (
        signed_up("1@example.com"),
        accounts_pb2.UserSignedUp(account_id="x"),
        accounts_pb2.UserSignedUp(account_id="a" * 32),
        signed_up("2@example.com"),
    ):
        await publisher.publish(event)
    await until(lambda: mesh.counts(2))


async def test_domains_beyond_the_bound_are_counted_together(
    mesh: Mesh, publisher: rpc.Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signups, "MAX_DOMAINS", 2)
    monkeypatch.setattr(signups, "SHARDS", "0")
    for number in range(5):
        event = signed_up(f"ada@{number}.example.com")
        event.account_id = f"0{event.account_id[1:]}"
        await publisher.publish(event)
    await until(lambda: mesh.counts(5))
    assert sorted((await day(mesh)).values()) == [1, 1, 3]
    assert (await day(mesh))[""] == 3
