"""Syslog messages of all kinds become log records; nothing that is sent fails."""

import datetime as dt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.v1 import log_pb2
from natsmesh.syslog.message import MAX_ATTRIBUTES, parse

RECEIVED = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def read(text: str | bytes, received: dt.datetime = RECEIVED) -> log_pb2.LogRecord:
    return parse(text.encode() if isinstance(text, str) else text, received, "10.0.0.7")


def test_the_first_example_of_the_rfc() -> None:
    record = read(
        "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - "
        "\ufeff'su root' failed for lonvick on /dev/pts/8"
    )
    assert record.time.ToJsonString() == "2003-10-11T22:14:15.003Z"
    assert record.observed_time.ToDatetime(dt.UTC) == RECEIVED
    assert (record.host, record.service, record.process_id) == ("mymachine.example.com", "su", 0)
    assert (record.severity, record.severity_text) == (log_pb2.SEVERITY_ERROR2, "crit")
    assert record.body == "'su root' failed for lonvick on /dev/pts/8"
    assert record.attributes == {"syslog.facility": "auth", "syslog.msgid": "ID47"}


def test_structured_data_becomes_attributes() -> None:
    record = read(
        "<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - "
        r'[exampleSDID@32473 iut="3" eventSource="App\"li\]cation\\" eventID="1011"]'
        '[examplePriority@32473 class="high"] An application event'
    )
    assert record.time.ToJsonString() == "2003-08-24T12:14:15.000003Z"
    assert record.process_id == 8710
    assert record.body == "An application event"
    assert record.attributes == {
        "syslog.facility": "local4",
        "exampleSDID@32473.iut": "3",
        "exampleSDID@32473.eventSource": 'App"li]cation\\',
        "exampleSDID@32473.eventID": "1011",
        "examplePriority@32473.class": "high",
    }


def test_a_trace_in_the_structured_data_is_the_trace_of_the_record() -> None:
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    record = read(f'<14>1 - - shop - - [trace@1 trace_id="{trace}" span_id="{span}"] paid')
    assert (record.trace_id, record.span_id, record.body) == (trace, span, "paid")
    assert not read(f'<14>1 - - shop - - [trace@1 trace_id="{"0" * 32}"] paid').trace_id


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        ("<14>1 - - - - - -", ""),
        ("<14>1 - - - - - - ", ""),
        ("<14>1 - - - - - [a]", ""),
        ("<14>1 - - - - - [a] text", "text"),
        ("<14>1 - - - - - -text", "-text"),
        ('<14>1 - - - - - [a b="c" text', '[a b="c" text'),
        ('<14>1 - - - - - [a b="]"]x', '[a b="]"]x'),
    ],
)
def test_the_end_of_structured_data(sent: str, body: str) -> None:
    record = read(sent)
    assert record.body == body
    assert record.host == "10.0.0.7", "the peer, where the message names none"


@pytest.mark.parametrize(
    "time",
    ["-", "yesterday", "2026-02-30T00:00:00Z", "2026-01-01T00:00:60Z", "0001-01-01T00:00:00+14:00", "2026-01-01"],
)
def test_what_has_no_time_has_that_of_its_arrival(time: str) -> None:
    record = read(f"<14>1 {time} host app 1 - - text")
    assert record.time.ToDatetime(dt.UTC) == RECEIVED
    assert record.body == "text"


@pytest.mark.parametrize(
    ("sent", "host", "service", "process", "body"),
    [
        ("<34>Oct 11 22:14:15 mymachine su[230]: failed", "mymachine", "su", 230, "failed"),
        ("<13>Jan  2 03:04:05 rack-7 cron: done: 1", "rack-7", "cron", 0, "done: 1"),
        ("<13>Jan  2 03:04:05 cron[9]: done", "10.0.0.7", "cron", 9, "done"),
        ("<13>Jan  2 03:04:05 rack-7 no tag at all", "rack-7", "", 0, "no tag at all"),
        ("<13>cron[9]: done", "10.0.0.7", "cron", 9, "done"),
        ("<13>Feb 30 03:04:05 rack-7 cron: done", "rack-7", "cron", 0, "done"),
        ("<13>something happened\0", "10.0.0.7", "", 0, "something happened"),
        ("no priority", "10.0.0.7", "", 0, "no priority"),
        ("<999>app: what", "10.0.0.7", "<999>app", 0, "what"),
        ("", "10.0.0.7", "", 0, ""),
    ],
)
def test_what_programs_did_before(sent: str, host: str, service: str, process: int, body: str) -> None:
    record = read(sent)
    assert (record.host, record.service, record.process_id, record.body) == (host, service, process, body)


def test_a_time_without_a_year_is_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def when(sent: str, received: dt.datetime) -> dt.datetime:
        return read(f"<13>{sent} host app: x", received).time.ToDatetime(dt.UTC)

    new_year = dt.datetime(2026, 1, 1, 0, 0, 1).astimezone()
    assert when("Dec 31 23:59:59", new_year) == dt.datetime(2025, 12, 31, 23, 59, 59).astimezone()
    assert when("Jan  1 00:00:00", new_year) == dt.datetime(2026, 1, 1).astimezone()
    before = dt.datetime(2025, 12, 31, 23, 59, 59).astimezone()
    assert when("Jan  1 00:00:01", before) == dt.datetime(2026, 1, 1, 0, 0, 1).astimezone(), "a clock that is ahead"


def test_severities_are_those_of_opentelemetry() -> None:
    numbers = [read(f"<{8 + severity}>1 - - - - - - x").severity for severity in range(8)]
    assert numbers == [21, 19, 18, 17, 13, 10, 9, 5]


def test_attributes_are_bounded() -> None:
    data = "".join(f'[id{number} a="b"]' for number in range(1000))
    assert len(read(f"<14>1 - - - - - {data} x").attributes) == MAX_ATTRIBUTES


FIELD = st.one_of(st.just("-"), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20))


@given(st.integers(0, 191), st.tuples(FIELD, FIELD, FIELD, FIELD), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_message_survives(priority: int, fields: tuple[str, str, str, str], body: str) -> None:
    record = read(f"<{priority}>1 - {' '.join(fields)} - {body}")
    host, application, _, _ = fields
    assert record.host == (host if host != "-" else "10.0.0.7")
    assert record.service == application.removeprefix("-" if application == "-" else "")
    assert record.body == body.rstrip("\0\r\n").removeprefix("\ufeff")


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"]))))
def test_structured_data_survives(parameters: dict[str, str]) -> None:
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]") for name, value in parameters.items()
    }
    data = "".join(f' {name}="{value}"' for name, value in escaped.items())
    record = read(f"<14>1 - - - - - [x@1{data}] body")
    assert record.body == "body"
    assert record.attributes == {"syslog.facility": "user", **{f"x@1.{key}": v for key, v in parameters.items()}}


@given(st.binary() | st.text(st.sampled_from('<>1 -[]\\"=aJn:\0\n3T\ufeff')).map(str.encode))
@example(b"<14>1 - - - - - [" + b'a b="' * 5000)
@example(b"<14>1 - - - - - " + b"[a]" * 20000 + b"x")
@example(b"<14>Jan  2 03:04:05 " + b"a" * 60000)
def test_nothing_fails(data: bytes) -> None:
    record = parse(data, RECEIVED)
    assert log_pb2.LogRecord.FromString(record.SerializeToString()) == record
