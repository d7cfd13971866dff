"""Sending a call again: always when it was never started, and when the method's ``.proto`` says that repeating is
safe.

- A refusal ("never started": queue full, draining) is sent again at once, then with growing pauses, until the
  deadline.
- "No responders" and "not connected" end the call at once, unless the caller chose ``wait_for_ready``.
- UNAVAILABLE of a call that may have run is sent again only for IDEMPOTENT and NO_SIDE_EFFECTS methods.

A retry budget, as in tower and linkerd, keeps retries from multiplying an overload: each first attempt earns some
(``BUDGET_RATIO``), and without credit the refusal is the answer. Source of the rules: gRPC A6 (transparent retries,
wait-for-ready).
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from rpc import telemetry
from rpc.method import IdempotencyLevel
from rpc.status import Refusal, StatusCode, StatusError

if TYPE_CHECKING:
    from rpc.call import Call, Handler

FIRST_PAUSE = 0.001
LONGEST_PAUSE = 0.25
MAX_REFUSED_SECONDS = 5.0
"""How long a call without a deadline is offered again and again."""

MAX_ATTEMPTS = 3
"""Attempts of an idempotent call that may have run; gRPC's service config allows 5 at most."""

BUDGET_RATIO = 2.0
"""Retries that each call earns: with it, the work of refusing stays below the work of serving."""

BUDGET_LIMIT = 1000.0
"""Retries that can be saved up."""

_WAITS_FOR_READY = frozenset({"no-responders", "not-connected"})


class Retry:
    """The client's retry policy, with the budget that all calls of a channel share."""

    def __init__(self) -> None:
        self._budget = BUDGET_LIMIT

    async def __call__(self, call: Call, handler: Handler) -> None:
        """Pass the call on; most calls never come back here."""
        if self._budget < BUDGET_LIMIT:
            self._budget += BUDGET_RATIO
        try:
            await handler(call)
        except StatusError as error:
            if not _may_be_repeated(call, error):
                raise
            await self._again(call, handler, error)

    async def _again(self, call: Call, handler: Handler, error: StatusError) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + MAX_REFUSED_SECONDS
        pause = 0.0
        runs = 0
        while True:
            if isinstance(error, Refusal):
                if error.reason in _WAITS_FOR_READY:
                    if not call.wait_for_ready:
                        raise _final(error, runs)
                elif self._budget < 1 or (call.deadline is None and loop.time() > give_up):
                    raise _final(error, runs)
                else:
                    self._budget -= 1
            else:
                runs += 1
                if runs >= MAX_ATTEMPTS or call.info.idempotency is IdempotencyLevel.UNKNOWN or self._budget < 1:
                    raise error
                self._budget -= 1
            telemetry.attempt_failed(error, call.attempt, pause)
            failures = call.attempt
            try:
                await self._pause(call, pause)
                pause = min(LONGEST_PAUSE, pause * 2) if pause else FIRST_PAUSE
                call.attempt += 1
                # What came with the failure is no part of the answer to come.
                call.initial_metadata = call.trailing_metadata = ()
                await handler(call)
            except StatusError as next_error:
                if next_error is call.cancelled and next_error.code is StatusCode.DEADLINE_EXCEEDED:
                    raise _too_late(next_error, failures, error) from error
                if not _may_be_repeated(call, next_error):
                    raise
                error = next_error
            else:
                return

    @staticmethod
    async def _pause(call: Call, seconds: float) -> None:
        """Sleep with jitter; a cancellation or the deadline ends it. Raises the reason."""
        if not seconds:
            return
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def stop(error: StatusError) -> None:
            if not over.done():
                over.set_exception(error)

        call.on_cancel(stop)

        def wake() -> None:
            if not over.done():
                over.set_result(None)

        timer = loop.call_later(seconds * random.uniform(0.5, 1.5), wake)
        try:
            await over
        finally:
            timer.cancel()
            call.on_cancel(None)


def _may_be_repeated(call: Call, error: StatusError) -> bool:
    """Tell whether anything may be done about a failure; once a stream has begun, its messages are out of our hands."""
    begun = call.stream is not None and not call.info.is_unary
    return error.code is StatusCode.UNAVAILABLE and call.cancelled is None and not begun


def _final(refusal: Refusal, runs: int) -> StatusError:
    """Return what is told of the last attempt: "never started" must not be said of a call that another one may have."""
    return StatusError(refusal.code, refusal.details) if runs else refusal


def _too_late(deadline: StatusError, failures: int, last: StatusError) -> StatusError:
    """Return what is told when the deadline ends the repeating: with the reason why it was repeated at all."""
    how = "refused" if isinstance(last, Refusal) else "failed"
    times = "once" if failures == 1 else f"{failures} times"
    return StatusError(deadline.code, f"{deadline.details} ({how} {times}: {last.details})")
