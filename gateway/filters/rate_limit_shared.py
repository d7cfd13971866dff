"""Limits that gateways and workers share, by a key-value bucket of JetStream.

To ask the bucket for every request would cost a round trip each. So a process takes a lease: a tenth of what may pass
at once, by compare-and-set, and gives that out by itself; a caller that is refused is refused without asking until it
may be different. How exact that is, ``docs/auth.md`` says. While the bucket cannot be had, each process counts by
itself, or refuses, and nobody waits for it for longer than ``PATIENCE``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import struct
import time
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from typing import Final, Literal

from gateway.errors import HttpError
from gateway.filters.rate_limit_table import Decision, LocalTable, Quota
from rpc import KeyValue, RevisionError, StatusCode

logger = logging.getLogger(__name__)

PATIENCE: Final = 0.5
"""Seconds that a request may wait for the bucket."""

PAUSE: Final = 1.0
"""Seconds after a failure in which nobody asks it."""

ATTEMPTS: Final = 10
"""Compare-and-sets of one lease, when others change the same key."""

LEASE_SHARE: Final = 10
"""A lease is this fraction of what may pass at once, and at most ``MAX_LEASE`` requests."""

MAX_LEASE: Final = 100

_VALUE = struct.Struct(">d")


class Away:
    """Whether the bucket can be had just now: one for all rules, so that one request finds out and not each."""

    def __init__(self) -> None:
        self._until = 0.0
        self._is_away = False

    def __bool__(self) -> bool:
        """True: it was not to be had a moment ago."""
        return time.monotonic() < self._until

    def failed(self, error: Exception) -> None:
        """Note that it could not be had; the log has it once."""
        self._until = time.monotonic() + PAUSE
        if not self._is_away:
            self._is_away = True
            logger.warning("shared rate limits: the bucket cannot be had: %s", error)

    def worked(self) -> None:
        """Note that it could."""
        if self._is_away:
            self._is_away = False
            logger.info("shared rate limits: the bucket can be had again")


class _Lease:
    """What this process has of one caller's quota."""

    __slots__ = ("ends", "left", "refused_until", "renewal", "revision", "tokens", "whole_at")

    def __init__(self) -> None:
        self.tokens = 0
        self.ends = 0.0
        """When the tokens are worth nothing any more (monotonic)."""
        self.left = 0
        """What was in the bucket besides."""
        self.refused_until = 0.0
        """Until then there is nothing to be had (monotonic)."""
        self.renewal: asyncio.Task[None] | None = None
        self.revision = 0
        self.whole_at = 0.0
        """The bucket's value at that revision (seconds since the epoch)."""


class SharedTable:
    """The callers of one rule, wherever they call."""

    def __init__(
        self, bucket: KeyValue, rule: str, max_entries: int, away: Away, when_away: Literal["open", "closed"]
    ) -> None:
        self._bucket = bucket
        self._rule = rule
        self._max_entries = max_entries
        self._away = away
        self._is_open = when_away == "open"
        self._leases: OrderedDict[Hashable, _Lease] = OrderedDict()
        self._alone = LocalTable(max_entries)
        self._renewals: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def close(self) -> None:
        """Ask for nothing any more."""
        self._is_closed = True
        for task in list(self._renewals):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def take(self, key: Hashable, quota: Quota) -> Decision:
        """Count a request, unless it is refused. Raises ``HttpError`` 503 when nobody knows, if the options say so."""
        lease = self._lease(key)
        limit = time.monotonic() + PATIENCE
        while True:
            now = time.monotonic()
            decision = _decide(lease, quota, now)
            if decision is not None:
                return decision
            if self._is_closed or self._away or now >= limit:
                return self._without(key, quota)
            if lease.renewal is None or lease.renewal.done():
                lease.renewal = self._renew_later(key, quota, lease)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + limit - now):
                    await asyncio.wait([lease.renewal])

    def give_back(self, key: Hashable) -> None:
        """Let a request not have been counted."""
        lease = self._leases.get(key)
        if lease is not None:
            lease.tokens += 1

    def _lease(self, key: Hashable) -> _Lease:
        leases = self._leases
        lease = leases.get(key)
        if lease is None:
            lease = leases[key] = _Lease()
            if len(leases) > self._max_entries:
                leases.popitem(last=False)
        leases.move_to_end(key)
        return lease

    def _without(self, key: Hashable, quota: Quota) -> Decision:
        if self._is_open:
            return self._alone.take(key, quota, time.monotonic())
        raise HttpError(
            StatusCode.UNAVAILABLE,
            "the gateway cannot find out whether this is too often: try again",
            headers=[(b"retry-after", b"1")],
        )

    # ------------------------------------------------------------------------------------------------- the bucket

    def _renew_later(self, key: Hashable, quota: Quota, lease: _Lease) -> asyncio.Task[None]:
        """Get a new lease, in a task that all who wait for it share."""

        async def renew() -> None:
            try:
                await self._renew(key, quota, lease)
                self._away.worked()
            except ConnectionError as error:
                self._away.failed(error)
            except Exception:
                self._away.failed(RuntimeError("a failure of the gateway's own"))
                logger.exception("shared rate limits: %s", self._rule)

        task = asyncio.create_task(renew(), name="gateway-rate-limit")
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)
        return task

    async def _renew(self, key: Hashable, quota: Quota, lease: _Lease) -> None:
        """Take tokens out of the bucket, or learn when there are some. Raises ``ConnectionError``."""
        name = f"{self._rule}.{_digest(key)}"
        is_fresh = lease.revision > 0  # We may be the last who changed it: then there is no need to read it first.
        for attempt in range(ATTEMPTS):
            if not is_fresh:
                entry = await self._bucket.get(name)
                lease.revision, lease.whole_at = (0, 0.0) if entry is None else (entry.revision, _read(entry.value))
            is_fresh = False
            wall = time.time()
            # Never further ahead than a whole quota, whatever the clocks of others say.
            ahead = min(max(0.0, lease.whole_at - wall), quota.whole)
            available = quota.left(ahead)
            if not available:
                lease.refused_until = time.monotonic() + quota.wait(ahead)
                lease.left = 0
                return
            taken = min(available, max(1, min(quota.burst // LEASE_SHARE, MAX_LEASE)))
            ahead += taken * quota.interval
            try:
                if lease.revision:
                    lease.revision = await self._bucket.update(name, _VALUE.pack(wall + ahead), lease.revision)
                else:
                    lease.revision = await self._bucket.create(name, _VALUE.pack(wall + ahead))
            except RevisionError:
                await asyncio.sleep(random.random() * 0.002 * attempt)
                continue
            lease.whole_at = wall + ahead
            lease.tokens = taken
            lease.left = available - taken
            # In this time others could have had them as new ones.
            lease.ends = time.monotonic() + max(1.0, taken * quota.interval)
            return
        raise ConnectionError(f"others change {name} all the time")


def _decide(lease: _Lease, quota: Quota, now: float) -> Decision | None:
    """Return what is to be said without asking, if anything."""
    if lease.tokens > 0 and now < lease.ends:
        lease.tokens -= 1
        left = lease.tokens + lease.left
        return Decision(True, left, 0.0 if left else quota.interval, max(0, quota.burst - left) * quota.interval)
    lease.tokens = 0
    if now < lease.refused_until:
        return Decision(False, 0, lease.refused_until - now, quota.whole)
    return None


def _digest(key: Hashable) -> str:
    """Return a caller as part of a key in the bucket, which takes few characters, and has no need of names."""
    return hashlib.sha256(repr(key).encode()).hexdigest()[:32]


def _read(value: bytes) -> float:
    if len(value) != _VALUE.size:
        return 0.0
    whole_at: float = _VALUE.unpack(value)[0]
    return whole_at if whole_at >= 0 else 0.0  # NaN as well: somebody else wrote it.
