"""Log records in DuckDB: written once, found by service, severity, trace, time and text, forgotten in time."""

import datetime as dt
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import duckdb

from mesh.v1 import log_pb2
from services.once import Database, Delivery

KEEP = dt.timedelta(days=7)
MAX_RECORDS = 20_000_000

MAX_BODY = 64 * 1024
MAX_NAME = 256
MAX_ATTRIBUTES = 64
MAX_VALUE = 32 * 1024
AHEAD = 86400.0  # what claims to be from later than this would be "the latest" for too long

_END_OF_TIME = 2**63 - 1
_SWEEP_SECONDS = 60.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
  row BIGINT, time BIGINT, observed_time BIGINT, severity INTEGER, severity_text VARCHAR, body VARCHAR,
  trace_id VARCHAR, span_id VARCHAR, trace_flags BIGINT, logger VARCHAR, service VARCHAR, instance VARCHAR,
  host VARCHAR, process_id BIGINT, attributes MAP(VARCHAR, VARCHAR)
);
CREATE OR REPLACE VIEW logs AS SELECT * REPLACE (make_timestamp_ns(time) AS time) FROM records
"""
_TYPES = (
    *("BIGINT", "BIGINT", "BIGINT", "INTEGER", "VARCHAR", "VARCHAR", "VARCHAR", "VARCHAR", "BIGINT"),
    *("VARCHAR", "VARCHAR", "VARCHAR", "VARCHAR", "BIGINT", "VARCHAR[]", "VARCHAR[]"),
)
_COLUMNS = [f"unnest(${place}::{kind}[])" for place, kind in enumerate(_TYPES, start=1)]
# Keys and values apart: what DuckDB makes of a dict depends on the dict's content.
_INSERT = f"INSERT INTO records SELECT {', '.join(_COLUMNS[:-2])}, map({', '.join(_COLUMNS[-2:])})"
_ASKED = """
FROM records
WHERE ($service = '' OR service = $service) AND severity >= $severity AND ($trace_id = '' OR trace_id = $trace_id)
  AND ($text = '' OR contains(lower(body), lower($text))) AND time >= $start AND time < $end
"""


class Query(NamedTuple):
    """Which records: those for which all of it is true. Times in nanoseconds since 1970."""

    service: str = ""
    severity: int = 0
    trace_id: str = ""
    text: str = ""
    start: int = 0
    end: int = _END_OF_TIME


class Found(NamedTuple):
    """A record, and its place in the order in which they were stored."""

    row: int
    record: log_pb2.LogRecord


class LogStore:
    """The records. Its methods block: call them in a thread."""

    def __init__(self, path: str = "", *, keep: dt.timedelta = KEEP, max_records: int = MAX_RECORDS) -> None:
        """Keep them in a file, see ``Database``: so many at most, and for so long."""
        self._database = Database(path, _SCHEMA)
        self._keep = keep
        self._max_records = max_records
        self._swept = 0.0
        self._adding = threading.Lock()
        with self._database.read() as connection:
            row = connection.execute("SELECT coalesce(max(row), 0) FROM records").fetchone()
        self.last_row: int = row[0] if row else 0
        """The place of the record that was stored last."""

    def add(self, deliveries: Sequence[Delivery], records: Sequence[log_pb2.LogRecord]) -> int:
        """Store records, each once. Return how many were new."""

        def write(connection: duckdb.DuckDBPyConnection, new: list[int]) -> None:
            rows = [
                _to_row(self.last_row + number, records[place], deliveries[place].published)
                for number, place in enumerate(new, start=1)
            ]
            connection.execute(_INSERT, [list(column) for column in zip(*rows, strict=True)])
            self._sweep(connection, self.last_row + len(new))

        with self._adding:
            added = self._database.apply(deliveries, write)
            self.last_row += added
        return added

    def find(self, query: Query, *, limit: int, before: tuple[int, int] | None = None) -> list[Found]:
        """Return up to ``limit`` records, the latest first; with ``before``, those before that time and place."""
        values = {**query._asdict(), "time": _END_OF_TIME, "row": _END_OF_TIME, "limit": limit}
        if before is not None:
            values |= {"time": before[0], "row": before[1]}
        statement = f"SELECT * {_ASKED} AND (time, row) < ($time, $row) ORDER BY time DESC, row DESC LIMIT $limit"
        return self._select(statement, values)

    def follow(self, query: Query, after: int, *, limit: int) -> tuple[list[Found], int]:
        """Return up to ``limit`` records behind a place, in the order of places, and where to go on."""
        last = self.last_row
        after = min(after, last)  # all may have been forgotten since, and counted from 1 again
        statement = f"SELECT * {_ASKED} AND row > $after AND row <= $last ORDER BY row LIMIT $limit"
        found = self._select(statement, {**query._asdict(), "after": after, "last": last, "limit": limit})
        return found, found[-1].row if len(found) == limit else last

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _select(self, statement: str, values: dict[str, Any]) -> list[Found]:
        with self._database.read() as connection:
            return [_from_row(row) for row in connection.execute(statement, values).fetchall()]

    def _sweep(self, connection: duckdb.DuckDBPyConnection, last: int) -> None:
        now = time.time()
        if now - self._swept > _SWEEP_SECONDS:
            oldest = int((now - self._keep.total_seconds()) * 1e9)
            connection.execute("DELETE FROM records WHERE time < ? OR row <= ?", [oldest, last - self._max_records])
            self._swept = now


def _to_row(row: int, record: log_pb2.LogRecord, published: float) -> tuple[Any, ...]:
    """What is stored of a record. Anybody on the mesh can publish one, so everything has its bounds."""
    observed = _nanoseconds(record.observed_time) or int(published * 1e9)
    when = _nanoseconds(record.time) or observed
    attributes = {
        _cut(key, MAX_NAME): _cut(record.attributes[key], MAX_VALUE)
        for key in sorted(record.attributes)[:MAX_ATTRIBUTES]
    }
    return (
        row,
        when if when < (published + AHEAD) * 1e9 else int(published * 1e9),
        observed,
        min(max(record.severity, 0), 24),
        _cut(record.severity_text, MAX_NAME),
        _cut(record.body, MAX_BODY),
        _cut(record.trace_id.lower(), 32),
        _cut(record.span_id.lower(), 16),
        record.trace_flags,
        _cut(record.logger, MAX_NAME),
        _cut(record.service, MAX_NAME),
        _cut(record.instance, MAX_NAME),
        _cut(record.host, MAX_NAME),
        record.process_id,
        list(attributes),
        list(attributes.values()),
    )


def _from_row(values: tuple[Any, ...]) -> Found:
    row, when, observed, severity, severity_text, body, trace_id, span_id, flags, *rest = values
    logger, service, instance, host, process_id, attributes = rest
    record = log_pb2.LogRecord(
        severity=severity,
        severity_text=severity_text,
        body=body,
        trace_id=trace_id,
        span_id=span_id,
        trace_flags=flags,
        logger=logger,
        service=service,
        instance=instance,
        host=host,
        process_id=process_id,
        attributes=attributes,
    )
    record.time.FromNanoseconds(when)
    record.observed_time.FromNanoseconds(observed)
    return Found(row, record)


def _nanoseconds(timestamp: Any) -> int:
    """A time after 1970 that fits 64 bits; 0 if it is none."""
    nanoseconds: int = timestamp.seconds * 1_000_000_000 + timestamp.nanos
    return nanoseconds if 0 < nanoseconds < _END_OF_TIME else 0


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
