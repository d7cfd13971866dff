"""Requests to JetStream that are repeated while it has no leader or is not up yet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

from rpc.jetstream.api import JetStreamError

T = TypeVar("T")

_PASSING: Final = frozenset({10004, 10007, 10008, 10009, 10075})
"""JetStream's codes for a cluster that is about to elect a leader, or to place a stream."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class Requests(Protocol):
    """What is needed of ``rpc.jetstream.api.JetStream`` to look after streams."""

    async def request(
        self, subject: str, body: dict[str, Any] | None = None, *, timeout: float = 5.0
    ) -> dict[str, Any]:
        """Ask ``$JS.API.<subject>``."""
        ...


def is_passing(error: JetStreamError) -> bool:
    """Return whether the same request may well succeed a moment later."""
    return error.err_code in _PASSING


async def patiently(what: str, work: Callable[[], Awaitable[T]], timeout: float) -> T:
    """Do some work that may be done again, until JetStream could be reached for all of it.

    Raises ``ConnectionError`` with the last cause when ``timeout`` seconds are over.
    """
    last: Exception | None = None
    pause = _FIRST_PAUSE
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return await work()
                except ConnectionError as error:
                    last = error
                except JetStreamError as error:
                    if not is_passing(error):
                        raise
                    last = error
                await asyncio.sleep(pause * (0.5 + random.random()))
                pause = min(2 * pause, _LONGEST_PAUSE)
    except TimeoutError:
        why = last or "JetStream did not answer"
        raise ConnectionError(f"{what}: {why}; this was tried for {timeout:g} s") from last
