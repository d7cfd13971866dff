"""The client of the streams benchmark.

    python -m benchmarks.programs.streams_client natsmesh|grpc|raw <target>

Reads one line of JSON for each window from stdin, `{"kind": ..., "size": ..., "seconds": ...}`; warms up, which also
tells how long a stream should be; prints "ready", waits for a line, loads for `seconds`, prints `RESULT {...}`. Ends
with status 1 when a call fails or answers wrongly.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median
from typing import Any

import grpc
import nats
import uvloop
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks.programs.raw_publisher import ASK, TAKEN, window
from benchmarks.programs.streams_service import OPTIONS, StreamsStub

WARM_UP = 0.25
"""Seconds of load before a window."""
CALL_SECONDS = 0.2
"""How long one stream of a window lasts, about: many streams, none of which is dear because it is short."""
CALL_TIMEOUT = 60.0
UNARY_BYTES_AT_ONCE = 4 * 1024 * 1024
UNARY_CALLS_AT_ONCE = 64

Carry = Callable[[int], Awaitable[None]]
"""Makes a call (or several at once) that carries so many messages."""


def calls_at_once(size: int) -> int:
    """Unary calls that are under way together: as many as elsewhere in these benchmarks, fewer of large messages."""
    return max(2, min(UNARY_CALLS_AT_ONCE, UNARY_BYTES_AT_ONCE // size))


def check(right: bool, what: str) -> None:
    """Ends the process when an answer was wrong."""
    if not right:
        raise SystemExit(f"wrong answer: {what}")


class Calls:
    """The kinds of call, through a stub. The same code for natsmesh and for grpc.aio."""

    def __init__(self, stub: Any, size: int) -> None:
        self._stub = stub
        self._size = size
        self._message = BytesValue(value=bytes(size))

    async def unary(self, count: int) -> None:
        left = count

        async def loop() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                reply = await self._stub.Unary(self._message, timeout=CALL_TIMEOUT)
                check(len(reply.value) == self._size, "a reply of another size")

        async with asyncio.TaskGroup() as group:
            for _ in range(calls_at_once(self._size)):
                group.create_task(loop())

    async def server_stream(self, count: int) -> None:
        request = StringValue(value=f"{count} {self._size}")
        await self._read(self._stub.ServerStream(request, timeout=CALL_TIMEOUT), count)

    async def client_stream(self, count: int) -> None:
        reply = await self._stub.ClientStream(self._requests(count), timeout=CALL_TIMEOUT)
        check(reply.value == count * self._size, f"{reply.value} bytes were received")

    async def bidi_stream(self, count: int) -> None:
        await self._read(self._stub.BidiStream(self._requests(count), timeout=CALL_TIMEOUT), count)

    async def _requests(self, count: int) -> AsyncIterator[BytesValue]:
        for _ in range(count):
            yield self._message

    async def _read(self, call: Any, count: int) -> None:
        received = 0
        async for reply in call:
            received += 1
            check(len(reply.value) == self._size, "a message of another size")
        check(received == count, f"{received} messages of {count}")


class Raw:
    """Messages that nats-py publishes and nats-py receives, nothing else."""

    def __init__(self, connection: Client, size: int) -> None:
        self._connection = connection
        self._size = size
        self._received = 0
        self._wanted = 0
        self._all_here = asyncio.Event()
        self._inbox = connection.new_inbox()

    async def run(self, seconds: float) -> dict[str, object]:
        subscription = await self._connection.subscribe(self._inbox, cb=self._receive)
        result = await throughput(self._publish, seconds)
        await subscription.unsubscribe()
        return result

    async def _receive(self, message: Msg) -> None:
        self._received += 1
        if self._received % (window(self._size) // 2) == 0:
            await self._connection.publish(TAKEN, str(self._received).encode())
        if self._received == self._wanted:
            self._all_here.set()

    async def _publish(self, count: int) -> None:
        self._received, self._wanted = 0, count
        self._all_here.clear()
        await self._connection.publish(ASK, f"{count} {self._size}".encode(), reply=self._inbox)
        await asyncio.wait_for(self._all_here.wait(), CALL_TIMEOUT)


async def throughput(carry: Carry, seconds: float) -> dict[str, object]:
    """Warms up, then loads for `seconds`: whole calls of about `CALL_SECONDS` each."""
    count, rate, stop_at = 1, 1.0, time.perf_counter() + WARM_UP
    while time.perf_counter() < stop_at:
        started = time.perf_counter()
        await carry(count)
        rate = count / (time.perf_counter() - started)
        count = max(1, min(4 * count, round(rate * CALL_SECONDS)))
    await ready()
    started = time.perf_counter()
    messages = 0
    while (elapsed := time.perf_counter() - started) < seconds:
        await carry(count)
        messages += count
    return {"messages": messages, "seconds": elapsed}


async def first_message(stub: Any, size: int, seconds: float) -> dict[str, object]:
    """Unary calls and server streams in turn, one at a time: how long until the response, until the first message."""
    message, request = BytesValue(value=bytes(size)), StringValue(value=f"1 {size}")

    async def pair() -> tuple[float, float]:
        started = time.perf_counter()
        await stub.Unary(message, timeout=CALL_TIMEOUT)
        unary = time.perf_counter() - started
        started = time.perf_counter()
        call = stub.ServerStream(request, timeout=CALL_TIMEOUT)
        await call.read()
        stream = time.perf_counter() - started
        check(await call.read() is grpc.aio.EOF, "a second message")
        return unary, stream

    stop_at = time.perf_counter() + WARM_UP
    while time.perf_counter() < stop_at:
        await pair()
    await ready()
    started = time.perf_counter()
    pairs: list[tuple[float, float]] = []
    while (elapsed := time.perf_counter() - started) < seconds:
        pairs.append(await pair())
    unary, stream = (median(times) * 1e6 for times in zip(*pairs, strict=True))
    return {"messages": 2 * len(pairs), "seconds": elapsed, "unary_p50_us": unary, "stream_p50_us": stream}


async def ready() -> None:
    """Tells the harness that the window can begin, and waits until it has read the accounts."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def windows(run: Callable[[str, int, float], Awaitable[dict[str, object]]]) -> None:
    """Runs what stdin asks for, until it ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        result = await run(asked["kind"], asked["size"], asked["seconds"])
        print("RESULT " + json.dumps(result), flush=True)


async def raw(target: str) -> None:
    connection = await nats.connect(target)

    async def run(_kind: str, size: int, seconds: float) -> dict[str, object]:
        return await Raw(connection, size).run(seconds)

    await windows(run)


async def calls(channel: grpc.aio.Channel) -> None:
    async with channel:
        stub: Any = StreamsStub(channel)
        await stub.Unary(BytesValue(), timeout=CALL_TIMEOUT, wait_for_ready=True)

        async def run(kind: str, size: int, seconds: float) -> dict[str, object]:
            if kind == "first":
                return await first_message(stub, size, seconds)
            return await throughput(getattr(Calls(stub, size), kind), seconds)

        await windows(run)


async def main() -> None:
    """The command line; see the module's text."""
    kind, target = sys.argv[1:]
    if kind == "raw":
        await raw(target)
    elif kind == "grpc":
        await calls(grpc.aio.insecure_channel(target, options=OPTIONS))
    else:
        import rpc

        await calls(rpc.Channel(target, options=OPTIONS))


if __name__ == "__main__":
    uvloop.run(main())
