"""What is attacked: a gateway with its back-end and broker, each a process, and what can be seen of their health."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from tests.gateway.processes import GatewayProcess

HERE = Path(__file__).parent
LIMITS: dict[str, Any] = {
    "max_body": 200_000,
    "head_patience": 1.0,
    "body_patience": 1.0,
    "write_patience": 3.0,
    "keep_alive": 1.0,
    "timeout": 3.0,
    "stream_timeout": 3.0,
}
"""The gateway's, so that nothing takes long."""

HANG_SECONDS = 30.0
"""By then every connection must have been closed, whatever was sent: twice the longest of the times above, and a lot
for machines that are busy with something else."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a gateway is: what leaks would show in."""

    tasks: int
    sockets: int
    resident: int

    def __str__(self) -> str:
        return f"{self.tasks} tasks, {self.sockets} open files, {self.resident / 2**20:.0f} MiB"


class AttackedGateway(GatewayProcess):
    """A gateway that tells how many tasks it has."""

    script = HERE / "serve.py"

    def vitals(self, timeout: float = 10.0) -> Vitals:
        """Ask it how it is."""
        before = self.log.count("vitals: tasks=")
        self.signal(signal.SIGUSR1)
        end = time.monotonic() + timeout
        while (log := self.log).count("vitals: tasks=") == before:
            assert time.monotonic() < end, "the gateway does not answer"
            time.sleep(0.02)
        assert self.process is not None
        process = psutil.Process(self.process.pid)
        return Vitals(int(log.rpartition("tasks=")[2].split()[0]), process.num_fds(), process.memory_info().rss)


class Target:
    """A gateway and its back-end on somebody's broker."""

    def __init__(self, folder: Path, nats_url: str, **options: Any) -> None:
        self.prefix = f"h{secrets.token_hex(4)}"
        self.nats_url = nats_url
        self.gateway = AttackedGateway(folder, nats_url, self.prefix, **{**LIMITS, **options})
        self._backend: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 20.0) -> Self:
        self._backend = subprocess.Popen([sys.executable, str(HERE / "backend.py"), self.nats_url, self.prefix])
        try:
            self.gateway.start()
            self._wait_for_services(timeout)
        except BaseException:
            self.close()
            raise
        return self

    def _wait_for_services(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        for path in ("/library.v1.Library/Echo", "/streams.v1.Streams/Ask"):
            while httpx.post(self.gateway.url + path, json={}).status_code != 200:
                assert time.monotonic() < end, "the services did not come"
                time.sleep(0.05)

    def close(self) -> None:
        self.gateway.close()
        if self._backend is not None:
            self._backend.terminate()
            self._backend.wait(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exception: object) -> None:
        self.close()
