"""Load limits of a back-end: so many calls at once, a short queue, and beyond it an honest "not started, go
elsewhere".

A long queue would only make calls late for their deadlines, where another back-end may be idle: NATS picks the member
of a queue group at random, so refusing at once is what balances the load.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from rpc.deadline import EXCEEDED
from rpc.status import Refusal, StatusCode

if TYPE_CHECKING:
    from rpc.call import Call, Handler

DEFAULT_CONCURRENCY = 1000
"""Calls that run at once in one back-end, unless it says otherwise."""

DEFAULT_QUEUE = 100
"""Calls that wait for their turn in one back-end, unless it says otherwise."""


class ConcurrencyLimit:
    """Runs at most ``limit`` calls at once and lets at most ``queue`` more wait, first come first served."""

    def __init__(self, limit: int, queue: int) -> None:
        if limit < 1 or queue < 0:
            msg = f"concurrency must be at least 1 and the queue at least 0 (got {limit} and {queue})"
            raise ValueError(msg)
        self.limit = limit
        self.queue = queue
        self.running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many calls stand in the queue."""
        return len(self._waiting)

    async def __call__(self, call: Call, handler: Handler) -> None:
        """Run the call, perhaps after a wait. Raises ``Refusal`` when the queue is full."""
        if self.running >= self.limit:
            await self._wait_for_turn(call)
        else:
            self.running += 1
        try:
            await handler(call)
        finally:
            self._hand_over()

    async def _wait_for_turn(self, call: Call) -> None:
        if len(self._waiting) >= self.queue:
            details = f"the back-end is busy ({self.limit} calls at once, {self.queue} waiting)"
            raise Refusal(details, "queue-full")
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        timer: asyncio.TimerHandle | None = None
        if call.deadline is not None:  # What expires here must not keep others out of the queue.
            timer = loop.call_at(call.deadline, call.cancel, StatusCode.DEADLINE_EXCEEDED, EXCEEDED)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._hand_over()  # The turn was given to us just before we were cancelled.
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def refuse_waiting(self) -> None:
        """Send away all calls that wait for their turn: no handler has seen them, so they may go elsewhere."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(Refusal("the back-end is stopping", "draining"))

    def _hand_over(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # Our place goes to it: ``running`` stays as it is.
                return
        self.running -= 1
