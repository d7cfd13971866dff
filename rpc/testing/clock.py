"""Time for tests: it stands still until a test lets it pass, so deadlines and retries need no waiting."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from rpc.policy.deadline import clock_changed

T = TypeVar("T")

_MAX_ROUNDS = 100_000
"""Rounds of the event loop after which a test that never comes to rest is told so."""


class _Timer(asyncio.TimerHandle):
    """One ``call_at`` that waits for the fake time. It stands on nothing private of asyncio's or uvloop's handles."""

    def __init__(
        self,
        when: float,
        order: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        # The context is the one of the moment when the timer is made, not when it fires.
        context = context or contextvars.copy_context()
        super().__init__(when, callback, args, loop, context)
        self._order = (when, order)
        self._fire_in = context
        self._work: tuple[Callable[..., object], tuple[Any, ...]] | None = (callback, args)
        self._soon = loop

    def __lt__(self, other: object) -> bool:
        return self._order < other._order if isinstance(other, _Timer) else NotImplemented

    def cancel(self) -> None:
        self._work = None

    def cancelled(self) -> bool:
        return self._work is None

    def fire(self) -> None:
        self._soon.call_soon(self._do, context=self._fire_in)

    def _do(self) -> None:
        if self._work is not None:
            callback, args = self._work
            callback(*args)


class FakeClock:
    """Takes over the time of the running event loop: ``loop.time()``, ``call_later``, ``call_at``, and so asyncio's
    ``sleep``, ``timeout`` and ``wait_for``, and every deadline of natsmesh.

        async with FakeClock() as clock:
            call = stub.SayHello(request, timeout=5)
            await clock.advance(4.9)
            assert not call.done()
            await clock.advance(0.1)
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    It is for code that lives in one event loop: a ``MemoryMesh``, coroutines, timers. Sockets, threads and other
    processes keep their own time; a test that waits for them cannot use a fake one. ``time.time()`` and
    ``time.monotonic()`` are not touched. It works with asyncio's loops and with uvloop.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._now = 0.0
        self._timers: list[_Timer] = []
        self._sequence = 0
        self._scheduled = 0

    def time(self) -> float:
        """Return the fake time in seconds; it begins with the loop's real one."""
        return self._now

    # ----------------------------------------------------------------------------------------- taking over the loop

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("this FakeClock is in use already")
        self._loop = loop = asyncio.get_running_loop()
        self._now = loop.time()
        self._call_soon = loop.call_soon
        replacements: dict[str, Callable[..., Any]] = {
            "time": self.time,
            "call_at": self._call_at,
            "call_later": self._call_later,
            "call_soon": self._count_call_soon,
        }
        for name, replacement in replacements.items():
            setattr(loop, name, replacement)
        clock_changed(loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = self._running_loop()
        for name in ("time", "call_at", "call_later", "call_soon"):
            delattr(loop, name)
        self._loop = None
        clock_changed(loop)
        # Who still waits gets real time for the rest of it.
        timers, self._timers = self._timers, []
        for timer in timers:
            if not timer.cancelled():
                loop.call_later(max(0.0, timer.when() - self._now), timer.fire)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("this FakeClock is not in use: write `async with FakeClock() as clock:`")
        return self._loop

    def _call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self._call_at(self._now + delay, callback, *args, context=context)

    def _call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        self._sequence += 1
        timer = _Timer(when, self._sequence, callback, args, self._running_loop(), context)
        if when <= self._now:
            timer.fire()
        else:
            heapq.heappush(self._timers, timer)
        return timer

    def _count_call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        self._scheduled += 1
        return self._call_soon(callback, *args, context=context)

    # ------------------------------------------------------------------------------------------- letting time pass

    async def advance(self, seconds: float) -> None:
        """Let so much time pass: what is due on the way happens in its order, and all that follows from it.

        Returns when nothing is left to do at the new time.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back (got {seconds})")
        end = self._now + seconds
        await self._settle()
        while (timer := self._next()) is not None and timer.when() <= end:
            self._now = timer.when()
            await self._fire_due()
        self._now = end
        await self._fire_due()

    async def run(self, work: Awaitable[T]) -> T:
        """Await something to its end and return its result; whenever all wait for time, it jumps to what is due next.

        Raises ``RuntimeError`` when everyone waits, but nobody for time: that would last for ever.
        """

        async def wait() -> T:
            return await work

        task = self._running_loop().create_task(wait())
        try:
            await self._settle()
            while not task.done():
                timer = self._next()
                if timer is None:
                    raise RuntimeError("all tasks wait, and none of them for time: the test would hang")
                self._now = timer.when()
                await self._fire_due()
        finally:
            if not task.done():
                task.cancel()
                await self._settle()
        return task.result()

    def _next(self) -> _Timer | None:
        while self._timers and self._timers[0].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0] if self._timers else None

    async def _fire_due(self) -> None:
        while (timer := self._next()) is not None and timer.when() <= self._now:
            heapq.heappop(self._timers).fire()
            await self._settle()

    async def _settle(self) -> None:
        """Return once the loop has nothing to do any more but wait."""
        self._running_loop()
        for _ in range(_MAX_ROUNDS):
            before = self._scheduled
            await asyncio.sleep(0)
            # One round runs all that was ready. If it was only us who asked for another one, the rest is at rest.
            if self._scheduled == before + 1:
                return
        raise RuntimeError("the event loop never comes to rest: something calls itself again and again without waiting")
