"""Deadlines and cancellations across processes."""

import asyncio
import signal
import time

import pytest
from grpc import aio

import rpc
from tests.integration import drill
from tests.integration.processes import Backends, accepted
from tests.waiting import until

CANCELLED_WITHIN = 0.25
"""Seconds; on an idle machine it is about 0.05 after the back-end has accepted."""


async def test_what_expires_in_the_queue_of_a_back_end_is_never_run(backends: Backends, channel: rpc.Channel) -> None:
    await backends.start("b1", concurrency=1, queue=10)
    work = drill.method(channel)
    held = work({"id": "held", "sleep": 0.6}, timeout=10)
    await until(lambda: backends.journal("started", "held"))
    calls = [work({"id": number}, timeout=0.2) for number in range(5)]
    for call in calls:
        assert await call.code() is rpc.StatusCode.DEADLINE_EXCEEDED
    await held
    assert (await work({"id": "after"}, timeout=10))["by"] == "b1"
    assert [line["id"] for line in backends.journal("started")] == ["held", "after"]


async def test_a_call_of_the_past_is_not_even_sent(backends: Backends, channel: rpc.Channel) -> None:
    await backends.start("b1")
    for timeout in (0, -1, 1e-9):
        assert await drill.method(channel)({}, timeout=timeout).code() is rpc.StatusCode.DEADLINE_EXCEEDED
    assert backends.journal() == []


async def test_the_deadline_cancels_the_handler(backends: Backends, channel: rpc.Channel) -> None:
    await backends.start("b1")
    call = drill.method(channel)({"id": "slow", "sleep": 30}, timeout=0.3)
    assert await call.code() is rpc.StatusCode.DEADLINE_EXCEEDED
    (cancelled,) = await until(lambda: backends.journal("cancelled", "slow"))
    assert cancelled["at"] - backends.journal("started", "slow")[0]["at"] == pytest.approx(0.3, abs=0.1)


async def test_the_deadline_holds_for_calls_made_inside_the_handler(backends: Backends, channel: rpc.Channel) -> None:
    await backends.start("b1", "b2")
    work = drill.method(channel)
    reply = await work({"nested": {"nested": {}}}, timeout=5)
    inner = reply["nested"]["nested"]
    assert 4 < inner["remaining"] <= reply["nested"]["remaining"] <= reply["remaining"] <= 5
    assert (await work({"nested": {}}))["nested"]["remaining"] is None

    call = work({"id": "outer", "nested": {"id": "inner", "sleep": 30}}, timeout=0.4)
    assert await call.code() is rpc.StatusCode.DEADLINE_EXCEEDED
    for name in ("outer", "inner"):
        (ended,) = await until(lambda name=name: [x for x in backends.journal(call=name) if x["event"] != "started"])
        assert ended["at"] - backends.journal("started", "outer")[0]["at"] == pytest.approx(0.4, abs=0.15)


async def test_a_cancelled_call_cancels_the_handler_and_what_it_called(
    backends: Backends, channel: rpc.Channel
) -> None:
    await backends.start("b1", "b2")
    call = drill.method(channel)({"id": "outer", "nested": {"id": "inner", "sleep": 30}})
    await until(lambda: backends.journal("started", "inner"))
    await accepted(channel)
    at = time.monotonic()
    assert call.cancel()
    for name in ("outer", "inner"):
        (cancelled,) = await until(lambda name=name: backends.journal("cancelled", name))
        assert cancelled["at"] - at < CANCELLED_WITHIN


async def test_cancelled_before_anybody_accepted_the_handler_is_cancelled_as_soon_as_one_did(
    backends: Backends, channel: rpc.Channel
) -> None:
    await backends.start("b1")
    call = drill.method(channel)({"id": "early", "sleep": 30})
    await until(lambda: channel.stats and backends.journal("started", "early"), 5)
    call.cancel()
    (cancelled,) = await until(lambda: backends.journal("cancelled", "early"))
    assert cancelled["at"] - backends.journal("started", "early")[0]["at"] < 0.01 + CANCELLED_WITHIN


async def test_the_end_of_the_task_that_waits_cancels_the_handler(backends: Backends, channel: rpc.Channel) -> None:
    await backends.start("b1")
    work = drill.method(channel)

    async def ask(name: str) -> None:
        await work({"id": name, "sleep": 30})

    task = asyncio.create_task(ask("cancelled"))
    await until(lambda: backends.journal("started", "cancelled"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await ask("timed out")
    for name in ("cancelled", "timed out"):
        await until(lambda name=name: backends.journal("cancelled", name))


async def test_a_call_of_bytes_is_cancelled_with_its_task_or_by_itself(
    backends: Backends, channel: rpc.Channel
) -> None:
    await backends.start("b1")
    info = rpc.MethodInfo.from_path(drill.WORK)
    request = drill._encode({"id": "bytes", "sleep": 30})
    for cancel in (lambda call, task: task.cancel(), lambda call, task: call.cancel()):
        call = rpc.Call(info, request)
        task = asyncio.create_task(channel.invoke(call))
        count = len(backends.journal("started"))
        await until(lambda count=count: len(backends.journal("started")) > count)
        cancel(call, task)
        with pytest.raises((asyncio.CancelledError, rpc.StatusError)):
            await task
    await until(lambda: len(backends.journal("cancelled", "bytes")) == 2)


async def test_closing_the_channel_cancels_its_calls(
    backends: Backends, channel: rpc.Channel, nats_url: str, prefix: str
) -> None:
    await backends.start("b1")
    other = rpc.Channel(nats_url, prefix=prefix)
    call = drill.method(other)({"id": "closed", "sleep": 30})
    await until(lambda: backends.journal("started", "closed"))
    await accepted(other)
    await other.close()
    assert call.done()
    assert await call.code() is rpc.StatusCode.CANCELLED
    await until(lambda: backends.journal("cancelled", "closed"), 1)
    with pytest.raises(aio.UsageError):
        drill.method(other)({})


async def test_a_caller_that_is_killed_is_noticed(backends: Backends, channel: rpc.Channel) -> None:
    """The killed process is a back-end that itself called another one."""
    await backends.start("callee")
    work = drill.method(channel)
    callers = Backends(backends.url, backends.folder, backends.prefix)
    try:
        (caller,) = await callers.start("caller")
        for number in range(50):
            call = work({"id": f"outer{number}", "nested": {"id": f"inner{number}", "sleep": 30}}, timeout=60)
            (outer,) = await until(lambda n=number: backends.journal("started", f"outer{n}"))
            (inner,) = await until(lambda n=number: backends.journal("started", f"inner{n}"))
            if (outer["by"], inner["by"]) == ("caller", "callee"):
                break
            call.cancel()
        await accepted(channel)
        caller.signal(signal.SIGKILL)
        await until(lambda: backends.journal("cancelled", inner["id"]), 3)
    finally:
        callers.close()
