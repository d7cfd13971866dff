"""How often each page was clicked in each minute, in DuckDB."""

import datetime as dt
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import duckdb

from services.once import Database, Delivery

KEEP = dt.timedelta(days=400)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS counts (minute TIMESTAMP, page VARCHAR, clicks BIGINT, PRIMARY KEY (minute, page))
"""
_ASKED = "FROM counts WHERE minute >= $start AND minute < $end AND ($page = '' OR page = $page)"
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - DuckDB's TIMESTAMP has no zone; all here is UTC


class Hit(NamedTuple):
    """A click: when, in Unix seconds, and where."""

    time: float
    page: str


class Count(NamedTuple):
    """So many clicks on a page in the minute that began then, in Unix seconds."""

    minute: int
    page: str
    clicks: int


class ClickCounts:
    """The counts. Its methods block: call them in a thread."""

    def __init__(self, path: str = "", *, keep: dt.timedelta = KEEP) -> None:
        """Keep them in a file, see ``Database``, for so long."""
        self._database = Database(path, _SCHEMA)
        self._keep = keep
        self._swept = 0.0

    def add(self, deliveries: Sequence[Delivery], hits: Sequence[Hit | None]) -> int:
        """Count what the events say, each once; None counts as nothing. Return how many events were new."""

        def write(connection: duckdb.DuckDBPyConnection, new: list[int]) -> None:
            counted = Counter((int(hit.time // 60) * 60, hit.page) for place in new if (hit := hits[place]) is not None)
            if counted:
                connection.execute(
                    "INSERT INTO counts SELECT unnest($1::TIMESTAMP[]), unnest($2::VARCHAR[]), unnest($3::BIGINT[]) "
                    "ON CONFLICT DO UPDATE SET clicks = clicks + excluded.clicks",
                    [[_utc(minute) for minute, _ in counted], [page for _, page in counted], list(counted.values())],
                )
            self._sweep(connection)

        return self._database.apply(deliveries, write)

    def find(
        self, page: str, start: int, end: int, *, limit: int, after: tuple[int, str] | None = None
    ) -> tuple[list[Count], int]:
        """Return up to ``limit`` counts from ``start`` to before ``end`` (Unix seconds), and the sum of all of them.

        They are in the order of minute and page; with ``after``, those behind that one.
        """
        asked: dict[str, object] = {"start": _utc(start), "end": _utc(end), "page": page}
        minute, behind = after or (0, "")
        with self._database.read() as connection:
            total = connection.execute(f"SELECT coalesce(sum(clicks), 0) {_ASKED}", asked).fetchone()
            rows = connection.execute(
                f"SELECT epoch(minute)::BIGINT, page, clicks {_ASKED} "
                "AND (minute, page) > ($minute, $behind) ORDER BY minute, page LIMIT $limit",
                asked | {"minute": _utc(minute), "behind": behind, "limit": limit},
            ).fetchall()
        return [Count(*row) for row in rows], int(total[0]) if total else 0

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _sweep(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Forget what is too old, once an hour."""
        now = time.time()
        if now - self._swept > 3600:
            connection.execute("DELETE FROM counts WHERE minute < ?", [_utc(int(now)) - self._keep])
            self._swept = now


def _utc(seconds: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(seconds=seconds)
