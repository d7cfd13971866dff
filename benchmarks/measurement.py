"""One window: start a setup, see it answer rightly, load it, account for its CPU, stop it."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass, field

from benchmarks import load, machine
from benchmarks.processes import HOST, START_TIMEOUT, BenchmarkError, Program, Role, Stage
from benchmarks.setups import Setup

WARM_UP = 1.0
"""Seconds of load before the window: connections made, caches filled, code compiled."""


@dataclass(frozen=True)
class Window:
    """What one window gave. CPU in microseconds a call, latencies in microseconds, memory in bytes, times in s."""

    setup: str
    calls: int
    seconds: float
    p50_us: float
    p99_us: float
    cpu_us: dict[Role, float]
    backend_ready_seconds: float | None
    """From the start of the back-end's process to the first right answer; broker and gateway were up before."""
    backend_resident_bytes: int
    """The back-end's process tree, after the load."""
    others_cores: float
    """Cores that processes outside the measurement kept busy; much above 0 disturbs a small machine."""
    counters: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds

    @property
    def total_cpu_us(self) -> float:
        """CPU of all counted processes, microseconds a call."""
        return sum(self.cpu_us.values())


def measure(setup: Setup, seconds: float) -> Window:
    """Runs one window of `setup`. Raises BenchmarkError when an answer is wrong, a call fails or a process dies."""
    with Stage() as stage:
        backend = setup.start(stage)
        ready = await_answer(setup, stage, backend)
        load.run(stage.gateway_port, setup.path, WARM_UP)
        window = _loaded_window(setup, stage, seconds, ready)
        check_answer(setup, stage.gateway_port, "afterwards")
        return window


def _loaded_window(setup: Setup, stage: Stage, seconds: float, ready: float) -> Window:
    counters = setup.counters(stage)
    accounts = Accounts(stage)
    result = load.run(stage.gateway_port, setup.path, seconds)
    cpu_us, others = accounts.close(result.calls, result.seconds, result.generator_cpu_seconds)
    if not result.calls:
        raise BenchmarkError(f"{setup.name}: not one call was answered")
    if result.errors:
        raise BenchmarkError(f"{setup.name}: {result.errors} of {result.calls} calls failed\n{stage.logs()}")
    return Window(
        setup=setup.name,
        calls=result.calls,
        seconds=result.seconds,
        p50_us=result.p50_us,
        p99_us=result.p99_us,
        cpu_us=cpu_us,
        backend_ready_seconds=ready,
        backend_resident_bytes=stage.resident_bytes("back-end"),
        others_cores=others,
        counters={name: value - counters[name] for name, value in setup.counters(stage).items()},
    )


class Accounts:
    """CPU accounts of a stage's processes, opened when made, closed once."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._own = machine.own_seconds()
        self._busy = machine.busy_seconds()
        self._before = stage.cpu_seconds()

    def close(self, calls: int, seconds: float, generator_cpu_seconds: float = 0.0) -> tuple[dict[Role, float], float]:
        """CPU microseconds a call by role (without "uncounted"), and the cores that others kept busy meanwhile."""
        after = self._stage.cpu_seconds()
        used = {role: after[role] - self._before[role] for role in after}
        ours = sum(used.values()) + generator_cpu_seconds + machine.own_seconds() - self._own
        others = max(0.0, machine.busy_seconds() - self._busy - ours) / seconds
        return {role: cpu / max(calls, 1) * 1e6 for role, cpu in used.items() if role != "uncounted"}, others


def await_answer(setup: Setup, stage: Stage, backend: Program) -> float:
    """Asks until the first right answer; returns the seconds since the back-end's process was started."""
    deadline = backend.started_at + START_TIMEOUT
    problem = "it was not asked"
    while time.perf_counter() < deadline:
        stage.check_alive()
        try:
            check_answer(setup, stage.gateway_port, "at the start")
            return time.perf_counter() - backend.started_at
        except (BenchmarkError, OSError, http.client.HTTPException) as error:
            problem = str(error)
        time.sleep(0.01)
    raise BenchmarkError(f"{setup.name} gave no right answer within {START_TIMEOUT:.0f} s: {problem}\n{stage.logs()}")


def check_answer(setup: Setup, port: int, when: str) -> None:
    """Makes one call with a name that no cache has seen. Raises BenchmarkError for a wrong answer."""
    name = f"Ada {time.perf_counter_ns()}"
    connection = http.client.HTTPConnection(HOST, port, timeout=5.0)
    try:
        connection.request("POST", setup.path, json.dumps({"name": name}), {"content-type": "application/json"})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200 or json.loads(body) != setup.expected(name):
        raise BenchmarkError(f"{setup.name} answered wrongly {when}: HTTP {response.status} {body[:300]!r}")
