"""What it costs to force stored messages to the disk: JetStream's ``sync_interval``, on one server, one replica.

python -m benchmarks.sync_interval [--folder DIR] [--seconds 3] [--size 256] [--rounds 2]

The store lies in ``--folder``: the numbers are those of its disk. A virtual machine's disk may say that it has stored
what it has not; then ``always`` costs less here than where it means something.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections import defaultdict
from typing import NamedTuple

import psutil

import rpc
from benchmarks.machine import cpu_model
from rpc.embedded import Broker
from rpc.jetstream.api import JetStream
from rpc.jetstream.specs import StreamSpec
from rpc.jetstream.streams import ensure_stream

INTERVALS = {"2m": 120.0, "1s": 1.0, "always": 0.0}
CONCURRENCY = (1, 64)


class Window(NamedTuple):
    """One window: messages confirmed in a second, latencies in seconds, and the broker's CPU a message."""

    rate: float
    p50: float
    p99: float
    cpu: float


async def measure(folder: str, interval: float, concurrency: int, seconds: float, size: int) -> Window:
    """Publish to one stream, each publisher waiting for the confirmation of one message before it sends the next."""
    with (
        tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as store,
        Broker(port=0, store_dir=store, sync_interval=interval) as broker,
    ):
        connection = await rpc.connect(broker.url)
        js = JetStream(connection)
        await js.start()
        await ensure_stream(js, StreamSpec(name="S", subjects=("s.*",)), migrate=True)
        process = psutil.Process(broker.pid)
        latencies: list[float] = []
        began = time.perf_counter()
        end = began + seconds
        before = process.cpu_times()

        async def publish(number: int) -> None:
            subject, data = f"s.{number}", bytes(size)
            while (now := time.perf_counter()) < end:
                await js.publish(subject, data, {})
                latencies.append(time.perf_counter() - now)

        await asyncio.gather(*map(publish, range(concurrency)))
        took = time.perf_counter() - began
        after = process.cpu_times()
        await js.close()
        await connection.close()
    cpu = after.user + after.system - before.user - before.system
    percentiles = statistics.quantiles(latencies, n=100)
    return Window(len(latencies) / took, percentiles[49], percentiles[98], cpu / len(latencies))


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of JetStream's sync_interval.")
    parser.add_argument("--folder", default=".", help="where the stores are made: on the disk that is to be measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one window")
    parser.add_argument("--size", type=int, default=256, help="bytes of a message")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    windows: dict[tuple[int, str], list[Window]] = defaultdict(list)
    for _ in range(options.rounds):
        for concurrency in CONCURRENCY:
            for name, interval in INTERVALS.items():
                window = asyncio.run(measure(options.folder, interval, concurrency, options.seconds, options.size))
                windows[concurrency, name].append(window)
    print(
        f"{cpu_model()}; {options.size} B a message, the better of {options.rounds} windows of {options.seconds:g} s\n"
    )
    print("| publishers | sync_interval | confirmed/s | p50 ms | p99 ms | broker's CPU, us a message |")
    print("|---:|---|---:|---:|---:|---:|")
    for (concurrency, name), measured in windows.items():
        best = max(measured, key=lambda window: window.rate)
        print(
            f"| {concurrency} | {name} | {best.rate:,.0f} | {best.p50 * 1e3:.2f} | {best.p99 * 1e3:.2f} "
            f"| {best.cpu * 1e6:.0f} |"
        )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
