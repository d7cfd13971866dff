"""The load: 64 keep-alive connections, each posting one JSON call after the other, from a process of its own.

`wrk` does it where it is installed; elsewhere `benchmarks.loadgen`, our own, does the same with more CPU of its own,
which on a machine with few cores leaves less for the setup: its calls/s are not comparable with wrk's, the CPU per
call is.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import HOST, ROOT, BenchmarkError, environment

CONNECTIONS = 64


@dataclass(frozen=True)
class LoadResult:
    """What the load generator saw. Latencies in microseconds."""

    calls: int
    seconds: float
    p50_us: float
    p99_us: float
    bytes: int
    errors: int
    generator_cpu_seconds: float


def tool() -> str:
    """Which load generator this machine runs: "wrk" or "benchmarks.loadgen"."""
    return "wrk" if shutil.which("wrk") else "benchmarks.loadgen"


def run(port: int, path: str, seconds: float, connections: int = CONNECTIONS) -> LoadResult:
    """Loads `http://127.0.0.1:<port><path>` for whole `seconds`; raises BenchmarkError when the generator fails."""
    url = f"http://{HOST}:{port}{path}"
    duration = max(1, round(seconds))
    if tool() == "wrk":
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{duration}s",
            "--timeout",
            "5s",
            "--latency",
            "-s",
            str(Path(__file__).with_name("wrk.lua")),
            url,
        ]
    else:
        command = [
            sys.executable,
            "-m",
            "benchmarks.loadgen",
            url,
            "--connections",
            str(connections),
            "--seconds",
            str(duration),
        ]
    before = _children_cpu()
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=duration + 30,
        check=False,
    )
    return _parse(finished, _children_cpu() - before)


def _parse(finished: subprocess.CompletedProcess[str], cpu: float) -> LoadResult:
    marker = "RESULT "
    line = next((line for line in finished.stdout.splitlines() if line.startswith(marker)), None)
    if finished.returncode != 0 or line is None:
        raise BenchmarkError(f"{tool()} failed with status {finished.returncode}\n{finished.stdout}{finished.stderr}")
    return LoadResult(**json.loads(line.removeprefix(marker)), generator_cpu_seconds=cpu)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
