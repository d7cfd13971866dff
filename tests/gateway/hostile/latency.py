"""What healthy clients notice of hostile ones: ``python -m tests.gateway.hostile.latency [--idle 10000] [--pause 1]``.

Their calls are evenly paced and timed from when they were due. Rounds without and with a storm (or idle connections)
take turns, because a machine is not equally fast all the time. Gateway, back-end, broker, storm and healthy clients are
a process each.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from statistics import median

from rpc.embedded import Broker
from tests.gateway.hostile.healthy import HealthyClient, percentile
from tests.gateway.hostile.http1 import request
from tests.gateway.hostile.storm import Report, Storm
from tests.gateway.hostile.target import Target

PATIENT = {"head_patience": 10.0, "body_patience": 20.0, "write_patience": 60.0, "keep_alive": 75.0, "timeout": 30.0}
"""The gateway's defaults: the short times of the fuzzer would spare it connections."""


class Measurement:
    """Healthy calls of one gateway: ``clients`` connections, ``rate`` calls a second on each."""

    def __init__(self, target: Target, *, clients: int, rate: float, seconds: float) -> None:
        self._port = target.gateway.port
        self._clients = clients
        self._rate = rate
        self._seconds = seconds
        self.offences: list[str] = []

    async def round(self) -> list[float]:
        """Return how long each call took, in milliseconds."""
        stop = asyncio.Event()
        clients = [
            HealthyClient(self._port, f"h{number}", lambda kind, what: self.offences.append(what))
            for number in range(self._clients)
        ]
        tasks = []
        for client in clients:
            tasks.append(asyncio.create_task(client.run(stop, 1 / self._rate)))
            await asyncio.sleep(1 / self._rate / self._clients)
        await asyncio.sleep(self._seconds)
        stop.set()
        await asyncio.gather(*tasks)
        return [seconds * 1000 for client in clients for seconds in client.seconds]


def shown(what: str, rounds: list[list[float]]) -> tuple[float, str]:
    """Return the median of the rounds' p99, and a line that says it."""
    p50 = median(percentile(each, 0.5) for each in rounds)
    tails = [percentile(each, 0.99) for each in rounds]
    calls = sum(len(each) for each in rounds)
    worst = ", ".join(f"{each:.1f}" for each in tails)
    return median(
        tails
    ), f"{what:<22} p50 {p50:6.2f} ms   p99 {median(tails):6.2f} ms   ({calls} calls; p99 of rounds: {worst})"


async def storms(target: Target, measurement: Measurement, options: argparse.Namespace) -> None:
    alone: list[list[float]] = []
    under: list[list[float]] = []
    said = ""
    for number in range(options.rounds):
        alone.append(await measurement.round())
        command = [sys.executable, "-m", __spec__.name, "--attack", str(target.gateway.port), "--seed", str(number)]
        command += ["--connections", str(options.connections), "--pause", str(options.pause)]
        storm = subprocess.Popen(
            [*command, "--seconds", str(options.seconds + 1)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
        )
        assert storm.stdout is not None
        await asyncio.to_thread(storm.stdout.readline)  # It has made its bombs and begins.
        under.append(await measurement.round())
        said = (await asyncio.to_thread(storm.communicate))[0]
    compare(alone, under, "with the storm", measurement)
    print(f"the storm, {options.connections} connections: {said.strip()}")


async def attack(options: argparse.Namespace) -> None:
    """Be the storm."""
    report = Report()
    # It does not stay where nothing happens: others are to be annoyed.
    storm = Storm(options.attack, options.seed, report, hang_seconds=2)
    print("begins", flush=True)
    with suppress(TimeoutError):
        async with asyncio.timeout(options.seconds):
            await storm.run(options.seconds, options.connections, options.pause)
    report.offences.pop("hang", None)
    rate, made = report.inputs.total() / options.seconds, report.connections.total() / options.seconds
    print(f"{rate:,.0f} inputs/s on {made:,.0f} new connections/s; offences: {dict(report.offences) or 0}")


async def idle(target: Target, measurement: Measurement, options: argparse.Namespace) -> None:
    number = options.idle
    before = target.gateway.resident
    alone = [await measurement.round() for _ in range(options.rounds)]
    clients: list[socket.socket] = []
    for _ in range(number):
        clients.append(socket.create_connection(("127.0.0.1", target.gateway.port)))
        clients[-1].sendall(request(b"GET", b"/healthz", [(b"host", b"x")]))
        assert clients[-1].recv(1000).startswith(b"HTTP/1.1 200")
    size = target.gateway.resident - before
    under = [await measurement.round() for _ in range(options.rounds)]
    print(f"{target.gateway.connections:,} connections, {size / number / 1024:.1f} KiB each in the gateway")
    compare(alone, under, "with idle connections", measurement)
    for client in clients:
        client.close()


def compare(alone: list[list[float]], under: list[list[float]], what: str, measurement: Measurement) -> None:
    without, line = shown("healthy calls alone", alone)
    print(line)
    with_it, line = shown(what, under)
    print(f"{line}\n{with_it / without:.2f} x; healthy calls that went wrong: {len(measurement.offences)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gateway.hostile.latency", description=__doc__)
    parser.add_argument("--idle", type=int, default=0, help="so many idle connections instead of a storm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round (5)")
    parser.add_argument("--clients", type=int, default=8, help="healthy ones (8)")
    parser.add_argument("--rate", type=float, default=25.0, help="calls a second of each healthy client (25)")
    parser.add_argument("--connections", type=int, default=50, help="hostile ones at once (50)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two connections of each (1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attack", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack(options))
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        tempfile.TemporaryDirectory() as folder,
        Broker(port=0) as broker,
        Target(Path(folder), broker.url, **PATIENT) as target,
    ):
        measurement = Measurement(target, clients=options.clients, rate=options.rate, seconds=options.seconds)
        asyncio.run((idle if options.idle else storms)(target, measurement, options))
    return 1 if measurement.offences else 0


if __name__ == "__main__":
    sys.exit(main())
