"""How the response to a stream begins, whatever the protocol.

Its head is held until the first message or the end, because what is known by then stands in it: a status, metadata. But
a back-end may send initial metadata by itself, long before it has a message: that is for the client at once.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Final

from rpc import Metadata, OpenCall

HEAD_PATIENCE: Final = 0.01
"""Seconds between initial metadata and the head of the response: a message or an end that comes sooner goes with it."""


class Silence(enum.Enum):
    """In the place of a message: there was none so far."""

    SILENCE = enum.auto()


SILENCE: Final = Silence.SILENCE


async def beginning(opened: OpenCall, patience: float | None = None) -> tuple[Metadata, bytes | Silence | None]:
    """Wait for a reason to begin the response: return the initial metadata and the first message.

    The message is None when the call has ended with OK, and ``SILENCE`` when the head is due without one: because
    initial metadata came alone, or nothing at all for ``patience`` seconds. Raises ``StatusError``.
    """
    try:
        async with asyncio.timeout(patience):
            headers = await opened.headers()
    except TimeoutError:
        return (), SILENCE
    return headers, await next_message(opened, HEAD_PATIENCE)


async def next_message(opened: OpenCall, patience: float | None) -> bytes | Silence | None:
    """Return the next message, None after the last, or ``SILENCE`` when there is none for so many seconds.

    Raises ``StatusError``.
    """
    if patience is None:
        return await opened.read()
    try:
        async with asyncio.timeout(patience):
            return await opened.read()
    except TimeoutError:
        return SILENCE
