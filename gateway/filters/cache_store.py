"""Responses that are kept for a while: bounded in number, in bytes and in time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

_COST: Final = 500
"""Bytes that an entry takes besides what is in it, about."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A response with status 200."""

    headers: list[tuple[bytes, bytes]]
    tag: bytes
    body: bytes
    since: float
    until: float
    """By the event loop's clock."""

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return _COST + len(self.body) + sum(len(name) + len(value) + 100 for name, value in self.headers)


class CacheStore:
    """Forgets first what nobody has asked for longest."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Stored, int]] = OrderedDict()
        self.size = 0
        """Bytes that all entries take, about."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, now: float) -> Stored | None:
        """Return what is kept under a key and not too old."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found[0].until <= now:
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, stored: Stored, key_size: int) -> None:
        """Keep a response, unless it is larger than all that may be kept."""
        size = stored.size + key_size
        self._forget(key)
        if size > self._max_bytes or not self._max_entries:
            return
        self._entries[key] = stored, size
        self.size += size
        while self.size > self._max_bytes or len(self._entries) > self._max_entries:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: Hashable) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self.size -= found[1]
