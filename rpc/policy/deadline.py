"""Deadlines: a call ends when its time is up, wherever it is; what is expired already is not started at all."""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from rpc.deadline import EXCEEDED
from rpc.status import StatusCode, StatusError

if TYPE_CHECKING:
    from rpc.call import Call, Handler

_all: WeakSet[Deadlines] = WeakSet()

_MANY_ENDED = 512
"""Ended calls that are kept in the heap at least, before it is made anew without them."""


class Deadlines:
    """Cancels calls with DEADLINE_EXCEEDED at their deadlines; the same on both sides. One for each stack.

    Nearly all calls end long before their deadlines. A timer of the event loop for each would cost more than all else
    here; so there is one timer, for the earliest, and a heap for the others.
    """

    def __init__(self) -> None:
        self._heap: list[list[Any]] = []
        """``[deadline, number, call]``, earliest first; the call is None once it has ended."""
        self._ended = 0
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = inf
        self._loop: asyncio.AbstractEventLoop | None = None
        _all.add(self)

    async def __call__(self, call: Call, handler: Handler) -> None:
        """Pass the call on, until its deadline. Raises ``StatusError`` when that is over already."""
        deadline = call.deadline
        if deadline is None:
            await handler(call)
            return
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        if loop.time() >= deadline:
            raise StatusError(StatusCode.DEADLINE_EXCEEDED, EXCEEDED)
        if self._ended == len(self._heap):
            self._heap.clear()
            self._ended = 0
        self._number += 1
        entry = [deadline, self._number, call]
        heappush(self._heap, entry)
        if deadline < self._wake_at:
            self._set_timer(loop)
        try:
            await handler(call)
        finally:
            if entry[2] is not None:
                entry[2] = None
                self._ended += 1
                if self._ended > _MANY_ENDED and self._ended * 2 > len(self._heap):
                    self._forget_ended()

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the earliest deadline, be it that of a call which has ended: waking in vain is cheaper than this."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._wake_at = inf
        if self._heap:
            self._wake_at = self._heap[0][0]
            self._timer = loop.call_at(self._wake_at, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel what is due, and pass over what has ended, whenever it was due."""
        heap, now = self._heap, loop.time()
        due: list[Call] = []
        while heap and (heap[0][2] is None or heap[0][0] <= now):
            entry = heappop(heap)
            call, entry[2] = entry[2], None
            if call is None:
                self._ended -= 1
            else:
                due.append(call)
        # First, so that nothing that happens below can leave the others without a timer.
        self._set_timer(loop)
        for call in due:
            call.cancel(StatusCode.DEADLINE_EXCEEDED, EXCEEDED)

    def _forget_ended(self) -> None:
        self._heap = [entry for entry in self._heap if entry[2] is not None]
        heapify(self._heap)
        self._ended = 0

    def new_clock(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait by the time that the loop has now."""
        if loop is self._loop:
            self._set_timer(loop)


def clock_changed(loop: asyncio.AbstractEventLoop) -> None:
    """Have all deadlines wait by the time that the loop has now: a test has given it another clock."""
    for deadlines in list(_all):
        deadlines.new_clock(loop)
