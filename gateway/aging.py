"""Things that are nobody's concern while they are young: most requests are over before anyone would have looked.

A timer per request costs more than it is worth when nearly all are cancelled at once. Here one timer serves all: it
moves on every ``interval`` seconds, and what it finds for the second time is old. Adding and removing is a
dictionary's work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Aging(Generic[K, V]):
    """A table whose entries are handed to ``on_old`` when they are between one and two ``interval`` seconds old."""

    __slots__ = ("_interval", "_old", "_on_old", "_timer", "_young")

    def __init__(self, interval: float, on_old: Callable[[K, V], None]) -> None:
        self._interval = interval
        self._on_old = on_old
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, key: K, value: V) -> None:
        """Add an entry, new-born."""
        self._young[key] = value
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)

    def remove(self, key: K) -> bool:
        """Remove an entry. Returns False when it was handed over before."""
        return self._young.pop(key, None) is not None or self._old.pop(key, None) is not None

    def _look(self) -> None:
        old, self._old, self._young = self._old, self._young, {}
        busy = self._old
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look) if busy else None
        for key, value in old.items():
            self._on_old(key, value)

    def close(self) -> None:
        """Forget everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._young.clear()
        self._old.clear()
