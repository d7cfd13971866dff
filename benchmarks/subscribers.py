"""One subscriber against 300: is the load spread over all of them, and does the gateway's cost of a call stay the same?

Every subscriber is a whole `rpc.Server` with a NATS connection of its own; 300 of them live in three processes, because
300 processes would measure the machine's scheduler.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import sqrt
from pathlib import Path
from statistics import mean, median, pstdev

from benchmarks import load
from benchmarks.interactive import expect, say
from benchmarks.load import CONNECTIONS
from benchmarks.measurement import WARM_UP, Accounts, await_answer
from benchmarks.processes import BenchmarkError, Program, Role, Stage
from benchmarks.setups.natsmesh import NatsMesh, natsmesh_missing, start_broker, start_gateway

MANY = 300
LOADS = (1, CONNECTIONS)
"""Connections of the load: one, so that every message travels alone, and as many as in the other benchmarks."""
PROCESSES = 3
ALLOWED = 0.15
"""How far the gateway's cost of a call with 300 subscribers may be from that with one, relative."""


@dataclass(frozen=True)
class Spread:
    """One window. CPU in microseconds a call, latencies in microseconds."""

    connections: int
    subscribers: int
    processes: int
    rate: float
    p50_us: float
    p99_us: float
    cpu_us: dict[Role, float]
    calls: list[int]
    """How many calls each subscriber answered in the window."""
    others_cores: float

    @property
    def random_deviation(self) -> float:
        """The standard deviation that a fair random choice of the subscriber gives (binomial)."""
        count = len(self.calls)
        return sqrt(sum(self.calls) / count * (1 - 1 / count))


def main(rounds: int, seconds: float, folder: Path, machine: dict[str, object]) -> int:
    """Measures both, interleaved; writes `subscribers.json` and `.md`."""
    why = natsmesh_missing()
    if why is not None:
        raise BenchmarkError(why)
    windows: list[Spread] = []
    for turn in range(rounds):
        for count, processes in ((1, 1), (MANY, PROCESSES)):
            for window in measure(count, processes, seconds):
                windows.append(window)
                print(f"round {turn + 1}  {summary(window)}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    raw = {"machine": machine, "seconds": seconds, "windows": [asdict(window) for window in windows]}
    (folder / "subscribers.json").write_text(json.dumps(raw, indent=1) + "\n")
    text = markdown(windows, rounds, seconds)
    (folder / "subscribers.md").write_text(text)
    print("\n" + text)
    return 0  # as in the other benchmarks: the table tells which aims are missed


def measure(count: int, processes: int, seconds: float) -> Iterator[Spread]:
    """Runs one window for each of `LOADS` with `count` subscribers, spread evenly over `processes`."""
    setup = NatsMesh(sampled=None)
    with Stage() as stage:
        nats_url = start_broker(stage)
        start_gateway(stage, nats_url, {})
        command = [sys.executable, "-m", "benchmarks.programs.subscribers", nats_url, str(count // processes)]
        programs = [stage.spawn("back-end", command, interactive=True) for _ in range(processes)]
        for program in programs:
            expect(program, "ready")
        await_answer(setup, stage, programs[0])
        load.run(stage.gateway_port, setup.path, WARM_UP)
        for connections in LOADS:
            before = answered(programs)
            accounts = Accounts(stage)
            result = load.run(stage.gateway_port, setup.path, seconds, connections)
            cpu_us, others = accounts.close(result.calls, result.seconds, result.generator_cpu_seconds)
            if result.errors:
                raise BenchmarkError(f"{count} subscribers: {result.errors} of {result.calls} calls failed")
            yield Spread(
                connections=connections,
                subscribers=count,
                processes=processes,
                rate=result.calls / result.seconds,
                p50_us=result.p50_us,
                p99_us=result.p99_us,
                cpu_us=cpu_us,
                calls=[now - then for now, then in zip(answered(programs), before, strict=True)],
                others_cores=others,
            )


def answered(programs: Sequence[Program]) -> list[int]:
    """The calls that each subscriber has answered so far."""
    counts: list[int] = []
    for program in programs:
        say(program, "counts")
        counts += json.loads(expect(program, "COUNTS "))
    return counts


def summary(window: Spread) -> str:
    """One window for the eyes of whoever waits."""
    roles = " + ".join(f"{role} {cpu:.0f}" for role, cpu in window.cpu_us.items())
    return (
        f"{window.connections:3} connections {window.subscribers:4} subscribers  {window.rate:8,.0f} calls/s  "
        f"p99 {window.p99_us / 1000:6.2f} ms  us CPU a call: {roles}  "
        f"calls each: {min(window.calls)} to {max(window.calls)}"
    )


def ratio(windows: Sequence[Spread], connections: int) -> float:
    """The gateway's CPU of a call with many subscribers, relative to that with one; medians of the rounds."""
    one, many = (
        median(window.cpu_us["gateway"] for window in pick(windows, connections, count)) for count in (1, MANY)
    )
    return many / one


def pick(windows: Sequence[Spread], connections: int, subscribers: int) -> list[Spread]:
    """The windows of one kind, a round each."""
    return [window for window in windows if (window.connections, window.subscribers) == (connections, subscribers)]


def markdown(windows: Sequence[Spread], rounds: int, seconds: float) -> str:
    """The table."""
    head = ["connections", "subscribers", "calls/s", "p99 ms", "gateway µs/call", "back-ends µs/call", "broker µs/call"]
    head += ["calls each: mean", "lowest", "highest", "deviation", "of a fair random choice"]
    rows = [
        "# One subscriber against 300\n",
        f"Medians of {rounds} interleaved rounds of {seconds:g} s; the spread is that of the last round.\n",
        "| " + " | ".join(head) + " |",
        "|" + "---:|" * len(head),
    ]
    for connections, count in product(LOADS, (1, MANY)):
        chosen = pick(windows, connections, count)
        last = chosen[-1]
        cells = [
            f"{connections}",
            f"{count}",
            f"{median(window.rate for window in chosen):,.0f}",
            f"{median(window.p99_us for window in chosen) / 1000:.1f}",
            *(f"{median(window.cpu_us[role] for window in chosen):.0f}" for role in ("gateway", "back-end", "broker")),
            f"{mean(last.calls):.0f}",
            f"{min(last.calls)}",
            f"{max(last.calls)}",
            f"{pstdev(last.calls):.1f}",
            f"{last.random_deviation:.1f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    rows.append("")
    rows += [
        f"With {connections} connection{'s' * (connections > 1)} the gateway's CPU of a call with {MANY} subscribers "
        f"is {ratio(windows, connections):.2f} times that with one (aim: 1 ± {ALLOWED:.2f})."
        for connections in LOADS
    ]
    rows.append("")
    return "\n".join(rows)
