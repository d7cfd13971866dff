"""Ten thousand calls of all kinds leave nothing behind."""

import asyncio
import gc
import json
import random
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

import rpc
from rpc.embedded import Broker
from tests.dev import free_port
from tests.integration import drill
from tests.waiting import until

CALLS = 10_000


@pytest.fixture
def monitored() -> Iterator[tuple[Broker, Callable[[], int]]]:
    """A broker, and the number of subscriptions that it has."""
    port = free_port()

    def subscriptions() -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/subsz", timeout=5) as response:
            return int(json.load(response)["num_subscriptions"])

    with Broker(port=0, config=f'http: "127.0.0.1:{port}"') as broker:
        yield broker, subscriptions


async def test_nothing_is_left_behind(monitored: tuple[Broker, Callable[[], int]], prefix: str) -> None:
    broker, subscriptions = monitored
    running: set[Any] = set()

    async def behave(request: dict[str, Any], context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, Any]:
        running.add(context)
        try:
            if request["kind"] == "error":
                await context.abort(rpc.StatusCode.NOT_FOUND, "no such thing")
            elif request["kind"] == "raise":
                raise RuntimeError("broken")
            elif request["kind"] != "ok":
                await asyncio.sleep(30)
            return request
        finally:
            running.discard(context)

    before = asyncio.all_tasks()
    idle = subscriptions()
    connections = [await rpc.connect(broker.url) for _ in range(2)]
    server = rpc.Server(connections[0], prefix=prefix, maximum_concurrent_rpcs=50, maximum_queued_rpcs=20)
    server.add_generic_rpc_handlers([drill.handlers(behave)])
    await server.start()
    channel = rpc.Channel(connections[1], prefix=prefix)
    work = drill.method(channel)
    await work({"kind": "ok"}, timeout=5)
    busy = subscriptions()
    tasks_when_idle = len(asyncio.all_tasks())
    chance = random.Random(7)
    codes: Counter[rpc.StatusCode] = Counter()

    async def make_calls(count: int) -> None:
        for _ in range(count):
            kind = chance.choices(["ok", "error", "raise", "cancel", "deadline"], [80, 10, 3, 5, 2])[0]
            call = work({"kind": kind}, timeout=0.02 if kind == "deadline" else 20)
            if kind == "cancel":
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                if chance.random() < 0.5:
                    await asyncio.sleep(chance.random() * 0.02)
                call.cancel()
            codes[await call.code()] += 1

    await asyncio.gather(*(make_calls(CALLS // 40) for _ in range(40)))
    assert sum(codes.values()) == CALLS
    code = rpc.StatusCode
    assert set(codes) == {code.OK, code.NOT_FOUND, code.UNKNOWN, code.CANCELLED, code.DEADLINE_EXCEEDED}

    await until(lambda: not running and not server._transport.in_flight)  # type: ignore[union-attr]
    assert channel._transport.in_flight == 0
    await until(lambda: not channel._transport._abandoned and not channel._transport._pending)
    assert not server._transport._held  # type: ignore[union-attr]
    assert (server._limit.running, server._limit.waiting) == (0, 0)
    await until(lambda: len(asyncio.all_tasks()) <= tasks_when_idle)
    assert subscriptions() == busy

    await channel.close()
    await server.stop(1)
    for connection in connections:
        await connection.close()
    await until(lambda: asyncio.all_tasks() == before)
    await until(lambda: subscriptions() == idle)
    gc.collect()  # Whatever was never awaited would be told now, and fail the test.
