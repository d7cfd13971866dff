"""Ten routes against a thousand: does a gateway that knows many routes take longer to find one?"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks import load
from benchmarks.measurement import WARM_UP, Accounts
from benchmarks.processes import HOST, START_TIMEOUT, BenchmarkError, Role, Stage
from benchmarks.setups.natsmesh import natsmesh_missing, start_broker, start_gateway

COUNTS = (10, 1000)
ALLOWED = 0.05
"""How far the gateway's cost of a call with many routes may be from that with few, relative."""


@dataclass(frozen=True)
class Window:
    """One window. CPU in microseconds a call, latencies in microseconds."""

    routes: int
    rate: float
    p50_us: float
    p99_us: float
    cpu_us: dict[Role, float]
    others_cores: float


def main(rounds: int, seconds: float, folder: Path, machine: dict[str, object]) -> int:
    """Measures both, interleaved; writes `routes.json` and `.md`."""
    why = natsmesh_missing()
    if why is not None:
        raise BenchmarkError(why)
    windows: list[Window] = []
    for turn in range(rounds):
        for count in COUNTS[turn % 2 :] + COUNTS[: turn % 2]:
            window = measure(count, seconds)
            windows.append(window)
            gateway = window.cpu_us["gateway"]
            print(
                f"round {turn + 1}  {count:5} routes  {window.rate:8,.0f} calls/s  gateway {gateway:.1f} us CPU a call"
            )
    folder.mkdir(parents=True, exist_ok=True)
    raw = {"machine": machine, "seconds": seconds, "windows": [asdict(window) for window in windows]}
    (folder / "routes.json").write_text(json.dumps(raw, indent=1) + "\n")
    text = markdown(windows, rounds, seconds)
    (folder / "routes.md").write_text(text)
    print("\n" + text)
    return 0


def measure(routes: int, seconds: float) -> Window:
    """Runs one window; the load goes to the last of the routes, whose path has a variable and a verb."""
    with Stage() as stage:
        nats_url = start_broker(stage)
        stage.spawn("back-end", [sys.executable, "-m", "benchmarks.programs.many_routes", nats_url, str(routes)])
        start_gateway(stage, nats_url, {})
        path = f"/v1/kinds{routes - 1}/x:greet"
        await_route(stage, path)
        load.run(stage.gateway_port, path, WARM_UP)
        accounts = Accounts(stage)
        result = load.run(stage.gateway_port, path, seconds)
        cpu_us, others = accounts.close(result.calls, result.seconds, result.generator_cpu_seconds)
        if result.errors:
            raise BenchmarkError(f"{routes} routes: {result.errors} of {result.calls} calls failed\n{stage.logs()}")
        return Window(routes, result.calls / result.seconds, result.p50_us, result.p99_us, cpu_us, others)


def await_route(stage: Stage, path: str) -> None:
    """Waits until the gateway serves a path."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(HOST, stage.gateway_port, timeout=5)
        try:
            connection.request("POST", path, '{"name": "x"}', {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status == 200 and json.loads(response.read()) == {"message": "Hello, x!"}:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise BenchmarkError(f"{path} was not served within {START_TIMEOUT:.0f} s\n{stage.logs()}")


def markdown(windows: Sequence[Window], rounds: int, seconds: float) -> str:
    """The table."""
    costs = {
        count: median(window.cpu_us["gateway"] for window in windows if window.routes == count) for count in COUNTS
    }
    rows = [
        "# Ten routes against a thousand\n",
        f"Medians of {rounds} interleaved rounds of {seconds:g} s, at 64 connections.\n",
        "| routes | calls/s | p99 ms | gateway µs/call (lowest to highest) |",
        "|---:|---:|---:|---:|",
    ]
    for count in COUNTS:
        chosen = [window for window in windows if window.routes == count]
        gateway = [window.cpu_us["gateway"] for window in chosen]
        rows.append(
            f"| {count} | {median(window.rate for window in chosen):,.0f} "
            f"| {median(window.p99_us for window in chosen) / 1000:.1f} "
            f"| **{costs[count]:.1f}** ({min(gateway):.1f} to {max(gateway):.1f}) |"
        )
    few, many = COUNTS
    summary = (
        f"A call costs the gateway {costs[many] / costs[few]:.2f} times with {many} routes what it does with {few} "
        f"(aim: 1 ± {ALLOWED:.2f})."
    )
    rows += ["", summary, ""]
    return "\n".join(rows)
