"""From a record of Python's ``logging`` to one of the mesh.

Sources: OpenTelemetry's log data model, and its semantic conventions for exceptions, code and threads.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from typing import Final

from mesh.v1 import log_pb2
from rpc.telemetry.logs import STANDARD_FIELDS, current_trace

MAX_BODY: Final = 32 * 1024
MAX_STACKTRACE: Final = 32 * 1024
MAX_VALUE: Final = 4 * 1024
MAX_NAME: Final = 256
MAX_ATTRIBUTES: Final = 64
"""Characters, and number, of what one record may have; what is longer is cut."""

_BASES: Final = ((50, 21), (40, 17), (30, 13), (20, 9), (10, 5), (1, 1))
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_formatter = logging.Formatter()


class RecordMaker:
    """Makes the records of one process."""

    def __init__(self, service: str, instance: str = "") -> None:
        self._service = service
        self._instance = instance
        self._host = socket.gethostname()

    def make(self, record: logging.LogRecord) -> log_pb2.LogRecord:
        """Return a record's message for the mesh. Raises what formatting the message raises."""
        trace_id, span_id, trace_flags = _trace_of(record)
        made = log_pb2.LogRecord(
            severity=severity(record.levelno),  # type: ignore[arg-type]  # any number is one
            severity_text=_cut(record.levelname, MAX_NAME),
            body=_cut(record.getMessage(), MAX_BODY),
            trace_id=trace_id,
            span_id=span_id,
            trace_flags=int(trace_flags or "0", 16),
            logger=_cut(record.name, MAX_NAME),
            service=self._service,
            instance=self._instance,
            host=self._host,
            process_id=record.process or 0,
        )
        made.time.FromNanoseconds(int(record.created * 1e9))
        _add_attributes(made, record)
        return made


def severity(level: int) -> int:
    """Return OpenTelemetry's number for a level of ``logging``: 13 for WARNING, 14 for the next one ..., 24 at most."""
    for lowest, number in _BASES:
        if level >= lowest:
            return number + min(level - lowest, 3)
    return 0


def _trace_of(record: logging.LogRecord) -> tuple[str, str, str]:
    """Return what a ``TraceContextFilter`` has put down: then the record may come from another thread. Or ask now."""
    trace_id = getattr(record, "trace_id", None)
    if isinstance(trace_id, str) and _TRACE_ID.fullmatch(trace_id):
        return trace_id, str(getattr(record, "span_id", "")), str(getattr(record, "trace_flags", ""))
    return current_trace()


def _add_attributes(made: log_pb2.LogRecord, record: logging.LogRecord) -> None:
    attributes = made.attributes
    attributes["code.file.path"] = _cut(record.pathname, MAX_VALUE)
    attributes["code.function.name"] = _cut(record.funcName or "", MAX_NAME)
    attributes["code.line.number"] = str(record.lineno)
    if record.threadName and record.threadName != "MainThread":
        attributes["thread.name"] = _cut(record.threadName, MAX_NAME)
    if record.exc_info and (kind := record.exc_info[0]) is not None:
        attributes["exception.type"] = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        attributes["exception.message"] = _cut(str(record.exc_info[1]), MAX_VALUE)
        trace = record.exc_text or _formatter.formatException(record.exc_info)
        attributes["exception.stacktrace"] = _cut_front(trace, MAX_STACKTRACE)
    if record.stack_info:
        attributes["code.stacktrace"] = _cut_front(record.stack_info, MAX_STACKTRACE)
    for key, value in vars(record).items():
        if key not in STANDARD_FIELDS and len(attributes) < MAX_ATTRIBUTES:
            text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
            attributes[_cut(key, MAX_NAME)] = _cut(text, MAX_VALUE)


def _cut(text: str, length: int) -> str:
    return _encodable(text if len(text) <= length else f"{text[: length - 1]}…")


def _cut_front(text: str, length: int) -> str:
    """Keep the end, where a traceback says what happened."""
    return _encodable(text if len(text) <= length else f"…{text[1 - length :]}")


def _encodable(text: str) -> str:
    """Half characters (of file names, for example) are allowed in Python, and not in protobuf."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
