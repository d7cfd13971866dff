"""Feeds the messages of a consumer to a handler: so many at once, with signs of life, and a stop that loses none."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Final

from rpc.jetstream.pull import PullConsumer, PulledMessage, in_progress, retry_after, settle
from rpc.tasks import TaskSet
from rpc.transport.base import Connection

logger = logging.getLogger(__name__)

Messages = Sequence[PulledMessage]
Handle = Callable[[Messages], Awaitable[Coroutine[None, None, None] | None]]

PREFETCH_SECONDS: Final = 0.05
"""Work of so many seconds is fetched ahead: with short handlers the round trip to the broker would rule, with long ones
a message would wait behind a busy worker while another one is idle."""

MAX_PREFETCH: Final = 512

MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Bytes of messages that wait for their handler, about; for a batch that has half of it no further are waited for."""

PATIENCE: Final = 0.5
"""Seconds that messages which were fetched ahead wait for a place, where they may be given back: what was short so far
may be long now, and others may have nothing to do."""

MAX_SETTLING: Final = 64
"""Messages that were handled, and of which the broker is being told, beside those that are being handled."""

_WEIGHT: Final = 0.2
_FIRST_REQUEST: Final = 64
"""Messages that are asked for at first, when nothing is known of their size."""


class Feed:
    """Calls ``handle`` with the messages of one consumer, one or a batch at a time; ``concurrency`` calls at once.

    ``handle`` settles its messages, whatever happens; when it is cancelled (the grace of a stop is over) it gives them
    back. What it returns, if it does, is the rest of that work: it is done while the next messages are handled already.
    ``release`` gives back a message that came but was not begun.
    """

    def __init__(  # noqa: PLR0913 - what a consumer and its worker are made of
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        *,
        handle: Handle,
        release: Callable[[PulledMessage], Awaitable[None]],
        repair: Callable[[], Awaitable[None]],
        ack_wait: float,
        concurrency: int = 1,
        batch: int = 1,
        batch_wait: float = 0.0,
        prefetches: bool = True,
        gives_back: bool = False,
    ) -> None:
        """``ack_wait``: seconds without a sign of life after which the broker delivers a message again.

        ``prefetches``: whether messages may be fetched before there is a place for them; ``gives_back``: whether they
        are released when there is none for long.
        """
        self._connection = connection
        self._name = f"{stream}/{consumer}"
        self._handle = handle
        self._release = release
        self._ack_wait = ack_wait
        self._concurrency = concurrency
        self._batch = batch
        self._batch_wait = batch_wait
        self._prefetches = prefetches
        self._gives_back = gives_back
        self._moved = 0.0
        """When a call of the handler has begun or ended last."""
        self._pull = PullConsumer(
            connection, stream, consumer, self._receive, repair=repair, max_bytes=MAX_WAITING_BYTES
        )
        self._waiting: deque[PulledMessage] = deque()
        self._waiting_bytes = 0
        self._mean_size = MAX_WAITING_BYTES / _FIRST_REQUEST
        self._held: dict[int, PulledMessage] = {}
        """What we answer for, by its place in the stream: what waits and what is being handled."""
        self._handling = TaskSet()
        self._running = 0
        self._tasks = TaskSet()
        self._batch_timer: asyncio.TimerHandle | None = None
        self._batch_is_due = False
        self._mean = 0.0
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop
        self._context: contextvars.Context
        """That of whoever started us: what one handler leaves in its own, the next one must not find."""

    @property
    def running(self) -> int:
        """How many messages or batches are not done with."""
        return len(self._handling)

    async def start(self) -> None:
        """Begin. The connection is connected already, stream and consumer exist."""
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        await self._pull.start()
        self._tasks.spawn(self._give_signs_of_life(), name="natsmesh-in-progress")
        if self._gives_back and self._prefetches:
            self._tasks.spawn(self._give_back_what_waits(), name="natsmesh-give-back")
        self._ask()

    async def stop_pulling(self) -> None:
        """Take no further messages, and give back those that were not begun."""
        self._stopping = True
        if self._batch_timer is not None:
            self._batch_timer.cancel()
        await self._pull.stop()
        while self._waiting:
            message = self._waiting.popleft()
            self._held.pop(message.sequence, None)
            await self._release(message)

    async def wait_idle(self, timeout: float) -> None:
        """Wait until no handler runs, ``timeout`` seconds at most."""
        await self._handling.wait(timeout)

    async def close(self) -> None:
        """End the handlers that still run; each gives its messages back."""
        if not self._stopping:
            await self.stop_pulling()
        await asyncio.sleep(0)  # A task that is cancelled before it has begun cannot give anything back.
        await self._handling.close(timeout=5.0)
        await self._tasks.close()

    # ------------------------------------------------------------------------------------------------- one by one

    def _receive(self, message: PulledMessage) -> None:
        held = self._held.get(message.sequence)
        if held is not None and not held.is_settled:
            self._ask()  # It took a place that was asked for.
            return  # Delivered again although we have it: our signs of life came late, or the broker was away.
        self._held[message.sequence] = message
        self._waiting.append(message)
        size = len(message.data)
        self._waiting_bytes += size
        self._mean_size += _WEIGHT * (size - self._mean_size)
        self._pump()

    def _pump(self) -> None:
        while self._waiting and not self._stopping and self._running < self._concurrency and self._is_due():
            messages = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            self._waiting_bytes -= sum(len(message.data) for message in messages)
            self._running += 1
            self._context.run(self._handling.spawn, self._run(messages))
        self._ask()

    def _is_due(self) -> bool:
        is_full = len(self._waiting) >= self._batch or 2 * self._waiting_bytes >= MAX_WAITING_BYTES
        if self._batch == 1 or is_full or self._batch_is_due:
            self._batch_is_due = False
            if self._batch_timer is not None:
                self._batch_timer.cancel()
                self._batch_timer = None
            return True
        if self._batch_timer is None:
            self._batch_timer = self._loop.call_later(self._batch_wait, self._end_batch)
        return False

    def _end_batch(self) -> None:
        self._batch_timer = None
        self._batch_is_due = True
        self._pump()

    def _ask(self) -> None:
        if not self._stopping:
            room = (self._concurrency - self._running) * self._batch + self._prefetch()
            free = min(room - len(self._waiting), self._byte_room())
            if free <= 0 < room and not self._waiting:
                free = 1  # It is larger than all that may wait.
            self._pull.want(max(0, free), max(1, min(room, free + len(self._waiting)) // 2))

    def _byte_room(self) -> int:
        """How many further messages may wait, as large as the last ones."""
        return int((MAX_WAITING_BYTES - self._waiting_bytes) / max(self._mean_size, 1.0))

    def _prefetch(self) -> int:
        if not self._prefetches:
            return 0
        if self._batch > 1:
            return self._batch
        if self._mean <= 0.0:
            return 0
        return min(MAX_PREFETCH, int(self._concurrency * PREFETCH_SECONDS / self._mean))

    async def _run(self, messages: list[PulledMessage]) -> None:
        started = self._moved = self._loop.time()
        has_place = True

        def leave_place() -> None:
            self._moved = self._loop.time()
            took = self._moved - started
            self._mean = took if self._mean <= 0.0 else self._mean + _WEIGHT * (took - self._mean)
            self._running -= 1
            self._pump()

        try:
            rest = await self._handle(messages)
            if rest is not None:
                if len(self._handling) < self._concurrency + MAX_SETTLING:
                    has_place = False
                    leave_place()
                await rest
        except Exception:
            # Our own bug: the messages are not settled, and come again after their ack_wait.
            logger.exception("%s: a message could not be handled", self._name)
        finally:
            for message in messages:
                if self._held.get(message.sequence) is message:
                    del self._held[message.sequence]
            if has_place:
                leave_place()

    async def _give_back_what_waits(self) -> None:
        while True:
            await asyncio.sleep(PATIENCE)
            if not self._waiting or self._loop.time() - self._moved < PATIENCE:
                continue
            self._mean = max(self._mean, PATIENCE)  # Nothing is fetched ahead until they are short again.
            while self._waiting and self._running >= self._concurrency:
                message = self._waiting.popleft()
                self._waiting_bytes -= len(message.data)
                await self._release(message)
                if self._held.get(message.sequence) is message:  # It may have come again meanwhile.
                    del self._held[message.sequence]

    async def _give_signs_of_life(self) -> None:
        while True:
            await asyncio.sleep(self._ack_wait / 3)
            for message in list(self._held.values()):
                if not message.is_settled:  # It would take back what has been said of it.
                    await settle(self._connection, message, in_progress())


async def give_back(connection: Connection, message: PulledMessage, delay: float = 0.0) -> None:
    """Have a message delivered again, after ``delay`` seconds."""
    await settle(connection, message, retry_after(delay))
