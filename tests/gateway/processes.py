"""Gateways as real processes, and a client on a bare socket: for what no HTTP library would send."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

SCRIPT = Path(__file__).with_name("serve_gateway.py")
START_SECONDS = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class GatewayProcess:
    """``natsmesh gateway`` without the command line. Its log is in ``log``."""

    script = SCRIPT

    def __init__(self, folder: Path, nats_url: str, prefix: str, **options: Any) -> None:
        self.port = int(options.pop("port", 0)) or free_port()
        self.scheme = "https" if "tls" in options else "http"
        self.verify: ssl.SSLContext | bool = True
        """What ``wait_ready`` trusts, and who it says it is."""
        self.options = {"host": "127.0.0.1", "port": self.port, "nats_url": nats_url, "prefix": prefix, **options}
        self._log = folder / f"gateway-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._forgotten = 0

    @property
    def log(self) -> str:
        return self._log.read_text()[self._forgotten :]

    def forget_log(self) -> None:
        """Let ``log`` begin here."""
        self._forgotten = len(self._log.read_text())

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def resident(self) -> int:
        """Bytes of memory that the process holds."""
        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        assert self.process is not None
        found = psutil.Process(self.process.pid).net_connections("tcp")
        return sum(each.laddr.port == self.port and each.status == psutil.CONN_ESTABLISHED for each in found)

    @property
    def cpu_seconds(self) -> float:
        """Processor time that the process has used."""
        assert self.process is not None
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def start(self, *, wait: bool = True) -> GatewayProcess:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(self.script), json.dumps(self.options)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                if httpx.get(f"{self.url}/readyz", verify=self.verify).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process is not None
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def wait(self, timeout: float = 15.0) -> int:
        assert self.process is not None
        return self.process.wait(timeout)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class RawClient:
    """One connection. What is sent is sent as it is."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.writer.close()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, timeout: float = 10.0) -> tuple[int, dict[str, str], bytes]:
        """Read one response that has a content-length: (status, headers, body)."""
        async with asyncio.timeout(timeout):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
            return int(status_line.split()[1]), headers, body

    async def closed(self, timeout: float = 10.0) -> bytes:
        """Return what else comes until the server closes the connection."""
        async with asyncio.timeout(timeout):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def abort(self) -> None:
        """Cut the connection."""
        self.writer.transport.abort()
