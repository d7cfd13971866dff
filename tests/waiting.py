"""Waiting for a state, as all tests do it: not for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait until ``condition()`` (it may be a coroutine's) is true, and return what it gave; fail after so long."""
    limit = time.monotonic() + seconds
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < limit, f"still not so after {seconds} s"
        await asyncio.sleep(0.005)
