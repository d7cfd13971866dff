"""Runs a handler on behalf of a message: to its end, its cancellation, or the stop of its server."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from rpc.call import Call, Handler
from rpc.context import UnreadableError
from rpc.status import StatusCode, StatusError

logger = logging.getLogger(__name__)


class StoppedError(Exception):
    """The server stopped before the handler ended: whatever it did, it has not said so."""


async def run(call: Call, handler: Handler) -> StatusError | None:
    """Run a handler in the current task, and return what it ended with: None for OK.

    Raises ``StoppedError`` when the task was cancelled for any other reason than the call's own cancellation.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    error: StatusError | None = None

    def cancel(_error: StatusError) -> None:
        task.cancel()

    try:
        call.on_cancel(cancel)
        await handler(call)
    except UnreadableError as failure:
        # To a caller that is UNKNOWN, as in grpc.aio. What waits in a queue does not become readable by waiting.
        error = StatusError(StatusCode.INVALID_ARGUMENT, failure.details)
    except StatusError as failure:
        error = failure
    except asyncio.CancelledError:
        if call.cancelled is None:
            if task.cancelling():
                raise StoppedError from None
            logger.exception("a handler of %s was cancelled from inside", call.info.full_name)
            error = StatusError(StatusCode.UNKNOWN, "the handler was cancelled from inside")
    except Exception:
        logger.exception("unexpected error in a call of %s", call.info.full_name)
        error = StatusError(StatusCode.UNKNOWN, f"Unexpected exception in {call.info.full_name}")
    finally:
        call.on_cancel(None)
    if call.cancelled is not None:
        # The cancellation is taken in here: what follows must not get it.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        while task.cancelling():
            task.uncancel()
        return call.cancelled
    return error
