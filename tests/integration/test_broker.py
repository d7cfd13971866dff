"""The broker goes away and comes back, or throws a client out: everything recovers by itself."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

import rpc
from rpc.embedded import Broker
from rpc.transport import nats
from rpc.transport.base import Subscription
from tests.integration import drill
from tests.integration.processes import Backends, accepted
from tests.waiting import until

RECOVERED_WITHIN = 5.0


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(port=0) as broker:
        yield broker


@pytest.fixture
def backends(broker: Broker, backends_at: Callable[[str], Backends]) -> Backends:
    return backends_at(broker.url)


@pytest.fixture
async def channel(broker: Broker, prefix: str) -> AsyncIterator[rpc.Channel]:
    async with rpc.Channel(broker.url, prefix=prefix) as channel:
        yield channel


class Load:
    """Calls all the time, one after the other in each of ten tasks, and notes when and how they ended."""

    def __init__(self, channel: rpc.Channel) -> None:
        self._work = drill.method(channel)
        self._stop = asyncio.Event()
        self.outcomes: list[tuple[float, rpc.StatusCode]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call()) for _ in range(10)]
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _call(self) -> None:
        while not self._stop.is_set():
            code = await self._work({"sleep": 0.002}, timeout=5).code()
            self.outcomes.append((time.monotonic(), code))
            if code is not rpc.StatusCode.OK:
                await asyncio.sleep(0.01)

    def succeeded_since(self, at: float) -> int:
        return sum(when > at and code is rpc.StatusCode.OK for when, code in self.outcomes)

    def codes_since(self, at: float) -> set[rpc.StatusCode]:
        return {code for when, code in self.outcomes if when > at}


@pytest.mark.parametrize("away", [0.0, 10.0])
async def test_killed_and_restarted_under_load(
    broker: Broker, backends: Backends, channel: rpc.Channel, away: float
) -> None:
    await backends.start("b1", "b2")
    async with Load(channel) as load:
        await until(lambda: load.succeeded_since(0) > 50)
        broker.kill()
        killed = time.monotonic()
        await until(lambda: rpc.StatusCode.UNAVAILABLE in load.codes_since(killed), 2)
        await asyncio.sleep(away)  # How long it is away is what is tested.
        await asyncio.to_thread(broker.start)
        back = time.monotonic()
        await until(lambda: load.succeeded_since(back) > 50, RECOVERED_WITHIN)
        settled = time.monotonic()
        await until(lambda: load.succeeded_since(settled) > 200)
        # Once it is back, it is back for everybody: no call fails any more.
        assert load.codes_since(settled) == {rpc.StatusCode.OK}


async def test_calls_under_way_end_when_the_connection_is_lost(
    broker: Broker, backends: Backends, channel: rpc.Channel
) -> None:
    await backends.start("b1")
    work, ask = drill.method(channel), drill.method(channel, drill.ASK)
    calls = [work({"id": "work", "sleep": 30}, timeout=60), ask({"id": "ask", "sleep": 30}, timeout=60)]
    await accepted(channel, 2)
    waits = work({"id": "waits"}, timeout=60, wait_for_ready=True)
    assert (await waits)["by"] == "b1"
    broker.kill()
    at = time.monotonic()
    for call in calls:
        assert await call.code() is rpc.StatusCode.UNAVAILABLE
    assert await work({}, timeout=60).code() is rpc.StatusCode.UNAVAILABLE
    waiting = work({"id": "waited"}, timeout=20, wait_for_ready=True)
    assert time.monotonic() - at < 1
    await asyncio.to_thread(broker.start)
    assert (await waiting)["by"] == "b1"


async def test_a_server_can_start_and_stop_while_the_broker_restarts(
    broker: Broker, channel: rpc.Channel, prefix: str
) -> None:
    """Subscriptions that are made or dropped in the gap are there, or not there, afterwards."""

    async def answer(request: object, context: object) -> object:
        return {"by": "late"}

    connection = await rpc.connect(broker.url)
    early = rpc.Server(connection, prefix=prefix)
    early.add_generic_rpc_handlers([drill.handlers(answer)])
    await early.start()
    await drill.method(channel)({}, timeout=5)
    broker.kill()
    await until(lambda: not connection.is_connected)
    stopping = asyncio.create_task(early.stop(0))
    late = rpc.Server(connection, prefix=f"{prefix}-late")
    late.add_generic_rpc_handlers([drill.handlers(answer)])
    starting = asyncio.create_task(late.start())
    await asyncio.sleep(0)
    await asyncio.to_thread(broker.start)
    await asyncio.gather(stopping, starting)
    async with rpc.Channel(broker.url, prefix=f"{prefix}-late") as other:
        assert await drill.method(other)({}, timeout=10, wait_for_ready=True) == {"by": "late"}
    await channel.channel_ready()
    assert await drill.method(channel)({}, timeout=5).code() is rpc.StatusCode.UNAVAILABLE
    await late.stop(0)
    await connection.close()


async def test_thrown_out_for_good_a_client_is_replaced(
    broker: Broker, backends: Backends, channel: rpc.Channel
) -> None:
    """The server closes connections that break its protocol; nats-py does not come back after that."""
    await backends.start("b1")
    work = drill.method(channel)
    await work({}, timeout=5)
    client = channel._connection._client  # type: ignore[attr-defined]
    client._transport.write(b"PUB too.large 99999999\r\n")
    await until(lambda: not channel._connection.is_connected or channel._connection._client is not client)  # type: ignore[attr-defined]
    begin = time.monotonic()
    assert (await work({}, timeout=10, wait_for_ready=True))["by"] == "b1"
    assert time.monotonic() - begin < RECOVERED_WITHIN


async def test_subscriptions_made_and_dropped_while_a_client_is_replaced(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, sender = await rpc.connect(broker.url), await rpc.connect(broker.url)
    received: list[str] = []

    async def subscribe(subject: str) -> Subscription:
        return await connection.subscribe(subject, lambda message: received.append(message.subject))

    await subscribe("kept")
    dropped = await subscribe("dropped")
    attaching, go_on = asyncio.Event(), asyncio.Event()
    attach = nats._Interest.attach

    async def slowly(interest: nats._Interest, client: object) -> None:
        attaching.set()
        await go_on.wait()
        await attach(interest, client)  # type: ignore[arg-type]

    monkeypatch.setattr(nats._Interest, "attach", slowly)
    connection._client._transport.write(b"PUB too.large 99999999\r\n")  # type: ignore[attr-defined]
    await asyncio.wait_for(attaching.wait(), RECOVERED_WITHIN)
    monkeypatch.undo()
    await subscribe("made")
    await dropped.unsubscribe()
    go_on.set()
    await asyncio.wait_for(connection.wait_connected(), RECOVERED_WITHIN)
    await connection.flush()
    for subject in ("kept", "dropped", "made"):
        await sender.publish(subject, b"")
    await sender.flush()
    await connection.flush()
    await until(lambda: len(received) >= 2)
    assert sorted(received) == ["kept", "made"]
    await sender.close()
    await connection.close()


async def test_a_read_loop_that_died_is_noticed(
    broker: Broker, backends: Backends, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py's read loop may end by an error while the client says that it is connected: pings find it out."""
    monkeypatch.setattr(nats, "PING_INTERVAL", 0.2)
    await backends.start("b1")
    async with rpc.Channel(broker.url, prefix=prefix) as channel:
        work = drill.method(channel)
        await work({}, timeout=5)
        channel._connection._client._reading_task.cancel()  # type: ignore[attr-defined]
        begin = time.monotonic()
        while await work({}, timeout=0.5).code() is not rpc.StatusCode.OK:
            assert time.monotonic() - begin < RECOVERED_WITHIN


async def test_when_its_user_is_gone_and_comes_back_it_goes_on(
    tmp_path: Path, backends_at: Callable[[str], Backends], prefix: str
) -> None:
    """Credentials are changed in the running broker: first everybody is thrown out, then let in again."""
    users = tmp_path / "users.conf"
    allowed, other = (f'[{{user: "{name}", password: "secret"}}]' for name in ("ada", "bob"))
    users.write_text(f"authorization: {{users: {allowed}}}")
    with Broker(port=0, config=f"include {_relative(users)}") as broker:
        url = broker.url.replace("://", "://ada:secret@")
        backends = backends_at(url)
        await backends.start("b1")
        async with rpc.Channel(url, prefix=prefix) as channel:
            work = drill.method(channel)
            assert (await work({}, timeout=5))["by"] == "b1"
            users.write_text(f"authorization: {{users: {other}}}")
            _reload(broker)
            await until(lambda: not channel._connection.is_connected)
            assert await work({}, timeout=5).code() is rpc.StatusCode.UNAVAILABLE
            users.write_text(f"authorization: {{users: {allowed}}}")
            _reload(broker)
            begin = time.monotonic()
            while await work({}, timeout=5).code() is not rpc.StatusCode.OK:
                assert time.monotonic() - begin < RECOVERED_WITHIN
                await asyncio.sleep(0.05)


def _relative(path: Path) -> str:
    """``include`` takes paths relative to the configuration file only, which lies in a temporary folder."""
    return "../" * 10 + str(path).lstrip("/")


def _reload(broker: Broker) -> None:
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGHUP)
