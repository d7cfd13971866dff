"""The client of the stub benchmark: a generated stub, `--calls-at-once` loops that each call and wait.

    python -m benchmarks.programs.stub_client natsmesh|grpc <target> --calls-at-once 64 --warm-up 1 --seconds 5

Prints "ready" after the warm-up, waits for a line on stdin, loads for `--seconds`, prints `RESULT {...}` and waits for
stdin's end, so that its CPU can be accounted from outside. Ends with status 1 when a call fails or answers wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import grpc
import uvloop

from greeter.v1 import greeter_pb2, greeter_pb2_grpc

EXPECTED = "Hello, x!"
CALL_TIMEOUT = 10.0


def make_channel(kind: str, target: str) -> Any:
    """A channel of the named kind: the one line in which the two programs differ."""
    if kind == "grpc":
        return grpc.aio.insecure_channel(target)
    import rpc

    return rpc.Channel(target)


async def load(stub: Any, calls_at_once: int, seconds: float) -> tuple[list[int], float]:
    """Latencies in nanoseconds of all calls that ended in the window, and its length in seconds."""
    latencies: list[int] = []
    started = time.perf_counter()
    stop_at = started + seconds

    async def loop() -> None:
        request = greeter_pb2.HelloRequest(name="x")
        while time.perf_counter() < stop_at:
            sent_at = time.perf_counter_ns()
            reply = await stub.SayHello(request, timeout=CALL_TIMEOUT)
            if reply.message != EXPECTED:
                raise SystemExit(f"wrong answer: {reply}")
            latencies.append(time.perf_counter_ns() - sent_at)

    async with asyncio.TaskGroup() as group:
        for _ in range(calls_at_once):
            group.create_task(loop())
    return latencies, time.perf_counter() - started


async def main() -> None:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["natsmesh", "grpc"])
    parser.add_argument("target")
    parser.add_argument("--calls-at-once", type=int, default=64)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    async with make_channel(options.kind, options.target) as channel:
        stub = greeter_pb2_grpc.GreeterStub(channel)
        await stub.SayHello(greeter_pb2.HelloRequest(name="x"), timeout=CALL_TIMEOUT, wait_for_ready=True)
        await load(stub, options.calls_at_once, options.warm_up)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        latencies, elapsed = await load(stub, options.calls_at_once, options.seconds)
        latencies.sort()
        print(
            "RESULT "
            + json.dumps(
                {
                    "calls": len(latencies),
                    "seconds": elapsed,
                    "p50_us": latencies[len(latencies) // 2] / 1000,
                    "p99_us": latencies[len(latencies) * 99 // 100] / 1000,
                }
            ),
            flush=True,
        )
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
