"""Log records that know their trace, and the log format of our processes.

``TraceContextFilter`` works with any formatter of the application's own: ``%(trace_id)s`` and ``%(span_id)s``.
Nothing here loads OpenTelemetry: where it is not loaded, no span can be current.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO

LogFormat = Literal["text", "json"]

_COLOURS: Final = {"DEBUG": "\033[2m", "WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[1;31m"}
_RESET: Final = "\033[0m"
STANDARD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "asctime",
    "message",
    "taskName",
    "trace_id",
    "span_id",
    "trace_flags",
    "color_message",  # uvicorn's copy of its message, with escapes
}
"""What a record has that was not given as ``extra=``."""

_HANDLER_NAME: Final = "natsmesh"


class TraceContextFilter(logging.Filter):
    """Gives every record ``trace_id``, ``span_id`` and ``trace_flags`` in hexadecimal, empty where there is no span.

    Put it on handlers, not on loggers: a logger's filter does not see the records of loggers below it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        record.trace_id, record.span_id, record.trace_flags = current_trace()
        return True


def current_trace() -> tuple[str, str, str]:
    """Return trace id, span id and flags of the current span in hexadecimal, empty where there is none."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return "", "", ""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return "", "", ""
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{context.trace_flags:02x}"


class TextFormatter(logging.Formatter):
    """One line for people: local time, level, logger, message, and the trace if there is one."""

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname:<7}"
        if self._colour and (colour := _COLOURS.get(record.levelname)):
            level = f"{colour}{level}{_RESET}"
        line = f"{clock}.{int(record.msecs):03d} {level} {record.name}: {record.getMessage()}"
        if trace_id := getattr(record, "trace_id", ""):
            where = f"trace_id={trace_id} span_id={getattr(record, 'span_id', '')}"
            line = f"{line} \033[2m{where}{_RESET}" if self._colour else f"{line} {where}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        if record.stack_info:
            line = f"{line}\n{self.formatStack(record.stack_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line for programs.

    ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``; ``trace_id``, ``span_id``, ``trace_flags`` where
    there is a span; ``exception`` with the traceback; and what was given as ``extra=``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if getattr(record, "trace_id", ""):
            fields |= {key: getattr(record, key) for key in ("trace_id", "span_id", "trace_flags")}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = record.stack_info
        fields |= {
            key: value for key, value in vars(record).items() if key not in STANDARD_FIELDS and key not in fields
        }
        return json.dumps(fields, default=str, ensure_ascii=False)


def configure_logging(
    *,
    log_format: LogFormat | None = None,
    level: str | None = None,
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Send the logs of this process to ``stream`` (standard error by default), in one format for all loggers.

    ``log_format`` and ``level`` default to ``NATSMESH_LOG_FORMAT`` (``text`` or ``json``; ``text``) and
    ``NATSMESH_LOG_LEVEL`` (``INFO``). Text is coloured on a terminal, unless ``NO_COLOR`` is set. May be called
    again: the last call counts. Handlers that the application has added stay. Raises ``ValueError`` for an unknown
    format or level.
    """
    variables = os.environ if environ is None else environ
    chosen = log_format or variables.get("NATSMESH_LOG_FORMAT", "").strip().lower() or "text"
    name = (level or variables.get("NATSMESH_LOG_LEVEL", "").strip() or "INFO").upper()
    if chosen not in {"text", "json"}:
        raise ValueError(f"unknown log format {chosen!r}: expected 'text' or 'json'")
    if name not in logging.getLevelNamesMapping():
        raise ValueError(f"unknown log level {name!r}: expected DEBUG, INFO, WARNING, ERROR or CRITICAL")
    target = sys.stderr if stream is None else stream
    colour = target.isatty() and "NO_COLOR" not in variables
    handler = logging.StreamHandler(target)
    handler.name = _HANDLER_NAME
    handler.addFilter(TraceContextFilter())
    handler.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter(colour=colour))
    root = logging.getLogger()
    for previous in [each for each in root.handlers if each.name == _HANDLER_NAME]:
        root.removeHandler(previous)
    root.addHandler(handler)
    root.setLevel(name)
