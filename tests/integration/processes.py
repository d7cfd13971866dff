"""Back-ends as real processes, and what they wrote into their journal."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rpc

PROGRAM = Path(__file__).with_name("backend.py")
START_SECONDS = 15
STOP_SECONDS = 15


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait until ``condition()`` is true and return what it gave; fail after so many seconds."""
    limit = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < limit, f"still not so after {seconds} s"
        await asyncio.sleep(0.005)
    return result


async def accepted(channel: rpc.Channel, calls: int = 1) -> None:
    """Wait until so many calls of the channel are with a back-end that the channel knows."""
    pending = channel._transport._pending
    await until(lambda: sum(bool(call.instance) for call in list(pending.values())) >= calls)


@dataclass
class Process:
    """One running back-end."""

    name: str
    popen: subprocess.Popen[str]
    instance: str = ""

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        """``kill -9``, and wait for the end."""
        self.popen.kill()
        self.popen.wait(STOP_SECONDS)

    async def ended(self) -> int:
        """Wait for the end and return the exit code."""
        return await asyncio.to_thread(self.popen.wait, STOP_SECONDS)


class Backends:
    """Starts back-ends of one test, which share a journal, and ends them."""

    def __init__(self, url: str, folder: Path, prefix: str) -> None:
        self.url = url
        self.folder = folder
        self.prefix = prefix
        self._journal = folder / "journal"
        self._log = folder / "log"
        self._journal.touch()
        self._processes: list[Process] = []

    async def start(self, *names: str, **options: float | str) -> list[Process]:
        """Start one back-end for each name, and return when all are ready."""
        arguments = [f"--{key}={value}" for key, value in {"prefix": self.prefix, "url": self.url, **options}.items()]
        processes = []
        for name in names:
            with self._log.open("ab") as log:
                popen = subprocess.Popen(
                    [sys.executable, PROGRAM, f"--name={name}", f"--journal={self._journal}", *arguments],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            processes.append(Process(name, popen))
        self._processes += processes
        for process in processes:
            assert process.popen.stdout is not None
            line = await asyncio.wait_for(asyncio.to_thread(process.popen.stdout.readline), START_SECONDS)
            assert line, f"{process.name} ended at once:\n{self._log.read_text()}"
            process.instance = json.loads(line)["instance"]
        return processes

    def journal(self, event: str | None = None, call: object = None) -> list[dict[str, Any]]:
        """What happened: all of it, one kind of event, or that of one call."""
        lines = [json.loads(line) for line in self._journal.read_text().splitlines()]
        return [line for line in lines if event in (None, line["event"]) and call in (None, line["id"])]

    def log(self) -> str:
        """What the processes wrote to standard error."""
        return self._log.read_text()

    def close(self) -> None:
        for process in self._processes:
            process.popen.kill()
            process.popen.wait()
            if process.popen.stdout is not None:
                process.popen.stdout.close()
