"""Numbers of calls: counted once, read by all who report them (ADR-32 STATS, OTLP metrics, Prometheus).

Recording is plain arithmetic on the event loop, well under a microsecond; whatever is dear (labels, text, protobuf) is
left to the readers, which come every few seconds and may come from another thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

from rpc.call import Call, Handler, Interceptor
from rpc.method import MethodInfo
from rpc.status import StatusCode, StatusError

Kind = Literal["server", "client", "http", "process", "queue"]

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of the duration buckets in seconds, inclusive; one more bucket holds what is longer.

Source: OpenTelemetry semantic conventions, ``rpc.server.call.duration`` and ``http.server.request.duration``.
"""

OTHER: Final = "_OTHER"
"""What the conventions call a method that is not known here: names from the wire must not become labels."""

MAX_METHODS: Final = 2000
"""Methods that one ``Stats`` tells apart; further ones are counted together as ``OTHER``."""

_MAX_ERROR_TEXT = 256
_CANCELLED = 1
_UNKNOWN = 2


class Histogram:
    """Durations of the calls that ended with one status code."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        """Calls for each bucket of ``BOUNDS``, not cumulated."""
        self.total = 0.0
        """Sum of the durations, in seconds."""

    @property
    def count(self) -> int:
        """Calls in all buckets."""
        return sum(self.buckets)


class MethodStats:
    """What is counted of one method (or one HTTP route).

    Written on the event loop only. A reader on another thread sees numbers that may be one call apart.
    """

    __slots__ = ("_by_code", "labels", "last_error")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        """``(pkg.Service/Method,)``; for HTTP ``(method, route, scheme)``, for messages ``(destination, group)``."""
        self.last_error = ""
        """Text of the last error, cut to 256 characters; empty when there was none."""
        self._by_code: dict[int, Histogram] = {}

    def record(self, code: int, seconds: float, error: str = "") -> None:
        """Count one finished call: its status code (gRPC number or HTTP status), duration, and error text if any."""
        histogram = self._by_code.get(code)
        if histogram is None:
            histogram = self._by_code[code] = Histogram()
        histogram.buckets[bisect_left(BOUNDS, seconds)] += 1
        histogram.total += seconds
        if error:
            self.last_error = error[:_MAX_ERROR_TEXT]

    def by_code(self) -> dict[int, Histogram]:
        """Return the histograms for each status code that occurred."""
        return self._by_code.copy()

    @property
    def requests(self) -> int:
        """Finished calls (ADR-32 ``num_requests``)."""
        return sum(histogram.count for histogram in self.by_code().values())

    @property
    def errors(self) -> int:
        """Finished calls that did not end OK (ADR-32 ``num_errors``). Means nothing for HTTP."""
        return sum(histogram.count for code, histogram in self.by_code().items() if code != 0)

    @property
    def seconds(self) -> float:
        """Sum of all durations in seconds (ADR-32 ``processing_time``, there in nanoseconds)."""
        return sum(histogram.total for histogram in self.by_code().values())

    def merge(self, other: MethodStats) -> None:
        """Add the numbers of another one."""
        for code, theirs in other.by_code().items():
            ours = self._by_code.setdefault(code, Histogram())
            ours.buckets = [a + b for a, b in zip(ours.buckets, theirs.buckets, strict=True)]
            ours.total += theirs.total
        self.last_error = other.last_error or self.last_error


class Stats:
    """The numbers of one role of this process: calls served, calls made, HTTP requests answered, messages handled.

    A ``server`` registers its methods with ``method`` before it serves; calls of any other method are counted as
    ``OTHER``, because their names come from the wire. A ``client`` learns its methods as they are called.
    ``tracked`` numbers are part of what the process exports (``totals``), also after their owner is gone.
    """

    def __init__(self, kind: Kind, *, tracked: bool = True) -> None:
        self.kind: Kind = kind
        self.started = time.time()
        """Seconds since the epoch when counting began."""
        self._entries: dict[str, MethodStats] = {}
        if tracked:
            with _lock:
                _live.add(self)
            # A counter must never fall: what a closed channel has counted is kept.
            weakref.finalize(self, _retire, kind, self.started, self._entries).atexit = False

    def __iter__(self) -> Iterator[MethodStats]:
        return iter(list(self._entries.values()))

    def entry(self, *labels: str) -> MethodStats:
        """Return the numbers of these labels (see ``MethodStats.labels``), new ones at the first time."""
        key = " ".join(labels)
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= MAX_METHODS:
                return self.other(len(labels))
            entry = self._entries[key] = MethodStats(labels)
        return entry

    def other(self, width: int = 1) -> MethodStats:
        """Return the numbers of all that is not known; ``width`` is the count of labels."""
        labels = (OTHER,) * width
        return self._entries.setdefault(" ".join(labels), MethodStats(labels))

    def method(self, info: MethodInfo) -> MethodStats:
        """Return the numbers of a method; a server registers its methods by this."""
        return self.entry(info.full_name)

    def knows(self, info: MethodInfo) -> bool:
        """Return whether a method was registered, or called before."""
        return info.full_name in self._entries

    def find(self, info: MethodInfo) -> MethodStats:
        """Return where a call of this method is to be counted."""
        entry = self._entries.get(info.full_name)
        if entry is None:
            return self.entry(info.full_name) if self.kind == "client" else self.other()
        return entry

    def interceptor(self, entries: Mapping[str, MethodStats] | None = None) -> Interceptor:
        """Return an interceptor that counts each call as its caller sees it end.

        ``entries`` are the numbers to be used for these methods (``pkg.Service/Method``), where they are not ``entry``.
        """
        if entries is None:
            entries = self._entries
        clock = time.perf_counter

        async def measure(call: Call, handler: Handler) -> None:
            started = clock()
            code, text = 0, ""
            try:
                await handler(call)
            except StatusError as error:
                code, text = error.code.value[0], error.details or error.code.name
                raise
            except asyncio.CancelledError:
                reason = call.cancelled
                code, text = (_CANCELLED, "cancelled") if reason is None else (reason.code.value[0], reason.details)
                raise
            except Exception as error:
                code, text = _UNKNOWN, type(error).__name__
                raise
            finally:
                entry = entries.get(call.info.full_name) or self.find(call.info)
                entry.record(code, clock() - started, text)

        return measure

    def snapshot(self) -> dict[str, Any]:
        """Return all numbers as JSON-compatible data, for ``load`` in another process."""
        return {
            "kind": self.kind,
            "started": self.started,
            "methods": [
                {
                    "labels": list(entry.labels),
                    "last_error": entry.last_error,
                    "codes": {str(code): [h.total, *h.buckets] for code, h in entry.by_code().items()},
                }
                for entry in self
            ],
        }

    @classmethod
    def load(cls, snapshot: Mapping[str, Any]) -> Stats:
        """Build from a ``snapshot``. Raises ``ValueError`` when it is not one (of this version)."""
        try:
            stats = cls(snapshot["kind"], tracked=False)
            stats.started = float(snapshot["started"])
            for method in snapshot["methods"]:
                entry = stats.entry(*method["labels"])
                entry.last_error = method["last_error"]
                for code, (total, *buckets) in method["codes"].items():
                    histogram = Histogram()
                    histogram.total, histogram.buckets = float(total), [int(number) for number in buckets]
                    if len(buckets) != len(BOUNDS) + 1:
                        raise ValueError(f"{len(buckets)} buckets instead of {len(BOUNDS) + 1}")
                    entry._by_code[int(code)] = histogram  # noqa: SLF001 - same module
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a snapshot of call numbers: {error!r}") from error
        return stats

    def merge(self, other: Stats) -> None:
        """Add the numbers of another one of the same kind."""
        for entry in other:
            self.entry(*entry.labels).merge(entry)
        self.started = min(self.started, other.started)


_live: weakref.WeakSet[Stats] = weakref.WeakSet()
_gone: deque[tuple[Kind, float, dict[str, MethodStats]]] = deque()
"""Numbers whose owners are gone, and which nobody has added to the retired ones yet."""
_retired: dict[Kind, Stats] = {}
_lock = threading.Lock()
"""Held where any of these is read or changed, but for the end of ``_gone`` that is added to."""


def _retire(kind: Kind, started: float, entries: dict[str, MethodStats]) -> None:
    # Called wherever garbage is collected: perhaps by the very thread that holds the lock. So it must not wait for it.
    _gone.append((kind, started, entries))
    if _lock.acquire(blocking=False):
        try:
            _take_in_gone()
        finally:
            _lock.release()


def _take_in_gone() -> None:
    while _gone:
        kind, started, entries = _gone.popleft()
        numbers = Stats(kind, tracked=False)
        numbers.started = started
        numbers._entries = entries  # noqa: SLF001 - same module
        if kind in _retired:
            _retired[kind].merge(numbers)
        else:
            _retired[kind] = numbers


def combine(stats: Iterable[Stats]) -> list[Stats]:
    """Return the sums of ``stats``, one of each kind, in the order of first appearance."""
    sums: dict[Kind, Stats] = {}
    for numbers in stats:
        if numbers.kind not in sums:
            sums[numbers.kind] = Stats(numbers.kind, tracked=False)
        sums[numbers.kind].merge(numbers)
    return list(sums.values())


def totals() -> list[Stats]:
    """Return all that this process has counted, one of each kind. May be called on any thread."""
    with _lock:
        live = list(_live)  # first: whoever goes after this has not been taken in below
        _take_in_gone()
        retired = combine(_retired.values())
    return combine([*retired, *live])


def code_name(code: int) -> str:
    """Return the name of a gRPC status number (``NOT_FOUND``), or the number itself when gRPC has none."""
    return _NAMES.get(code) or str(code)


_NAMES: dict[int, str] = {code.value[0]: code.name for code in StatusCode}
