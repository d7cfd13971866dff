"""A bounded buffer of events that are published in the background, for those who cannot wait."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf.message import Message

from rpc.tasks import TaskSet

logger = logging.getLogger(__name__)

SENDERS: Final = 256
"""Events that are under way at once."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of events that may wait, however few they are."""

WARNING_PAUSE: Final = 1.0
"""Seconds between two warnings that events were dropped."""

Publish = Callable[[Message, str, Any], Awaitable[int]]
"""Publishes an event, with its id, and the place in a trace that it belongs to."""


class _Flush:
    """Somebody waits for all that was offered up to a certain one."""

    def __init__(self, last: int, left: int) -> None:
        self.last = last
        self.left = left
        self.done = asyncio.Event()


class Buffer:
    """Publishes what it is offered, in that order, but many at once."""

    def __init__(self, publish: Publish, size: int) -> None:
        self._publish = publish
        self._size = size
        self._waiting: deque[tuple[int, Message, str, Any, int]] = deque()
        self._bytes = 0
        self._number = 0
        self._unfinished = 0
        self._senders = TaskSet()
        self._sending = 0
        """Of the senders those that will look into the buffer again: a task that has just ended is still in the set."""
        self._flushes: list[_Flush] = []
        self._closed = False
        self._warned = float("-inf")
        self.dropped = 0
        """Events that found no room, or that could not be published."""

    def offer(self, event: Message, event_id: str, position: Any) -> bool:
        """Take an event as it is now; False, and it is counted as dropped, if there is no room."""
        size = event.ByteSize()
        if self._closed or len(self._waiting) >= self._size or self._bytes + size > MAX_BYTES:
            self.dropped += 1
            return False
        taken = type(event)()
        taken.CopyFrom(event)
        self._number += 1
        self._unfinished += 1
        self._bytes += size
        self._waiting.append((self._number, taken, event_id, position, size))
        if self._sending < min(SENDERS, len(self._waiting)):
            self._sending += 1
            self._senders.spawn(self._send(), name="natsmesh-publish")
        return True

    async def _send(self) -> None:
        try:
            await self._send_all()
        finally:
            self._sending -= 1

    async def _send_all(self) -> None:
        while self._waiting:
            number, event, event_id, position, size = self._waiting.popleft()
            self._bytes -= size
            try:
                await self._publish(event, event_id, position)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one event: the others are published
                self._drop(event, error)
            except asyncio.CancelledError:
                self.dropped += 1
                raise
            finally:
                self._finished(number)

    def _drop(self, event: Message, error: Exception) -> None:
        self.dropped += 1
        now = asyncio.get_running_loop().time()
        if now - self._warned >= WARNING_PAUSE:  # A broker that is away for long must not fill the logs.
            self._warned = now
            logger.warning(
                "an event of type %s was dropped, %d so far: %s", event.DESCRIPTOR.full_name, self.dropped, error
            )

    def _finished(self, number: int) -> None:
        self._unfinished -= 1
        for flush in self._flushes:
            if number <= flush.last:
                flush.left -= 1
                if flush.left == 0:
                    flush.done.set()

    async def flush(self, timeout: float | None) -> bool:
        """Return once all that was taken before is published or dropped; False if ``timeout`` seconds were too few."""
        if not self._unfinished:
            return True
        flush = _Flush(self._number, self._unfinished)
        self._flushes.append(flush)
        try:
            async with asyncio.timeout(timeout):
                await flush.done.wait()
        except TimeoutError:
            return False
        finally:
            self._flushes.remove(flush)
        return True

    async def close(self) -> None:
        """End; what is left is dropped."""
        self._closed = True
        left = len(self._waiting)
        self.dropped += left
        self._unfinished -= left
        self._waiting.clear()
        await self._senders.close()
