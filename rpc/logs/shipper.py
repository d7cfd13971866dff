"""A bounded backlog of log records, and the task that publishes what is in it.

What was accepted is published, however long the broker is away; what finds no room is refused, counted, and told of in
a record of its own once there is room again.
"""

from __future__ import annotations

import asyncio
import random
import threading
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from mesh.v1 import log_pb2
from rpc.status import StatusCode, StatusError
from rpc.tasks import TaskSet

CAPACITY: Final = 10_000
"""Records that wait at most."""

MAX_BYTES: Final = 32 * 1024 * 1024
"""What they take at most, about."""

AT_ONCE: Final = 512
"""Records for whose confirmation the broker is awaited at once."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0

Publish = Callable[[log_pb2.LogRecord, str], Awaitable[object]]
"""Returns when the broker has stored the record, under that id. Raises ``StatusError``: UNAVAILABLE if it is away."""


class Backlog:
    """Records that wait. Used from all threads; nobody ever waits here."""

    def __init__(self, capacity: int = CAPACITY, max_bytes: int = MAX_BYTES) -> None:
        self.dropped = 0
        """Records that found no room."""
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._records: deque[tuple[log_pb2.LogRecord, int]] = deque()
        self._bytes = 0
        # Reentrant: a signal handler that logs may interrupt us here.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def is_full(self) -> bool:
        """Whether there is no room."""
        return len(self._records) >= self._capacity or self._bytes >= self._max_bytes

    def put(self, record: log_pb2.LogRecord) -> bool:
        """Take a record, if there is room."""
        size = record.ByteSize()
        with self._lock:
            if self.is_full:
                self.dropped += 1
                return False
            self._records.append((record, size))
            self._bytes += size
            return True

    def take(self) -> log_pb2.LogRecord:
        """Give the oldest one. Raises ``IndexError`` when there is none."""
        with self._lock:
            record, size = self._records.popleft()
            self._bytes -= size
            return record


class Shipper:
    """Publishes a backlog, in one event loop. ``run`` does it until it is cancelled."""

    def __init__(self, backlog: Backlog, tell_dropped: Callable[[int], log_pb2.LogRecord]) -> None:
        """``tell_dropped`` makes the record that says how many found no room, or were refused by the broker."""
        self._backlog = backlog
        self._tell_dropped = tell_dropped
        self._refused = 0
        self._told = 0
        self._tasks = TaskSet()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._sleeping = False
        self._moved = asyncio.Event()
        """Set, and replaced, whenever records have left the backlog, or were published."""

    def notify(self) -> None:
        """Say that the backlog has something; from any thread."""
        if self._sleeping and (loop := self._loop) is not None:
            self._sleeping = False
            loop.call_soon_threadsafe(self._wake.set)

    async def put(self, record: log_pb2.LogRecord) -> None:
        """Put a record into the backlog as soon as there is room; from the loop."""
        while self._backlog.is_full:
            await self._moved.wait()
        self._backlog.put(record)
        self.notify()

    async def drained(self) -> None:
        """Return once all is published that was in the backlog, or came while we waited."""
        while len(self._backlog) or len(self._tasks) or self._untold:
            await self._moved.wait()

    async def run(self, publish: Publish) -> None:
        """Publish what comes; cancel it to end it."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                while len(self._backlog) and len(self._tasks) < AT_ONCE:
                    self._start(self._backlog.take(), publish)
                if self._untold and not self._backlog.is_full and len(self._tasks) < AT_ONCE:
                    number, self._told = self._untold, self._told + self._untold
                    self._start(self._tell_dropped(number), publish)
                await self._rest()
        finally:
            await self._tasks.close()

    @property
    def _untold(self) -> int:
        return self._backlog.dropped + self._refused - self._told

    async def _rest(self) -> None:
        """Wait until there is something to do."""
        self._wake.clear()
        self._sleeping = len(self._tasks) < AT_ONCE
        # Looked at after the flag was set: who puts something in now sees it.
        if len(self._tasks) >= AT_ONCE or not (len(self._backlog) or self._untold):
            await self._wake.wait()
        self._sleeping = False

    def _start(self, record: log_pb2.LogRecord, publish: Publish) -> None:
        self._tasks.spawn(self._send(record, publish)).add_done_callback(self._progress)

    async def _send(self, record: log_pb2.LogRecord, publish: Publish) -> None:
        message_id = uuid.uuid4().hex
        pause = _FIRST_PAUSE
        while True:
            try:
                await publish(record, message_id)
                return
            except Exception as error:  # noqa: BLE001 - a log of it would come here
                if not (isinstance(error, StatusError) and error.code is StatusCode.UNAVAILABLE):
                    self._refused += 1  # it will not get better
                    return
            await asyncio.sleep(pause * (0.5 + random.random()))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _progress(self, _task: asyncio.Task[None]) -> None:
        """Wake all who wait for records to leave."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        self._wake.set()
