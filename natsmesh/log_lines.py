"""Log records as lines for people, and as JSON for programs."""

from __future__ import annotations

import json
import re
import time
from typing import Final

from mesh.v1 import log_pb2

_RESET: Final = "\033[0m"
_DIM: Final = "\033[2m"
_COLOURS: Final = ((21, "\033[1;31m"), (17, "\033[31m"), (13, "\033[33m"), (9, ""), (0, _DIM))
_NAMES: Final = ((21, "FATAL"), (17, "ERROR"), (13, "WARN"), (9, "INFO"), (5, "DEBUG"), (1, "TRACE"), (0, "?"))
_LEVELS: Final = {
    "TRACE": 1,
    "DEBUG": 5,
    "INFO": 9,
    "NOTICE": 10,
    "WARN": 13,
    "WARNING": 13,
    "ERROR": 17,
    "CRITICAL": 21,
    "FATAL": 21,
}

LEVELS: Final = tuple(_LEVELS)
"""What people call severities."""

# Whoever can log could move the cursor, or worse, of whoever reads: all but tabs and line ends is shown as an escape.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_STACKS: Final = ("exception.stacktrace", "code.stacktrace")
_NOT_SHOWN: Final = frozenset(
    {
        "code.file.path",
        "code.function.name",
        "code.line.number",
        "exception.type",
        "exception.message",
        "syslog.facility",
        *_STACKS,
    }
)


def severity_of(level: str) -> int:
    """Return the number of a level's name, from the tables of OpenTelemetry's log data model."""
    return _LEVELS[level.upper()]


def as_text(record: log_pb2.LogRecord, *, colour: bool = False) -> str:
    """Return one line, in local time: time, level, service, logger, message, what else is known; then the traceback."""
    moment = record.time.ToNanoseconds()
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment // 1_000_000_000))
    level = next(name for lowest, name in _NAMES if record.severity >= lowest)
    paint = next(code for lowest, code in _COLOURS if record.severity >= lowest) if colour else ""
    level = f"{paint}{level:<5}{_RESET}" if paint else f"{level:<5}"
    source = record.service or record.host or "-"
    if record.logger and record.logger != source:
        source = f"{source} {record.logger}"
    rest = {key: record.attributes[key] for key in sorted(record.attributes) if key not in _NOT_SHOWN}
    if record.trace_id:
        rest |= {"trace_id": record.trace_id, "span_id": record.span_id}
    details = " ".join(f"{key}={_quoted(value)}" for key, value in rest.items() if value)
    if details:
        details = f" {_DIM}{_safe(details)}{_RESET}" if colour else f" {_safe(details)}"
    milliseconds = moment // 1_000_000 % 1000
    lines = [f"{clock}.{milliseconds:03d} {level} {_safe(source)}: {_safe(record.body)}{details}"]
    lines += [_safe(record.attributes[key]) for key in _STACKS if key in record.attributes]
    return "\n".join(lines)


def as_json(record: log_pb2.LogRecord) -> str:
    """Return the record on one line, in protobuf's JSON."""
    from google.protobuf import json_format

    return json_format.MessageToJson(record, indent=None, ensure_ascii=True)


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[^\s\"=]+", value) else json.dumps(value, ensure_ascii=False)


def _safe(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
