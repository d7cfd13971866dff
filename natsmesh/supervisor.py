"""Keeps processes running: restarts what crashed, after a back-off, and replaces what changed, without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import signal
from collections.abc import Callable, Mapping, Sequence

from natsmesh.exits import Exit, describe_exit
from natsmesh.lines import LineReceiver
from natsmesh.process import ChildProcess

START_SECONDS = 30.0
"""After so long a process that is not ready yet is mentioned; it may be loading a model."""

_FIRST_DELAY = 0.1
_MAX_DELAY = 10.0
_STABLE_SECONDS = 10.0
_SHOWN_LINES = 5


class Restart(enum.Enum):
    """What became of a request to restart a process."""

    REPLACED = enum.auto()
    STARTED = enum.auto()
    """There was none that worked; it is started."""
    KEPT = enum.auto()
    """The new one does not start; the old one goes on."""
    SUPERSEDED = enum.auto()
    """Another request, or a crash, came in between; that one takes care of it."""


class Backoff:
    """How long to wait before the next start: 0.1 s, then twice as long each time, at most 10 s.

    A process that ran for 10 s before it crashed starts the series again.
    """

    def __init__(self) -> None:
        self._next = _FIRST_DELAY

    def after(self, ran_seconds: float) -> float:
        """Return the seconds to wait after a crash of a process that did its work for so long."""
        if ran_seconds >= _STABLE_SECONDS:
            self._next = _FIRST_DELAY
        delay, self._next = self._next, min(self._next * 2, _MAX_DELAY)
        return delay


class Supervised:
    """One process that is kept running until ``stop``."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        receive: LineReceiver,
        say: Callable[[str], None],
        *,
        grace: float,
        env: Mapping[str, str] | None = None,
        wait_for_change: bool = False,
        on_ready: Callable[[ChildProcess], None] = lambda _: None,
    ) -> None:
        """Describe the process.

        Args:
            name: What people know it by.
            command: Program and arguments.
            receive: Takes the lines of its output.
            say: Takes what we have to say about it.
            grace: Seconds that it may take to end.
            env: Its environment; None: ours.
            wait_for_change: What to do about a process that ends with ``Exit.USAGE`` (it would end so again): wait for
                ``restart`` (True), or go on as with any other crash.
            on_ready: Told of each process that is ready, the first one and its successors.
        """
        self.name = name
        self.child: ChildProcess | None = None
        self._command = command
        self._receive = receive
        self._say = say
        self._grace = grace
        self._env = env
        self._wait_for_change = wait_for_change
        self._on_ready = on_ready
        self._changed = asyncio.Event()
        self._replacing = asyncio.Lock()
        self._requested = False
        self._starting: ChildProcess | None = None
        self._stopping = False
        self._others: set[ChildProcess] = set()
        self.was_ready = asyncio.Event()
        """Set once it was ready for the first time."""
        self.was_started = asyncio.Event()
        """Set once the first start has shown whether it works."""

    @property
    def is_ready(self) -> bool:
        """Whether it does its work now."""
        return self.child is not None and self.child.is_ready

    @property
    def last_exit(self) -> int:
        """How its last process ended; 0 while that runs, and for one that was stopped before it was ready."""
        return (self.child.exit_code or 0) if self.child is not None and self.child.was_ready else 0

    async def run(self) -> int:
        """Keep it running. Returns after ``stop``, or its exit code when it never became ready at all."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        while not self._stopping:
            self._changed.clear()
            child = self.child = self._new_child()
            since = loop.time()
            if await self._start(child):
                since = loop.time()
                self.was_ready.set()
                self._on_ready(child)
            self.was_started.set()
            child = await self._current_ended(child)
            if self._stopping or self._changed.is_set():
                continue
            code = child.exit_code or 0
            if not self.was_ready.is_set() and not self._wait_for_change:
                self._say(f"{self.name} did not start: {describe_exit(code)}")
                return code if code >= 0 else Exit.SIGNAL - code
            if code == Exit.USAGE and self._wait_for_change:
                self._say(f"{self.name} waits for a change of its code")
                await self._changed.wait()
                continue
            delay = backoff.after(loop.time() - since if child.was_ready else 0.0)
            self._say(f"{self._obituary(child)}\n{self.name} is started again in {delay:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), delay)
        return Exit.OK

    async def restart(self) -> Restart:
        """Replace it by a new process: start that, and only when it is ready drain the old one.

        Returns what became of it, after the drain. One that does not run is started.
        """
        if self._requested:
            return Restart.SUPERSEDED  # another request waits for its turn already: it will find the newest code
        self._requested = True
        if self._starting is not None:
            self._starting.kill()  # a replacement with code from before this change
        async with self._replacing:
            self._requested = False
            old = self.child
            outcome = await self._replace(old)
        if outcome is Restart.REPLACED and old is not None:
            self._others.add(old)
            await old.stop(self._grace)
            self._others.discard(old)
        return outcome

    async def _replace(self, old: ChildProcess | None) -> Restart:
        if old is None or not old.is_ready:
            self._changed.set()
            if old is not None:
                await old.stop(0)  # still starting, with the code from before the change
            return Restart.STARTED
        new = self._starting = self._new_child()
        self._others.add(new)
        try:
            ready = await self._start(new)
            if not ready or self._stopping or not old.is_ready:
                await new.stop(0)  # broken; or the old one crashed meanwhile, and `run` has started another one
                return Restart.SUPERSEDED if ready or self._requested else Restart.KEPT
            self.child = new
            self._on_ready(new)
            return Restart.REPLACED
        finally:
            self._starting = None
            self._others.discard(new)

    async def _start(self, child: ChildProcess) -> bool:
        """Start a process, and wait until it is ready (True) or ended; it may take its time."""
        try:
            await child.start()
        except OSError as error:
            child.never_started()
            self._say(f"{self.name} cannot be started: {error}")
            return False
        if self._stopping:
            child.signal(signal.SIGTERM)
        while not await child.wait_ready(START_SECONDS):
            if child.exit_code is not None:
                return False
            self._say(f"{self.name} is still starting")
        return True

    async def stop(self) -> None:
        """End it, within its grace."""
        self._stopping = True
        self._changed.set()
        children = {*self._others, *([self.child] if self.child is not None else [])}
        await asyncio.gather(*(child.stop(self._grace) for child in children if child.exit_code is None))

    def kill(self) -> None:
        """End it at once."""
        self._stopping = True
        self._changed.set()
        for child in {*self._others, *([self.child] if self.child is not None else [])}:
            child.kill()

    def _new_child(self) -> ChildProcess:
        return ChildProcess(self.name, self._command, self._receive, self._env)

    async def _current_ended(self, child: ChildProcess) -> ChildProcess:
        """Wait for the end of the process that does the work; it may have been replaced meanwhile, even repeatedly."""
        while True:
            await child.wait()
            if self.child is child or self.child is None:
                return child
            child = self.child

    def _obituary(self, child: ChildProcess) -> str:
        text = f"{self.name} (process {child.pid}) died: {describe_exit(child.exit_code or 0)}"
        lines = list(child.tail)[-_SHOWN_LINES:]
        return "\n".join([text + (", after saying" if lines else ""), *(f"    {line}" for line in lines)])
