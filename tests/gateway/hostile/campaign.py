"""A storm from beginning to end: before, meanwhile, and whether everything is as it was afterwards."""

from __future__ import annotations

import asyncio
import re
import time

from tests.gateway.hostile.healthy import HealthyClient, percentile
from tests.gateway.hostile.storm import Report, Storm
from tests.gateway.hostile.target import Target, Vitals
from tests.gateway.hostile.watcher import Watcher

_BAD_LINE = re.compile(r"^(Traceback|ERROR|CRITICAL|Fatal|Task was destroyed|.*never awaited).*", re.MULTILINE)

GROWTH = 48 * 2**20
"""Bytes by which a gateway may be larger after a storm than after the first seconds of it: allocators keep some."""


async def campaign(
    target: Target, *, seconds: float, seed: int, connections: int = 64, warm_up: float = 1.0, only: str = ""
) -> Report:
    """Attack for so many seconds; the report has everything that should not have happened in it."""
    report = Report()
    watcher = Watcher(target.nats_url, target.prefix, report.offence)
    await watcher.start()
    stop = asyncio.Event()
    healthy = HealthyClient(target.gateway.port, "healthy", report.offence)
    calls = asyncio.create_task(healthy.run(stop, 0.02))
    try:
        await _first_call(healthy)
        fresh = await asyncio.to_thread(target.gateway.vitals)
        # What is loaded and remembered with the first requests is no leak.
        await Storm(target.gateway.port, seed + 1, Report(), only=only).run(warm_up, connections)
        before = await _at_rest(target, fresh)
        begun = time.monotonic()
        await Storm(target.gateway.port, seed, report, only=only).run(seconds, connections)
        lasted = time.monotonic() - begun
        after = await _at_rest(target, before)
        await watcher.settle()
    finally:
        stop.set()
        await asyncio.wait_for(calls, 15)
        await watcher.close()
    _judge(report, target, before, after)
    report.notes += [
        f"{report.inputs.total() / lasted:,.0f} inputs/s for {lasted:.0f} s; {watcher.calls:,} calls reached the bus",
        f"before: {before}; after: {after}",
        f"healthy calls: {len(healthy.seconds)}, p99 {percentile(healthy.seconds, 0.99) * 1000:.1f} ms",
    ]
    return report


async def _first_call(healthy: HealthyClient) -> None:
    async with asyncio.timeout(10):
        while not healthy.seconds:
            await asyncio.sleep(0.01)


async def _at_rest(target: Target, like: Vitals, seconds: float = 15.0) -> Vitals:
    """Return how the gateway is once nothing is left of a storm, or after so long in any case."""
    end = time.monotonic() + seconds
    while True:
        vitals = await asyncio.to_thread(target.gateway.vitals)
        if (vitals.sockets <= like.sockets and vitals.tasks <= like.tasks) or time.monotonic() > end:
            return vitals
        await asyncio.sleep(0.2)


def _judge(report: Report, target: Target, before: Vitals, after: Vitals) -> None:
    assert target.gateway.process is not None
    if target.gateway.process.poll() is not None:
        report.offence("crash", "the gateway has ended")
    if after.sockets > before.sockets or after.tasks > before.tasks or after.resident > before.resident + GROWTH:
        report.offence("leak", f"before: {before}; after: {after}")
    log = target.gateway.log
    for line in _BAD_LINE.finditer(log):
        report.offence("log", log[line.start() : line.start() + 3000])
