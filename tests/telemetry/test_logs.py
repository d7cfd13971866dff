import io
import json
import logging
from collections.abc import Iterator
from typing import Any, TextIO

import pytest
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import set_span_in_context

from rpc.telemetry import JsonFormatter, TextFormatter, TraceContextFilter, configure_logging
from rpc.telemetry.propagation import unsampled

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def in_span() -> Iterator[None]:
    token = attach(set_span_in_context(unsampled(f"00-{TRACE}-{SPAN}-00"), Context()))
    yield
    detach(token)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_records_know_their_trace(in_span: None) -> None:
    record = logging.makeLogRecord({"msg": "hello"})
    assert TraceContextFilter().filter(record)
    assert (record.trace_id, record.span_id, record.trace_flags) == (TRACE, SPAN, "00")


def test_records_without_a_span() -> None:
    record = logging.makeLogRecord({"msg": "hello"})
    assert TraceContextFilter().filter(record)
    assert (record.trace_id, record.span_id, record.trace_flags) == ("", "", "")
    assert "trace_id" not in TextFormatter().format(record)


def _log(root: logging.Logger, stream: TextIO, **options: Any) -> None:
    configure_logging(stream=stream, environ={}, **options)
    logging.getLogger("rpc.test").warning("hello %s", "Ann", extra={"request_id": "r-1"})
    try:
        raise ZeroDivisionError("no")
    except ZeroDivisionError:
        logging.getLogger("rpc.test").exception("failed")
    logging.getLogger("rpc.test").debug("not shown")


def test_text(root: logging.Logger, in_span: None) -> None:
    stream = io.StringIO()
    _log(root, stream)
    lines = stream.getvalue().splitlines()
    assert lines[0][13:] == f"WARNING rpc.test: hello Ann trace_id={TRACE} span_id={SPAN}"
    assert lines[1].endswith(f"ERROR   rpc.test: failed trace_id={TRACE} span_id={SPAN}")
    assert lines[2] == "Traceback (most recent call last):"
    assert lines[-1] == "ZeroDivisionError: no"
    assert "not shown" not in stream.getvalue()


def test_json(root: logging.Logger, in_span: None) -> None:
    stream = io.StringIO()
    _log(root, stream, log_format="json")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "WARNING",
        "logger": "rpc.test",
        "message": "hello Ann",
        "trace_id": TRACE,
        "span_id": SPAN,
        "trace_flags": "00",
        "request_id": "r-1",
    }
    assert second["exception"].endswith("ZeroDivisionError: no")


def test_colour_on_a_terminal_only(root: logging.Logger) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for environ, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        stream = Terminal()
        configure_logging(stream=stream, environ=environ)
        logging.getLogger("rpc.test").warning("hello")
        assert ("\033[33m" in stream.getvalue()) is coloured


def test_the_last_configuration_counts_and_others_handlers_stay(root: logging.Logger) -> None:
    other = logging.NullHandler()
    root.addHandler(other)
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first, environ={})
    configure_logging(stream=second, environ={"NATSMESH_LOG_FORMAT": "json", "NATSMESH_LOG_LEVEL": "error"})
    logging.getLogger("rpc.test").error("hello")
    logging.getLogger("rpc.test").warning("not shown")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "hello"
    assert other in root.handlers


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"NATSMESH_LOG_FORMAT": "xml"}, "unknown log format 'xml': expected 'text' or 'json'"),
        ({"NATSMESH_LOG_LEVEL": "loud"}, "unknown log level 'LOUD'"),
    ],
)
def test_mistakes_are_named(root: logging.Logger, environ: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure_logging(stream=io.StringIO(), environ=environ)


def test_json_takes_what_is_no_json() -> None:
    record = logging.makeLogRecord({"msg": "x", "thing": object()})
    assert json.loads(JsonFormatter().format(record))["thing"].startswith("<object")
