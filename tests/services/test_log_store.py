"""Log records in a store: nothing of them is lost, all are found, garbage is bounded."""

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.v1 import log_pb2
from services import log_store
from services.log_store import LogStore, Query

NOW = time.time()
SECOND = 1_000_000_000


class Event(NamedTuple):
    sequence: int
    published: float = NOW


@pytest.fixture
def store() -> Iterator[LogStore]:
    store = LogStore()
    yield store
    store.close()


def record(body: str = "", *, age: float = 0.0, **fields: Any) -> log_pb2.LogRecord:
    made = log_pb2.LogRecord(body=body, **fields)
    made.time.FromNanoseconds(int((NOW - age) * 1e9))
    return made


def add(store: LogStore, first: int, *records: log_pb2.LogRecord) -> int:
    return store.add([Event(first + place) for place in range(len(records))], records)


def bodies(store: LogStore, query: Query | None = None, **options: Any) -> list[str]:
    return [found.record.body for found in store.find(query or Query(), limit=100, **options)]


def test_a_record_comes_back_as_it_was(store: LogStore) -> None:
    sent = record(
        "payment failed",
        severity=log_pb2.SEVERITY_ERROR,
        severity_text="ERROR",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        span_id="00f067aa0ba902b7",
        trace_flags=1,
        logger="shop.orders",
        service="shop.v1.Orders",
        instance="0123",
        host="rack-7",
        process_id=4711,
        attributes={"exception.type": "ValueError", "order": "17"},
    )
    sent.observed_time.FromNanoseconds(int(NOW * 1e9) + 7)
    add(store, 1, sent)
    assert store.find(Query(), limit=1)[0].record == sent


def test_records_are_found_by_each_of_the_criteria(store: LogStore) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    add(
        store,
        1,
        record("started", age=50, service="a", severity=9),
        record("Payment FAILED", age=40, service="a", severity=17, trace_id=trace),
        record("stopped", age=30, service="b", severity=13),
    )
    assert bodies(store) == ["stopped", "Payment FAILED", "started"], "the latest first"
    assert bodies(store, Query(service="b")) == ["stopped"]
    assert bodies(store, Query(severity=13)) == ["stopped", "Payment FAILED"]
    assert bodies(store, Query(trace_id=trace)) == ["Payment FAILED"]
    assert bodies(store, Query(text="payment failed")) == ["Payment FAILED"]
    assert bodies(store, Query(text="%")) == [], "it is no pattern"
    assert bodies(store, Query(start=int((NOW - 45) * SECOND), end=int((NOW - 35) * SECOND))) == ["Payment FAILED"]
    assert bodies(store, Query(service="a", severity=13, text="started")) == []


def test_pages_of_records_follow_each_other_even_at_one_time(store: LogStore) -> None:
    add(store, 1, *[record(str(number), age=number // 5) for number in range(20)])
    parts: list[str] = []
    before = None
    while found := store.find(Query(), limit=3, before=before):
        parts += [each.record.body for each in found]
        before = found[-1].record.time.ToNanoseconds(), found[-1].row
    assert parts == bodies(store)
    assert sorted(parts, key=int) == [str(number) for number in range(20)]


def test_followers_see_all_in_the_order_of_its_arrival(store: LogStore) -> None:
    add(store, 5, record("first", age=1))
    found, place = store.follow(Query(), 0, limit=10)
    assert [each.record.body for each in found] == ["first"]
    assert store.follow(Query(), place, limit=10) == ([], place)
    add(store, 1, record("late", age=100), record("other", service="b"), record("last"))
    found, place = store.follow(Query(), place, limit=2)
    assert [each.record.body for each in found] == ["late", "other"]
    found, _ = store.follow(Query(), place, limit=2)
    assert [each.record.body for each in found] == ["last"]


def test_each_is_stored_once_and_rows_go_on_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "logs.duckdb")
    store = LogStore(path)
    assert add(store, 1, record("one"), record("two")) == 2
    store.close()
    store = LogStore(path)
    assert add(store, 1, record("one"), record("two"), record("three")) == 1
    assert [(each.row, each.record.body) for each in store.follow(Query(), 0, limit=9)[0]] == [
        (1, "one"),
        (2, "two"),
        (3, "three"),
    ]
    store.close()
    with duckdb.connect(path, read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM logs WHERE time > now()::TIMESTAMP - INTERVAL 1 DAY").fetchone()


def test_old_ones_and_those_beyond_the_number_are_forgotten() -> None:
    store = LogStore(keep=dt.timedelta(days=7), max_records=3)
    add(store, 1, record("old", age=8 * 86400), record("1"), record("2"), record("3"), record("4"))
    assert sorted(bodies(store)) == ["2", "3", "4"]
    store.close()


def test_what_has_no_time_or_an_impossible_one_gets_that_of_its_arrival(store: LogStore) -> None:
    ahead = record("ahead", age=-10 * 86400)
    broken = log_pb2.LogRecord(body="broken")
    broken.time.seconds = 2**62
    add(store, 1, log_pb2.LogRecord(body="none"), ahead, broken)
    for found in store.find(Query(), limit=9):
        assert abs(found.record.time.ToNanoseconds() - NOW * 1e9) < SECOND


def test_huge_fields_are_cut(store: LogStore) -> None:
    huge = "x" * 1_000_000
    add(store, 1, record(huge, service=huge, trace_id=huge, attributes={str(n): huge for n in range(100)}))
    (found,) = store.find(Query(), limit=9)
    assert found.record.body.endswith("x…")
    assert found.record.ByteSize() < log_store.MAX_BODY + log_store.MAX_ATTRIBUTES * (log_store.MAX_VALUE + 20) + 2000


@pytest.fixture(scope="module")
def lasting() -> Iterator[LogStore]:
    """One for all examples; it forgets nothing."""
    store = LogStore(keep=dt.timedelta(days=100_000))
    yield store
    store.close()


TEXT = st.text(max_size=40)
INT64 = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=60, deadline=None)
@given(
    fields=st.fixed_dictionaries(
        dict.fromkeys(("body", "service", "logger", "instance", "host", "trace_id", "span_id"), TEXT)
        | {"severity": st.integers(-(2**31), 2**31 - 1), "process_id": INT64, "trace_flags": st.integers(0, 2**32 - 1)}
        | {"attributes": st.dictionaries(TEXT, TEXT, max_size=5)}
    ),
    seconds=INT64,
    nanos=st.integers(-(2**31), 2**31 - 1),
)
def test_any_record_is_stored(lasting: LogStore, fields: dict[str, Any], seconds: int, nanos: int) -> None:
    sent = log_pb2.LogRecord(**fields)
    sent.time.seconds, sent.time.nanos = seconds, nanos
    sent.observed_time.CopyFrom(sent.time)
    sequence = lasting.last_row + 1
    assert lasting.add([Event(sequence)], [sent]) == 1
    (found,), _ = lasting.follow(Query(), sequence - 1, limit=1)
    assert found.record.body == sent.body
    assert found.record.attributes == sent.attributes
