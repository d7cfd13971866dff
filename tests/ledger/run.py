"""The ledger: jobs and events while workers, gateways and the broker are killed at random; then everything is counted.

    python -m tests.ledger.run --jobs 100000 --events 1000000        (make ledger)

What was accepted (a job by a 200 of a gateway, an event by its publisher) must have been handled at least once. More
than once is allowed where something was killed between the handling and its acknowledgement; it is counted.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rpc.embedded import Broker
from tests.ledger.project import make_project

CLIENTS = 64
PUBLISHERS = 2
NATSMESH = [sys.executable, "-m", "natsmesh"]


@dataclass
class Report:
    """What came of it."""

    jobs: int
    events: int
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    lost_jobs: int = 0
    lost_events: int = 0
    repeated_jobs: int = 0
    repeated_events: int = 0
    resent: int = 0
    unfinished: int = 0

    def __str__(self) -> str:
        killed = ", ".join(f"{number} x {what}" for what, number in sorted(self.kills.items()))
        return (
            f"{self.jobs} jobs and {self.events} events in {self.seconds:.0f} s; killed: {killed or 'nothing'}\n"
            f"lost: {self.lost_jobs} jobs, {self.lost_events} events; operations that are not done: "
            f"{self.unfinished}\n"
            f"handled more than once: {self.repeated_jobs} jobs, {self.repeated_events} events; "
            f"requests that clients had to send again: {self.resent}"
        )


class Mesh:
    """The processes: started, killed at random, started again."""

    def __init__(self, folder: Path, broker: Broker, ports: list[int]) -> None:
        self.folder = folder
        self.broker = broker
        self.ports = ports
        self.environment = os.environ | {
            "NATS_URL": broker.url,
            "LEDGER": str(folder / "ledger"),
            "PYTHONPATH": f"{folder}:{folder / 'gen'}:{Path(__file__).parents[2]}",
        }
        self.commands: dict[str, list[str]] = {}
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.log = (folder / "log").open("ab")

    async def start(self, workers: int) -> None:
        for number in range(workers):
            self.commands[f"worker-{number}"] = [*NATSMESH, "serve", "ledger_service:Ledger"]
        for port in self.ports:
            self.commands[f"gateway-{port}"] = [*NATSMESH, "gateway", "--port", str(port)]
        for name in self.commands:
            await self.start_one(name)

    async def start_one(self, name: str) -> None:
        self.processes[name] = await asyncio.create_subprocess_exec(
            *self.commands[name],
            cwd=self.folder,
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    async def kill(self, name: str) -> None:
        process = self.processes[name]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    async def chaos(self, kills: Counter[str], pause: float, broker_every: float) -> None:
        """Kill somebody every ``pause`` seconds, and the broker every ``broker_every``."""
        broker_at = time.monotonic() + broker_every
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            if time.monotonic() >= broker_at:
                kills["broker"] += 1
                await asyncio.to_thread(self.broker.kill)
                await asyncio.sleep(random.uniform(0.1, 1.0))
                await asyncio.to_thread(self.broker.start)
                broker_at = time.monotonic() + broker_every
                continue
            name = random.choice(list(self.commands))
            kills[name.partition("-")[0]] += 1
            await self.kill(name)
            await self.start_one(name)

    async def stop(self) -> None:
        for name in self.processes:
            await self.kill(name)
        self.log.close()


async def enter_all(ports: list[int], jobs: int, names: dict[int, str]) -> int:
    """Post all jobs, each until a gateway says 200; return how many requests were sent again."""
    numbers = iter(range(jobs))
    resent = 0

    async def client() -> None:
        nonlocal resent
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        for number in numbers:
            body = json.dumps({"request_id": f"job-{number}"}).encode()
            while True:
                try:
                    async with asyncio.timeout(15):
                        if reader is None or writer is None:
                            reader, writer = await asyncio.open_connection("127.0.0.1", random.choice(ports))
                        writer.write(
                            b"POST /v1/entries HTTP/1.1\r\nhost: ledger\r\ncontent-type: application/json\r\n"
                            b"content-length: %d\r\n\r\n%b" % (len(body), body)
                        )
                        status, answer = await _response(reader)
                    if status == 200:
                        names[number] = json.loads(answer)["name"]
                        break
                except (OSError, EOFError, TimeoutError, ValueError):
                    if writer is not None:
                        writer.close()
                    reader = writer = None
                resent += 1
                await asyncio.sleep(0.1)
        if writer is not None:
            writer.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return resent


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


async def publish_all(mesh: Mesh, events: int) -> None:
    """Publish all events, by processes of their own."""
    share = -(-events // PUBLISHERS)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "ledger_publisher.py",
            *map(str, (first, min(first + share, events), 1000)),
            cwd=mesh.folder,
            env=mesh.environment,
            stderr=mesh.log,
        )
        for first in range(0, events, share)
    ]
    codes = [await process.wait() for process in processes]
    assert not any(codes), f"a publisher ended with {codes}: {Path(mesh.log.name).read_text()[-6000:]}"


def count(folder: Path, report: Report) -> None:
    """Read what the handlers wrote."""
    jobs: Counter[str] = Counter()
    for file in folder.glob("jobs-*"):
        jobs.update(line.split()[0] for line in file.read_text().splitlines())
    report.lost_jobs = sum(f"job-{number}" not in jobs for number in range(report.jobs))
    report.repeated_jobs = sum(times > 1 for times in jobs.values())
    times = bytearray(report.events)
    for file in folder.glob("events-*"):
        numbers = array.array("i")
        data = file.read_bytes()
        numbers.frombytes(data[: len(data) // 4 * 4])
        for number in numbers:
            times[number] = min(255, times[number] + 1)
    report.lost_events = times.count(0)
    report.repeated_events = sum(one > 1 for one in times)


async def wait_until_handled(folder: Path, report: Report, patience: float) -> None:
    """Return when all has been handled, or nothing new has come for ``patience`` seconds."""
    last, until = -1, time.monotonic() + patience
    while time.monotonic() < until:
        count(folder, report)
        if not report.lost_jobs and not report.lost_events:
            return
        if (left := report.lost_jobs + report.lost_events) != last:
            last, until = left, time.monotonic() + patience
        await asyncio.sleep(1)


async def check_operations(url: str, names: dict[int, str], report: Report) -> None:
    """Count the jobs whose operations do not say, in the end, that they are done."""
    import rpc
    from rpc.jetstream.api import JetStream
    from rpc.jobs.names import JobName
    from rpc.jobs.records import Records
    from rpc.subjects import Subjects

    connection = await rpc.connect(url)
    js = JetStream(connection)
    await js.start()
    records = Records(js, Subjects(""))
    try:
        until = time.monotonic() + 30
        waiting = [JobName(*name.split("/")[1:]) for name in names.values()]
        while waiting and time.monotonic() < until:
            left = []
            for start in range(0, len(waiting), 500):
                some = waiting[start : start + 500]
                known = await records.get_many(some)
                left += [name for name in some if not ((one := known.get(str(name))) and one.is_final)]
            waiting = left
            if waiting:
                await asyncio.sleep(0.5)
        report.unfinished = len(waiting)
    finally:
        await js.close()
        await connection.close()


async def run(
    jobs: int,
    events: int,
    folder: Path,
    ports: list[int],
    *,
    workers: int = 3,
    pause: float = 2.0,
    broker_every: float = 15.0,
) -> Report:
    """Run the whole of it in a folder of its own."""
    report = Report(jobs, events)
    make_project(folder)
    broker = Broker(port=0, store_dir=folder / "store")
    broker.start()
    mesh = Mesh(folder, broker, ports)
    names: dict[int, str] = {}
    started = time.monotonic()
    try:
        await mesh.start(workers)
        chaos = asyncio.create_task(mesh.chaos(report.kills, pause, broker_every))
        try:
            report.resent, _ = await asyncio.gather(enter_all(ports, jobs, names), publish_all(mesh, events))
        finally:
            chaos.cancel()
            await asyncio.gather(chaos, return_exceptions=True)
        if not broker.is_running:
            broker.start()
        for name, process in mesh.processes.items():
            if process.returncode is not None:
                await mesh.start_one(name)
        await wait_until_handled(folder / "ledger", report, patience=30)
        await check_operations(broker.url, names, report)
        report.seconds = time.monotonic() - started
    finally:
        await mesh.stop()
        broker.stop()
    return report


def main() -> None:
    """Run it with the numbers of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two kills")
    parser.add_argument("--broker-every", type=float, default=15.0, help="seconds between two kills of the broker")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="natsmesh-ledger-") as folder:
        report = asyncio.run(
            run(
                arguments.jobs,
                arguments.events,
                Path(folder),
                [18471, 18472],
                pause=arguments.pause,
                broker_every=arguments.broker_every,
            )
        )
        print(report)
        if report.lost_jobs or report.lost_events or report.unfinished:
            print((Path(folder) / "log").read_text()[-4000:], file=sys.stderr)
    sys.exit(bool(report.lost_jobs or report.lost_events or report.unfinished))


if __name__ == "__main__":
    main()
