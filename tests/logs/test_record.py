"""What becomes of a record of Python's logging."""

import json
import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from mesh.v1 import log_pb2
from rpc.logs import record as module
from rpc.logs.record import RecordMaker, severity
from rpc.telemetry import TraceContextFilter

MAKER = RecordMaker("shop", "0123")


class Kept(logging.Handler):
    """Keeps what was made of each record."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[log_pb2.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(MAKER.make(record))


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def log(kept: Kept) -> logging.Logger:
    logger = logging.Logger("shop.orders")  # noqa: LOG001 - of no hierarchy
    logger.addHandler(kept)
    return logger


def test_a_record(log: logging.Logger, kept: Kept) -> None:
    log.warning("order %d: %s", 17, "paid", extra={"customer": "ada", "items": [1, 2]})
    (made,) = kept.records
    assert made.body == "order 17: paid"
    assert (made.severity, made.severity_text) == (log_pb2.SEVERITY_WARN, "WARNING")
    assert (made.service, made.instance, made.logger) == ("shop", "0123", "shop.orders")
    assert made.host
    assert made.process_id
    assert made.attributes["customer"] == "ada"
    assert json.loads(made.attributes["items"]) == [1, 2]
    assert made.attributes["code.file.path"] == __file__
    assert made.attributes["code.function.name"] == "test_a_record"
    assert int(made.attributes["code.line.number"]) > 0
    assert not made.trace_id


def test_an_exception_comes_with_its_traceback(log: logging.Logger, kept: Kept) -> None:
    try:
        raise KeyError("no such order")
    except KeyError:
        log.exception("failed", stack_info=True)
    attributes = kept.records[0].attributes
    assert attributes["exception.type"] == "KeyError"
    assert attributes["exception.message"] == "'no such order'"
    assert attributes["exception.stacktrace"].endswith("KeyError: 'no such order'")
    assert "test_an_exception" in attributes["code.stacktrace"]


def test_the_trace_is_that_of_the_code_that_logs(log: logging.Logger, kept: Kept) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("work") as span:
        log.info("inside")
    where = span.get_span_context()
    assert kept.records[0].trace_id == f"{where.trace_id:032x}"
    assert kept.records[0].span_id == f"{where.span_id:016x}"
    assert kept.records[0].trace_flags == int(where.trace_flags)


def test_a_trace_that_was_put_down_before_counts(log: logging.Logger, kept: Kept) -> None:
    """As a QueueHandler with a TraceContextFilter leaves it for another thread."""
    with TracerProvider().get_tracer("test").start_as_current_span("work") as span:
        record = logging.makeLogRecord({"msg": "queued", "name": "x", "levelno": 20})
        TraceContextFilter().filter(record)
    log.handle(record)
    assert kept.records[0].trace_id == f"{span.get_span_context().trace_id:032x}"
    assert "trace_id" not in kept.records[0].attributes


@pytest.mark.parametrize(
    ("level", "number"),
    [(0, 0), (5, 4), (10, 5), (19, 8), (20, 9), (25, 12), (30, 13), (31, 14), (40, 17), (50, 21), (999, 24), (-1, 0)],
)
def test_severities(level: int, number: int) -> None:
    assert severity(level) == number


def test_everything_has_a_bound(log: logging.Logger, kept: Kept) -> None:
    huge = "x" * 1_000_000
    try:
        raise ValueError(huge)
    except ValueError:
        log.exception(huge, extra={f"{huge}{number}": huge for number in range(100)})
    (made,) = kept.records
    assert len(made.body) == module.MAX_BODY
    assert made.attributes["exception.stacktrace"][0] == "…"
    assert len(made.attributes) <= module.MAX_ATTRIBUTES
    assert made.ByteSize() < 400_000


class Unprintable:
    def __repr__(self) -> str:
        return "half: \ud800"


@given(st.text(), st.text(), st.dictionaries(st.text(min_size=1), st.text() | st.none() | st.floats()))
def test_any_text_can_be_sent(message: str, name: str, extra: dict[str, Any]) -> None:
    record = logging.makeLogRecord({"msg": message, "name": name, "levelno": 20, "levelname": name})
    vars(record).update({f"x{key}": value for key, value in extra.items()})
    made = MAKER.make(record)
    assert log_pb2.LogRecord.FromString(made.SerializeToString()) == made
    assert set(made.attributes) >= {f"x{key}" for key in extra if not any("\ud800" <= char <= "\udfff" for char in key)}


def test_halves_of_characters_are_replaced(log: logging.Logger, kept: Kept) -> None:
    log.info("file %s", "\udcff", extra={"thing": Unprintable()})
    assert kept.records[0].body == "file ?"
    assert kept.records[0].attributes["thing"] == '"half: ?"'


def test_a_message_that_cannot_be_formatted_is_the_callers_to_see(log: logging.Logger) -> None:
    with pytest.raises(TypeError):
        MAKER.make(logging.LogRecord("x", 20, __file__, 1, "%d", ("no number",), None))
    assert sys.exc_info() == (None, None, None)
