"""Several processes serve one service: who gets which call."""

import asyncio
from collections import Counter

import pytest

import rpc
from tests.integration import drill
from tests.integration.processes import Backends
from tests.waiting import until


async def test_every_process_gets_its_share(backends: Backends, channel: rpc.Channel) -> None:
    await backends.start("b1", "b2", "b3", "b4")
    work = drill.method(channel)
    replies = [reply for _ in range(10) for reply in await asyncio.gather(*(work({}, timeout=10) for _ in range(100)))]
    shares = Counter(reply["by"] for reply in replies)
    # NATS picks at random: with 1000 calls, 170 are six standard deviations below a quarter.
    assert set(shares) == {"b1", "b2", "b3", "b4"}
    assert min(shares.values()) > 170


async def test_a_full_back_end_refuses_and_the_call_runs_elsewhere_once(
    backends: Backends, channel: rpc.Channel
) -> None:
    await backends.start("small", concurrency=1, queue=0)
    work = drill.method(channel)
    held = work({"id": "held", "sleep": 30}, timeout=30)
    await until(lambda: backends.journal("started", "held"))
    await backends.start("large", concurrency=50, queue=50)
    replies = await asyncio.gather(*(work({"id": number}, timeout=10) for number in range(200)))
    assert {reply["by"] for reply in replies} == {"large"}
    ids = [line["id"] for line in backends.journal("started")]
    assert sorted(ids, key=str) == sorted(["held", *range(200)], key=str)
    held.cancel()


async def test_refused_everywhere_a_call_gets_its_turn_within_its_deadline(
    backends: Backends, channel: rpc.Channel
) -> None:
    """Four calls at a time, forty at once: each is refused now and then, and none is lost or run twice."""
    await backends.start("b1", "b2", concurrency=2, queue=0)
    work = drill.method(channel)
    await asyncio.gather(*(work({"id": number, "sleep": 0.02}, timeout=20) for number in range(40)))
    assert Counter(line["id"] for line in backends.journal("started")) == Counter(range(40))
    assert channel.stats.method(rpc.MethodInfo.from_path(drill.WORK)).errors == 0


async def test_refused_everywhere_until_the_deadline(backends: Backends, channel: rpc.Channel) -> None:
    await backends.start("b1", concurrency=1, queue=0)
    work = drill.method(channel)
    held = work({"id": "held", "sleep": 30}, timeout=30)
    await until(lambda: backends.journal("started", "held"))
    loop = asyncio.get_running_loop()
    begin = loop.time()
    call = work({"id": "refused"}, timeout=0.5)
    assert await call.code() in (rpc.StatusCode.DEADLINE_EXCEEDED, rpc.StatusCode.UNAVAILABLE)
    assert 0.4 < loop.time() - begin < 0.8
    assert backends.journal(call="refused") == []
    held.cancel()


async def test_two_versions_side_by_side(backends: Backends, channel: rpc.Channel, nats_url: str, prefix: str) -> None:
    connection = await rpc.connect(nats_url)
    watcher = rpc.ServiceWatcher(connection, prefix=prefix)
    await watcher.start()
    (old,) = await backends.start("old", version="1.9.0")
    (new,) = await backends.start("new", version="1.10.0-rc.1")
    view = await until(lambda: len(watcher.services.get(drill.SERVICE, old_view).instances) == 2 and watcher.services)
    assert view[drill.SERVICE].version == "1.10.0-rc.1"
    assert view[drill.SERVICE].instances == {old.instance, new.instance}
    work = drill.method(channel)
    replies = await asyncio.gather(*(work({}, timeout=10) for _ in range(60)))
    assert {reply["by"] for reply in replies} == {"old", "new"}
    new.signal(15)
    await until(lambda: watcher.services[drill.SERVICE].version == "1.9.0")
    assert await new.ended() == 0
    await watcher.close()
    await connection.close()


old_view = rpc.ServiceView("", "", "", b"", frozenset())


@pytest.mark.parametrize("missing", ["rpc.drill.v1.Drill/Nope", "no.such.Service/Method"])
async def test_where_nobody_is_the_answer_comes_at_once(backends: Backends, channel: rpc.Channel, missing: str) -> None:
    await backends.start("b1")
    loop = asyncio.get_running_loop()
    begin = loop.time()
    call = channel.unary_unary(f"/{missing.removeprefix('rpc.')}")(b"", timeout=10)
    expected = rpc.StatusCode.UNIMPLEMENTED if "Nope" in missing else rpc.StatusCode.UNAVAILABLE
    assert await call.code() is expected
    assert loop.time() - begin < 0.5
