"""Limits that gateways share by JetStream: on a real nats-server, which also stops, hangs and comes back."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest

import rpc
from gateway.app import Gateway
from gateway.config import Config
from gateway.filters import rate_limit_shared
from gateway.filters.rate_limit_options import LimitRule, RateLimitOptions
from gateway.filters.rate_limit_shared import Away, SharedTable
from gateway.filters.rate_limit_table import Quota
from rpc import KeyValue
from rpc.embedded import Broker
from rpc.testing import MemoryMesh
from tests.gateway.asgi import Client
from tests.gateway.backends import RawBackend
from tests.gateway.streaming import SERVICE, STREAMS
from tests.integration.processes import freeze
from tests.waiting import until

ASK = f"/{SERVICE}/Ask"


class Mesh:
    """Gateways on one broker, which share a bucket."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bucket = f"t-{secrets.token_hex(4)}"
        self.prefix = f"t{secrets.token_hex(4)}"
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        connection = await self.connection()
        await RawBackend(connection, SERVICE, STREAMS, prefix=self.prefix).start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def connection(self) -> rpc.Connection:
        connection = await rpc.connect(self.url)
        self._stack.push_async_callback(connection.close)
        return connection

    async def gateway(self, limit: int, window: float = 3600.0, **options: Any) -> Client:
        rules = (LimitRule(name="all", limit=limit, window=window, per=()),)
        shared = RateLimitOptions(rules=rules, bucket=self.bucket, **options)
        config = Config(nats_url=self.url, prefix=self.prefix, rate_limit=shared)
        gateway = await self._stack.enter_async_context(Gateway(config))
        await asyncio.wait_for(gateway.ready(), 10)
        return Client(gateway)


@pytest.fixture
async def mesh(nats_url: str) -> AsyncIterator[Mesh]:
    async with Mesh(nats_url) as mesh:
        yield mesh


async def passed(clients: list[Client], requests: int, at_once: int = 20) -> int:
    """Send requests to all gateways in turn, some of them at once; return how many passed."""
    statuses: list[int] = []

    async def send(numbers: range) -> None:
        for number in numbers:
            statuses.append((await clients[number % len(clients)].post(ASK, json={})).status)

    await asyncio.gather(*(send(range(first, requests, at_once)) for first in range(at_once)))
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


@pytest.mark.parametrize(("limit", "requests"), [(5, 40), (50, 200), (300, 900)])
async def test_two_gateways_never_let_more_pass_than_one_would(mesh: Mesh, limit: int, requests: int) -> None:
    clients = [await mesh.gateway(limit) for _ in range(2)]
    # Each may be left with a part of its last lease, because the other one asked in vain meanwhile.
    lease = max(1, limit // rate_limit_shared.LEASE_SHARE)
    found = await passed(clients, requests)
    assert limit - 2 * (lease - 1) <= found <= limit
    assert await passed(clients, 20) <= limit - found


async def test_what_one_gateway_has_given_out_another_does_not(mesh: Mesh) -> None:
    first = await mesh.gateway(10)
    assert await passed([first], 30, at_once=1) == 10
    second = await mesh.gateway(10)
    assert await passed([second], 30, at_once=1) == 0
    answer = await second.post(ASK, json={})
    assert answer.status == 429
    assert 350 <= int(answer.header("retry-after") or 0) <= 360


async def test_the_rate_holds_over_time(mesh: Mesh) -> None:
    """For a second, both gateways let pass as much as the rule says: a burst, and what the rate gives meanwhile."""
    clients = [await mesh.gateway(100, window=1.0) for _ in range(2)]
    started = time.monotonic()
    found = sent = 0
    while (seconds := time.monotonic() - started) < 1.0:
        found += await passed(clients, 20, at_once=4)
        sent += 20
    seconds = time.monotonic() - started
    # Tokens of a lease may be given out some time after they were taken; so a lease each on top.
    assert found <= 100 + 100 * seconds + 2 * 10
    assert found >= min(sent, 100 - 2 * 9)


async def test_the_bucket_is_asked_seldom(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await mesh.gateway(1000)
    asked = 0
    update = KeyValue.update

    async def counted(self: KeyValue, key: str, value: bytes, revision: int) -> int:
        nonlocal asked
        asked += 1
        return await update(self, key, value, revision)

    monkeypatch.setattr(KeyValue, "update", counted)
    assert await passed([client], 500) == 500
    assert asked <= 6
    assert await passed([client], 600) == 500
    refused = asked
    # Who is refused is refused here.
    assert await passed([client], 100) == 0
    assert asked == refused


async def test_values_that_others_wrote(mesh: Mesh) -> None:
    """Garbage, and clocks that are wrong: a caller is locked out for no longer than a whole quota takes."""
    connection = await mesh.connection()
    bucket = KeyValue(connection, mesh.bucket, in_memory=True)
    quota = Quota(10, 1.0, None)

    async def taken(value: bytes) -> bool:
        table = SharedTable(bucket, secrets.token_hex(4), 10, Away(), "open")
        name = f"{table._rule}.{rate_limit_shared._digest('k')}"
        await bucket.create(name, value)
        first = await table.take("k", quota)
        if not first.is_allowed:
            assert first.wait <= 0.11
        return first.is_allowed

    for garbage in (b"", b"x", b"\xff" * 8, b"\xff\xf0" + bytes(6)):
        assert await taken(garbage)
    assert not await taken(rate_limit_shared._VALUE.pack(time.time() + 1e6))
    assert not await taken(rate_limit_shared._VALUE.pack(float("inf")))


# -------------------------------------------------------------------------------------------- the bucket is away


def table_of(client: Client) -> SharedTable:
    table: SharedTable = client.application._filters[0]._shared[0]
    return table


async def test_a_broker_that_stops_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Broker(port=0) as broker:
        async with Mesh(broker.url) as mesh:
            quota = Quota(10, 3600.0, None)
            opened = await mesh.gateway(10)
            closed = await mesh.gateway(10, when_away="closed")
            assert await passed([opened, closed], 20) == 10
            await asyncio.to_thread(broker.kill)
            await until(lambda: not opened.application._connection.is_connected)
            # The back-end is away as well, so it is the tables that are asked: nobody waits.
            started = time.monotonic()
            alone = [(await table_of(opened).take(f"new {number}", quota)).is_allowed for number in range(20)]
            assert alone == [True] * 20
            one = [(await table_of(opened).take("one", quota)).is_allowed for _ in range(20)]
            assert one == [True] * 10 + [False] * 10
            for number in range(20):
                with pytest.raises(Exception, match="cannot find out"):
                    await table_of(closed).take(f"new {number}", quota)
            assert time.monotonic() - started < 1
            await asyncio.to_thread(broker.start)
            await until(lambda: opened.application._connection.is_connected)
            await until(lambda: not table_of(opened)._away)
            # What is shared again is counted together again; the numbers of before were in memory.
            limit = time.monotonic() + 10
            while "can be had again" not in caplog.text:
                await table_of(opened).take("back", quota)
                assert time.monotonic() < limit
                await asyncio.sleep(0.05)
            warnings = [each for each in caplog.records if each.name == rate_limit_shared.__name__]
            assert len([each for each in warnings if each.levelno == logging.WARNING]) <= 2
            took = [
                (await table_of(each).take("fresh", quota)).is_allowed for each in (opened, closed) for _ in range(9)
            ]
            assert sum(took) == 10


async def test_a_broker_that_hangs() -> None:
    """Requests are answered within half a second, and after the first one at once."""
    with Broker(port=0) as broker:
        async with Mesh(broker.url) as mesh:
            client = await mesh.gateway(10)
            quota = Quota(10, 3600.0, None)
            assert (await table_of(client).take("a", quota)).is_allowed
            assert broker.pid is not None
            await freeze(broker.pid)
            try:
                started = time.monotonic()
                assert (await table_of(client).take("b", quota)).is_allowed
                assert time.monotonic() - started < rate_limit_shared.PATIENCE + 0.3
                started = time.monotonic()
                for number in range(100):
                    assert (await table_of(client).take(number, quota)).is_allowed
                assert time.monotonic() - started < 0.3
            finally:
                os.kill(broker.pid, signal.SIGCONT)


async def test_a_broker_without_jetstream() -> None:
    with Broker(port=0, config="jetstream: disabled") as broker:
        async with Mesh(broker.url) as mesh:
            opened = await mesh.gateway(3)
            assert await passed([opened], 10) == 3
            closed = await mesh.gateway(3, when_away="closed")
            answer = await closed.post(ASK, json={})
            assert (answer.status, answer.json["code"], answer.header("retry-after")) == (503, "unavailable", "1")


async def test_the_bus_in_memory_has_no_bucket(memory_mesh: MemoryMesh) -> None:
    connection = memory_mesh.connection()
    await connection.connect()
    rules = (LimitRule(name="r", limit=1),)
    gateway = Gateway(Config(rate_limit=RateLimitOptions(rules=rules, bucket="b")), connection=connection)
    with pytest.raises(TypeError, match=r"rpc\.connect"):
        await gateway.start()


async def test_gateways_stop_while_they_ask(mesh: Mesh) -> None:
    client = await mesh.gateway(10)
    table = table_of(client)
    waiting = [asyncio.create_task(table.take(number, Quota(10, 1.0, None))) for number in range(20)]
    while not table._renewals:
        await asyncio.sleep(0)
    await table.close()
    assert all(task.done() for task in table._renewals)
    started = time.monotonic()
    await asyncio.gather(*waiting)
    assert time.monotonic() - started < 0.2
    await table.close()
