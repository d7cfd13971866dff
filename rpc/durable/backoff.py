"""How long a request waits that failed: gRPC's formula (A6), with its jitter."""

from __future__ import annotations

import random as _random
from collections.abc import Callable

from rpc.durable.options import RetryOptions


def delay(retry: RetryOptions, failures: int, random: Callable[[], float] = _random.random) -> float:
    """Return the seconds until the next attempt, after so many failed ones (from 1 on).

    The delay grows by the multiplier up to ``max_backoff`` and varies by ``jitter`` of itself. Near the longest delay
    it varies downwards only: what fails together must not come back together, and no delay is longer than promised.
    ``random`` gives numbers from 0 to 1.
    """
    try:
        grown = retry.initial_backoff * retry.backoff_multiplier ** (failures - 1)
    except OverflowError:
        grown = retry.max_backoff
    base = min(grown, retry.max_backoff)
    shortest, longest = base * (1 - retry.jitter), min(base * (1 + retry.jitter), retry.max_backoff)
    return shortest + (longest - shortest) * random()
