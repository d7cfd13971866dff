"""Back-ends that are killed, stopped or shut down while they have calls."""

import asyncio
import signal
import time

import rpc
from tests.integration import drill
from tests.integration.processes import Backends, accepted
from tests.waiting import until


async def test_kill_9_ends_the_calls_in_it_soon_and_no_others(backends: Backends, channel: rpc.Channel) -> None:
    victim, _ = await backends.start("victim", "survivor")
    work = drill.method(channel)
    calls = {number: work({"id": number, "sleep": 2}, timeout=20) for number in range(20)}
    await accepted(channel, 20)
    held = {line["id"] for line in backends.journal("started") if line["by"] == "victim"}
    assert 0 < len(held) < 20
    at = time.monotonic()
    victim.kill()
    for number in held:
        assert await calls[number].code() is rpc.StatusCode.UNAVAILABLE
        assert "died" in await calls[number].details()
    assert time.monotonic() - at < 1.8
    for number in calls.keys() - held:
        assert (await calls[number])["by"] == "survivor"
    assert len(backends.journal("started")) == 20


async def test_kill_9_before_it_accepted_ends_the_call_at_its_deadline(
    backends: Backends, channel: rpc.Channel
) -> None:
    (victim,) = await backends.start("victim")
    victim.signal(signal.SIGSTOP)
    call = drill.method(channel)({"id": "lost"}, timeout=0.7)
    await channel.channel_ready()
    victim.kill()
    at = time.monotonic()
    assert await call.code() in (rpc.StatusCode.DEADLINE_EXCEEDED, rpc.StatusCode.UNAVAILABLE)
    assert time.monotonic() - at < 1


async def test_a_back_end_that_stands_still_ends_its_calls_after_the_limit_of_silence(
    backends: Backends, channel: rpc.Channel
) -> None:
    (victim,) = await backends.start("victim")
    work = drill.method(channel)
    held = work({"id": "accepted", "sleep": 20}, timeout=30)
    await accepted(channel)
    victim.signal(signal.SIGSTOP)
    at = time.monotonic()
    unseen = work({"id": "unseen"}, timeout=30)
    assert await unseen.code() is rpc.StatusCode.UNAVAILABLE
    assert await held.code() is rpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - at < 8
    # When it moves again, it finds nobody waiting any more.
    victim.signal(signal.SIGCONT)
    await until(lambda: backends.journal("cancelled", "accepted"), 3)
    assert (await work({"id": "after"}, timeout=5))["by"] == "victim"
    assert len(backends.journal("ended", "unseen")) <= 1


async def test_calls_of_an_idempotent_method_go_on_elsewhere(backends: Backends, channel: rpc.Channel) -> None:
    victim, _ = await backends.start("victim", "survivor")
    ask = drill.method(channel, drill.ASK)
    calls = {number: ask({"id": number, "sleep": 0.5}, timeout=20) for number in range(20)}
    await accepted(channel, 20)
    held = {line["id"] for line in backends.journal("started") if line["by"] == "victim"}
    victim.kill()
    replies = {number: await call for number, call in calls.items()}
    assert {reply["by"] for reply in replies.values()} == {"survivor"}
    started = [line["id"] for line in backends.journal("started")]
    assert {number for number in started if started.count(number) == 2} == held


async def test_stopped_under_load_nothing_is_lost(backends: Backends, channel: rpc.Channel) -> None:
    """Back-ends are replaced one after the other while calls come in all the time."""
    work = drill.method(channel)
    running = await backends.start("b0", "b1")
    stop = asyncio.Event()
    served = 0

    async def load(name: int) -> None:
        nonlocal served
        number = 0
        while not stop.is_set():
            number += 1
            await work({"id": f"{name}.{number}", "sleep": 0.005}, timeout=10)
            served += 1

    async with asyncio.TaskGroup() as group:
        for name in range(20):
            group.create_task(load(name))
        for number in range(2, 5):
            running += await backends.start(f"b{number}")
            oldest = running.pop(0)
            oldest.signal(signal.SIGTERM)
            assert await oldest.ended() == 0
        stop.set()
    started = [line["id"] for line in backends.journal("started")]
    assert served > 200
    assert len(started) == len(set(started)) == served


async def test_stop_lets_running_calls_end_and_takes_no_new_ones(backends: Backends, channel: rpc.Channel) -> None:
    (server,) = await backends.start("b1", grace=10)
    work = drill.method(channel)
    running = work({"id": "running", "sleep": 0.5}, timeout=10)
    await until(lambda: backends.journal("started", "running"))
    server.signal(signal.SIGTERM)

    async def refused() -> bool:
        return await work({"id": "new"}, timeout=5).code() is rpc.StatusCode.UNAVAILABLE

    while not await refused():
        assert server.is_running
    assert (await running)["by"] == "b1"
    assert await server.ended() == 0


async def test_after_the_grace_the_rest_is_cancelled_and_told(backends: Backends, channel: rpc.Channel) -> None:
    (server,) = await backends.start("b1", grace=0.2)
    call = drill.method(channel)({"id": "long", "sleep": 30}, timeout=60)
    await until(lambda: backends.journal("started", "long"))
    at = time.monotonic()
    server.signal(signal.SIGTERM)
    assert await call.code() is rpc.StatusCode.UNAVAILABLE
    assert "shutting down" in await call.details()
    assert await server.ended() == 0
    assert time.monotonic() - at < 2
    assert backends.journal("cancelled", "long")
