"""Deadlines: a call ends when its time is up, wherever it is; what is expired already is not started at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rpc.deadline import EXCEEDED
from rpc.status import StatusCode, StatusError

if TYPE_CHECKING:
    from rpc.call import Call, Handler


async def enforce_deadline(call: Call, handler: Handler) -> None:
    """Cancel the call with DEADLINE_EXCEEDED at its deadline; the same on both sides."""
    if call.deadline is None:
        await handler(call)
        return
    loop = asyncio.get_running_loop()
    if loop.time() >= call.deadline:
        raise StatusError(StatusCode.DEADLINE_EXCEEDED, EXCEEDED)
    timer = loop.call_at(call.deadline, call.cancel, StatusCode.DEADLINE_EXCEEDED, EXCEEDED)
    try:
        await handler(call)
    finally:
        timer.cancel()
