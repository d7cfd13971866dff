"""From a syslog message to a log record.

Sources: RFC 5424 (the syslog protocol); RFC 3164 (what programs did before, and ``syslog(3)`` does still);
OpenTelemetry's log data model, appendix B, for the severities. Nothing here fails: what is neither is the text of a
record all the same.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

from mesh.v1 import log_pb2

MAX_ATTRIBUTES: Final = 64

_FACILITIES: Final = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp"),
    *("audit", "alert", "clock", *(f"local{number}" for number in range(8))),
)
_SEVERITIES: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_SEVERITY_NUMBERS: Final = (21, 19, 18, 17, 13, 10, 9, 5)
_DEFAULT_PRIORITY: Final = 13
"""user.notice: RFC 3164, 4.3.3, for messages without a priority."""

_PRIORITY = re.compile(r"<(\d{1,3})>")
_HEADER = re.compile(r"[1-9]\d{0,2} (\S+) (\S+) (\S+) (\S+) (\S+) (?=[-\[])", re.ASCII)
_NAME = r'[^\s=\]"]{1,32}'
_VALUE = r'"(?:[^"\\]|\\.)*"'
_ELEMENT = re.compile(rf"\[({_NAME})((?: {_NAME}={_VALUE})*) ?\]", re.DOTALL)
_PARAM = re.compile(rf" ({_NAME})=({_VALUE})", re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\\]])')
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)

_OLD_TIME = re.compile(r"([A-Z][a-z]{2}) ([ \d]\d) (\d\d):(\d\d):(\d\d) ", re.ASCII)
_OLD_TAG = re.compile(r"([^\s:\[\]]{1,64})(?:\[(\d{1,10})\])?: ?", re.ASCII)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MAX_HOST: Final = 255

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_END_OF_TIME: Final = 253_402_300_799 * 1_000_000_000
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")


def parse(data: bytes, received: dt.datetime, peer: str = "") -> log_pb2.LogRecord:
    """Return the record of one message, without the framing that it came in.

    ``received`` (aware) and ``peer``, the sender's address, stand in for what the message does not say.
    """
    text = data.decode("utf-8", "replace").rstrip("\0\r\n")
    record = log_pb2.LogRecord(host=peer)
    record.observed_time.FromNanoseconds(_nanoseconds(received))
    priority, rest = _split_priority(text)
    facility, severity = divmod(priority, 8)
    record.severity = _SEVERITY_NUMBERS[severity]  # type: ignore[assignment]  # any number is one
    record.severity_text = _SEVERITIES[severity]
    record.attributes["syslog.facility"] = _FACILITIES[facility]
    if header := _HEADER.match(rest):
        _read_header(record, header)
        record.body = _read_structured_data(record, rest[header.end() :])
    else:
        record.body = _read_old(record, rest, received)
    if not record.HasField("time"):
        record.time.CopyFrom(record.observed_time)
    return record


def _split_priority(text: str) -> tuple[int, str]:
    match = _PRIORITY.match(text)
    if match is None or int(match[1]) > 191:
        return _DEFAULT_PRIORITY, text
    return int(match[1]), text[match.end() :]


def _read_header(record: log_pb2.LogRecord, header: re.Match[str]) -> None:
    time, host, application, process, message_id = header.groups()
    if (nanoseconds := _read_time(time)) is not None:
        record.time.FromNanoseconds(nanoseconds)
    if host != "-":
        record.host = host
    if application != "-":
        record.service = application
    _read_process(record, process)
    if message_id != "-":
        record.attributes["syslog.msgid"] = message_id


def _read_process(record: log_pb2.LogRecord, process: str) -> None:
    if process.isascii() and process.isdigit() and len(process) <= 10:
        record.process_id = int(process)
    elif process != "-":
        record.attributes["syslog.procid"] = process


def _read_time(text: str) -> int | None:
    """Return nanoseconds since 1970, None for what is no time since then (RFC 5424, 6.2.3)."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    try:
        whole = _nanoseconds(dt.datetime.fromisoformat(match[1] + match[3]))
    except (ValueError, OverflowError):
        return None
    return whole + int((match[2] or "0").ljust(9, "0")) if 0 <= whole < _END_OF_TIME else None


def _read_structured_data(record: log_pb2.LogRecord, rest: str) -> str:
    """Put the structured data into the record's attributes, and return the message behind it."""
    end = 0
    if rest.startswith("-"):
        end = 1
    while element := _ELEMENT.match(rest, end):
        end = element.end()
        for name, quoted in _PARAM.findall(element[2]):
            _set_parameter(record, element[1], name, _ESCAPED.sub(r"\1", quoted[1:-1]))
    if end < len(rest) and rest[end] != " ":
        return rest  # it was none
    return rest[end + 1 :].removeprefix("\ufeff")


def _set_parameter(record: log_pb2.LogRecord, element: str, name: str, value: str) -> None:
    if name == "trace_id" and _TRACE_ID.fullmatch(value):
        record.trace_id = value
    elif name == "span_id" and _SPAN_ID.fullmatch(value):
        record.span_id = value
    elif len(record.attributes) < MAX_ATTRIBUTES:
        record.attributes[f"{element}.{name}"] = value


def _read_old(record: log_pb2.LogRecord, rest: str, received: dt.datetime) -> str:
    """Read ``Jan  2 03:04:05 host program[123]: text``, of which anything may be missing; return the text."""
    if match := _OLD_TIME.match(rest):
        if (time := _guess_time(match, received)) is not None:
            record.time.FromNanoseconds(_nanoseconds(time))
        rest = rest[match.end() :]
        host, _, behind = rest.partition(" ")
        # syslog(3) leaves the host out when it writes to a socket of its own machine.
        if behind and len(host) <= _MAX_HOST and not _OLD_TAG.match(f"{host} "):
            record.host, rest = host, behind
    if tag := _OLD_TAG.match(rest):
        record.service = tag[1]
        _read_process(record, tag[2] or "-")
        rest = rest[tag.end() :]
    return rest


def _guess_time(match: re.Match[str], received: dt.datetime) -> dt.datetime | None:
    """Complete a time that names neither its year nor its zone: ours, and the latest year that is not to come."""
    month, day, *clock = match.groups()
    local = received.astimezone()
    for year in (local.year + 1, local.year, local.year - 1):
        try:
            hour, minute, second = map(int, clock)
            time = dt.datetime(year, _MONTHS.index(month) + 1, int(day), hour, minute, second).astimezone()
        except (ValueError, OverflowError):
            continue
        if time <= local + dt.timedelta(days=1):
            return time
    return None


def _nanoseconds(time: dt.datetime) -> int:
    return (time - _EPOCH) // dt.timedelta(microseconds=1) * 1000
