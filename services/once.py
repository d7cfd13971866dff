"""Writes into DuckDB that are made once, however often their events are delivered.

Events come at least once: again after a crash, and not always in order. So what was written, and the sequence numbers
of the events that it came from, are committed in one transaction; events whose numbers are there already are passed
over. The numbers are kept as ranges, which are few: nearly all events are written, nearly in order.
"""

import asyncio
import bisect
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import duckdb
import grpc

logger = logging.getLogger(__name__)

MAX_RANGES = 10_000
"""Beyond it the oldest gaps are closed: an event in one of them, should it ever come, would count as written."""

RENEWED = 0.5
"""Seconds by which clocks of the broker's servers may differ, see ``Applied.add``."""

LOCK_SECONDS = 1.0
"""How long a new process waits for the one before it to let go of the file."""

_MEMORY = "512MB"


class Delivery(Protocol):
    """What is needed of an ``rpc.Delivery``."""

    @property
    def sequence(self) -> int:
        """The number of the event in its stream."""

    @property
    def published(self) -> float:
        """When the broker stored it, in Unix seconds."""


class Applied:
    """The events of one stream that were written."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = (), newest: float = 0.0) -> None:
        """``ranges``: first and last numbers, rising, none touching another. ``newest``: the latest time among them."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self._firsts.append(first)
            self._lasts.append(last)
        self.newest = newest

    @classmethod
    def parse(cls, text: str, newest: float) -> "Applied":
        """Read what ``str`` has written: ``1-5000,5002-5002``."""
        pairs = (part.split("-") for part in text.split(",") if part)
        return cls(((int(first), int(last)) for first, last in pairs), newest)

    def __str__(self) -> str:
        return ",".join(f"{first}-{last}" for first, last in self.ranges)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First and last numbers."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def copy(self) -> "Applied":
        """Return another one with the same content."""
        return Applied(self.ranges, self.newest)

    def add(self, delivery: Delivery) -> bool:
        """Take note of an event; False if it was there already.

        A stream that was deleted and made anew counts from 1 again. It is known by its events: their numbers are old,
        but their times are new. Within one stream, what has a lower number was stored earlier.
        """
        number = delivery.sequence
        if self._lasts and number <= self._lasts[-1] and delivery.published > self.newest + RENEWED:
            logger.warning("the stream was made anew: its events count from %d again", number)
            self._firsts, self._lasts = [], []
        place = bisect.bisect_right(self._firsts, number) - 1
        if place >= 0 and number <= self._lasts[place]:
            return False
        self.newest = max(self.newest, delivery.published)
        follows = place >= 0 and self._lasts[place] == number - 1
        precedes = place + 1 < len(self._firsts) and self._firsts[place + 1] == number + 1
        if follows and precedes:
            self._lasts[place] = self._lasts.pop(place + 1)
            del self._firsts[place + 1]
        elif follows:
            self._lasts[place] = number
        elif precedes:
            self._firsts[place + 1] = number
        else:
            self._firsts.insert(place + 1, number)
            self._lasts.insert(place + 1, number)
            if len(self._firsts) > MAX_RANGES:
                del self._firsts[1], self._lasts[0]
        return True


class Database:
    """A DuckDB file whose writes come from the events of one stream. Used from any thread; one process at a time."""

    def __init__(self, path: str, schema: str) -> None:
        """Open the file, or make it. An empty path keeps all in memory, for trying out: it ends with the process.

        Raises ``RuntimeError`` when another process has it.
        """
        if not path:
            logger.warning("all is kept in memory, and ends with this process: name a file (CLICKS_DB, LOGS_DB)")
        self._connection = _open(path or ":memory:")
        self._connection.execute(schema)
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS applied (only_row BOOLEAN PRIMARY KEY, ranges VARCHAR, newest DOUBLE)"
        )
        row = self._connection.execute("SELECT ranges, newest FROM applied").fetchone()
        self._applied = Applied() if row is None else Applied.parse(row[0], row[1])
        self._writing = threading.Lock()

    def apply(
        self, deliveries: Sequence[Delivery], write: Callable[[duckdb.DuckDBPyConnection, list[int]], None]
    ) -> int:
        """Write what is new among these events, and return how many are.

        ``write`` gets a connection within a transaction, and the places of the new events among the ``deliveries``.
        When it raises, nothing was written, and nothing taken note of.
        """
        with self._writing:
            applied = self._applied.copy()
            new = [place for place, delivery in enumerate(deliveries) if applied.add(delivery)]
            if new:
                with self._transaction() as connection:
                    write(connection, new)
                    connection.execute(
                        "INSERT INTO applied VALUES (true, ?, ?) "
                        "ON CONFLICT DO UPDATE SET ranges = excluded.ranges, newest = excluded.newest",
                        [str(applied), applied.newest],
                    )
                self._applied = applied
            return len(new)

    @contextlib.contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection that reads what was committed, while others write."""
        with self._connection.cursor() as connection:
            yield connection

    def close(self) -> None:
        """Let go of the file."""
        with self._writing:
            self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        self._connection.begin()
        try:
            yield self._connection
            self._connection.commit()
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # a failed commit has rolled back already
                self._connection.rollback()
            raise


async def write_or_retry(context: grpc.aio.ServicerContext, write: Callable[[], object]) -> None:
    """Run ``write`` in a thread. If it cannot write just now, the batch comes again, as it is, later."""
    try:
        await asyncio.to_thread(write)
    except (duckdb.Error, OSError) as error:
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"cannot be written: {error}")


def _open(path: str) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY,
        "threads": "2",
        "temp_directory": f"{path}.tmp",
    }
    if path != ":memory:":
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)  # noqa: PTH103, PTH100, PTH120 - a string
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return duckdb.connect(path, config=config)
        except duckdb.IOException as error:
            if "lock" not in str(error):
                raise RuntimeError(f"{path}: {error}") from error
            if time.monotonic() > end:
                raise RuntimeError(f"{path}: another process has it; run one writer, or name another file") from error
        time.sleep(0.1)
