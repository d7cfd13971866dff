"""One child process: started with a control line, its output read line by line, ended for certain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from natsmesh.control import VARIABLE
from natsmesh.lines import LineReceiver, LineSplitter

TAIL_LINES = 12
"""How many of its last lines a process is remembered by."""

_MAX_EVENT_BYTES = 4 * 1024 * 1024
_KILL_SECONDS = 2.0
_OUTPUT_SECONDS = 1.0


class ChildProcess:
    """A process of ours. It is asked to end by SIGTERM, and it ends by itself when we are gone."""

    def __init__(
        self, name: str, command: Sequence[str], receive: LineReceiver, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.facts: dict[str, Any] = {}
        """What the process told with its ``ready``."""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.started = 0.0
        """When it was started, as ``time.time()``."""
        self.exit_code: int | None = None
        """Its return code once it ended; negative: the signal that ended it."""
        self._command = command
        self._receive = receive
        self._env = dict(os.environ if env is None else env) | {VARIABLE: "stdin", "PYTHONUNBUFFERED": "1"}
        self._process: asyncio.SubprocessTransport | None = None
        self._line: asyncio.Transport | None = None
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._files: asyncio.Future[list[str]] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 before it was started."""
        return (self._process.get_pid() or 0) if self._process is not None else 0

    @property
    def is_ready(self) -> bool:
        """Whether it does its work: it said so, and it lives."""
        return self._ready.is_set() and not self._ended.is_set()

    @property
    def was_ready(self) -> bool:
        """Whether it ever said that it does its work."""
        return self._ready.is_set()

    async def start(self) -> None:
        """Start it. Raises ``OSError`` when there is no such program."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        self.started = time.time()
        try:
            with theirs:
                self._process, _ = await loop.subprocess_exec(
                    lambda: _Output(self),
                    *self._command,
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env=self._env,
                    start_new_session=True,  # Ctrl-C reaches us alone; we stop our children, in order
                )
            self._line, _ = await loop.create_unix_connection(lambda: _Events(self), sock=ours)
        except BaseException:
            ours.close()
            raise

    async def wait(self) -> int:
        """Wait until it ended and its output was received; return its return code."""
        await self._ended.wait()
        return self.exit_code or 0

    async def wait_ready(self, timeout: float) -> bool:
        """Wait until it is ready (True), or ended or late (False)."""
        waiters = [asyncio.ensure_future(event.wait()) for event in (self._ready, self._ended)]
        try:
            await asyncio.wait(waiters, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        return self.is_ready

    async def files(self, timeout: float = 1.0) -> list[str]:
        """Ask which source files it has loaded; an empty list when it does not answer."""
        if not self.is_ready or self._line is None:
            return []
        if self._files is None or self._files.done():
            self._files = asyncio.get_running_loop().create_future()
            self._line.write(b"files\n")
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self._files), timeout)
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it ended already."""
        if self._process is not None and self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self.signal(signal.SIGKILL)

    async def stop(self, grace: float) -> int:
        """Ask it to end (SIGTERM); make it end (SIGKILL) a little after ``grace`` seconds. Return its return code."""
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._ended.wait(), grace + _KILL_SECONDS)
        except TimeoutError:
            self.signal(signal.SIGKILL)
        except asyncio.CancelledError:
            self.signal(signal.SIGKILL)
            raise
        return await self.wait()

    def take_line(self, line: str) -> None:
        """Take a line of its output."""
        self.tail.append(line)
        self._receive(line)

    def take_event(self, event: Any) -> None:
        """Take what it told over the control line."""
        match event:
            case {"event": "ready", **facts}:
                self.facts = {str(key): value for key, value in facts.items()}
                self._ready.set()
            case {"event": "files", "files": list(files)} if self._files is not None and not self._files.done():
                self._files.set_result([str(file) for file in files])
            case _:
                pass

    def never_started(self) -> None:
        """Take note that it could not be started."""
        self.exit_code = 127  # as a shell says it
        self._ended.set()

    def exited(self) -> None:
        """Take note that it is gone."""
        if self._process is None or self._ended.is_set():
            return
        self.exit_code = self._process.get_returncode()
        self._process.close()
        if self._line is not None:
            self._line.close()
        self._ended.set()


class _Output(asyncio.SubprocessProtocol):
    """Collects the output. The end is the end of both process and output, but a grandchild that keeps the pipe open
    holds it up only for a moment.
    """

    def __init__(self, child: ChildProcess) -> None:
        self._child = child
        self._lines = LineSplitter(child.take_line)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._lines.feed(data)

    def process_exited(self) -> None:
        asyncio.get_running_loop().call_later(_OUTPUT_SECONDS, self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        self._lines.close()
        self._child.exited()


class _Events(asyncio.Protocol):
    """Reads the control line: JSON objects, one a line, of bounded length."""

    def __init__(self, child: ChildProcess) -> None:
        self._child = child
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                self._child.take_event(json.loads(line))
        if len(self._rest) > _MAX_EVENT_BYTES and self._transport is not None:
            self._transport.close()
