"""Counting requests: the generic cell rate algorithm, one number for each caller.

That number is the time at which a caller's quota is whole again; it moves on by ``interval`` with each request, and a
request is refused that would move it further ahead than a whole ``burst``. So at most ``burst`` requests pass at once,
and ``limit`` a window in the long run. Source: ITU-T I.371, Annex A ("virtual scheduling algorithm").
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, NamedTuple

_ROUNDING: Final = 1e-6
"""Requests; sums of intervals are not exact."""


class Quota:
    """What a caller may do."""

    __slots__ = ("burst", "interval", "limit", "whole", "window")

    def __init__(self, limit: int, window: float, burst: int | None) -> None:
        """``limit`` requests in ``window`` seconds, ``burst`` of them at once (None: all of them)."""
        self.limit = limit
        self.window = window
        self.burst = limit if burst is None else burst
        self.interval = window / limit
        """Seconds for one more request."""
        self.whole = self.burst * self.interval
        """Seconds after which a quota that was used up is whole again."""

    def left(self, ahead: float) -> int:
        """Return the requests that may follow at once while the quota is whole again in ``ahead`` seconds."""
        return max(0, math.floor((self.whole - ahead) / self.interval + _ROUNDING))

    def wait(self, ahead: float) -> float:
        """Return the seconds until one more request may follow."""
        return max(0.0, ahead + self.interval - self.whole)


class Decision(NamedTuple):
    """What became of one request."""

    is_allowed: bool
    left: int
    """Requests that may follow at once."""
    wait: float
    """Seconds until there is another one, when there is none."""
    reset: float
    """Seconds until the quota is whole again."""


class LocalTable:
    """The callers of one rule in this process; those of longest ago are forgotten when there are too many."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._whole_at: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._whole_at)

    def take(self, key: Hashable, quota: Quota, now: float) -> Decision:
        """Count a request, unless it is refused. ``now`` is in seconds, of any clock that goes on evenly."""
        whole_at = self._whole_at
        ahead = max(0.0, whole_at.get(key, 0.0) - now)
        is_allowed = quota.left(ahead) > 0
        if is_allowed:
            ahead += quota.interval
            whole_at[key] = now + ahead
            whole_at.move_to_end(key)
            if len(whole_at) > self._max_entries:
                whole_at.popitem(last=False)
        return Decision(is_allowed, quota.left(ahead), quota.wait(ahead), ahead)

    def give_back(self, key: Hashable, quota: Quota) -> None:
        """Let a request not have been counted."""
        if key in self._whole_at:
            self._whole_at[key] -= quota.interval
