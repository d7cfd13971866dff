"""Back-ends as real processes, and what they wrote into their journal."""

import asyncio
import json
import multiprocessing
import os
import signal
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import rpc
from tests.integration import backend
from tests.waiting import until

START_SECONDS = 15
STOP_SECONDS = 15

# Processes of their own, forked from one that has imported everything: it spares each of them half a second.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([backend.__name__])


async def freeze(pid: int) -> None:
    """Stop a process (SIGSTOP), and return once it does nothing more: its threads stop one by one."""
    os.kill(pid, signal.SIGSTOP)

    def stands() -> bool:
        threads = list(Path(f"/proc/{pid}/task").glob("*/stat"))  # none where there is no /proc
        return all(thread.read_text().rpartition(")")[2].split()[0] in "Tt" for thread in threads)

    await until(stands)


async def accepted(channel: rpc.Channel, calls: int = 1) -> None:
    """Wait until so many calls of the channel are with a back-end that the channel knows."""
    pending = channel._transport._pending
    await until(lambda: sum(bool(call.instance) for call in list(pending.values())) >= calls)


@dataclass
class Process:
    """One running back-end."""

    name: str
    process: ForkServerProcess
    instance: str = ""

    @property
    def is_running(self) -> bool:
        return self.process.is_alive()

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """``kill -9``, and wait for the end."""
        self.process.kill()
        self.process.join(STOP_SECONDS)

    async def ended(self) -> int | None:
        """Wait for the end and return the exit code."""
        await asyncio.to_thread(self.process.join, STOP_SECONDS)
        return self.process.exitcode


class Backends:
    """Starts back-ends of one test, which share a journal, and ends them."""

    def __init__(self, url: str, folder: Path, prefix: str) -> None:
        self.url = url
        self.folder = folder
        self.prefix = prefix
        self._journal = folder / "journal"
        self._log = folder / "log"
        self._journal.touch()
        self._started: list[Process] = []

    async def start(self, *names: str, **options: Any) -> list[Process]:
        """Start one back-end for each name, and return when all are ready. The options are ``backend.Options``."""
        started = []
        for name in names:
            settings = backend.Options(self.url, name, self._journal, self._log, prefix=self.prefix, **options)
            ready, ready_there = _processes.Pipe(duplex=False)
            process = _processes.Process(target=backend.run, args=(settings, ready_there), name=name)
            process.start()
            ready_there.close()
            started.append((Process(name, process), ready))
        self._started += [process for process, _ in started]
        for process, ready in started:
            with ready:
                is_ready = await asyncio.to_thread(ready.poll, START_SECONDS)
                assert is_ready, f"{process.name} is not ready:\n{self.log()}"
                try:
                    process.instance = ready.recv()
                except EOFError:
                    raise AssertionError(f"{process.name} ended at once:\n{self.log()}") from None
        return [process for process, _ in started]

    def journal(self, event: str | None = None, call: object = None) -> list[dict[str, Any]]:
        """What happened: all of it, one kind of event, or that of one call."""
        lines = [json.loads(line) for line in self._journal.read_text().splitlines()]
        return [line for line in lines if event in (None, line["event"]) and call in (None, line["id"])]

    def log(self) -> str:
        """What the processes wrote to standard error."""
        return self._log.read_text() if self._log.exists() else ""

    def close(self) -> None:
        for one in self._started:
            one.kill()
            one.process.close()
