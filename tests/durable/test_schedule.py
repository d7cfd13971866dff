"""What is taken for a schedule is what the broker takes for one: it is asked."""

import secrets
from collections.abc import AsyncIterator

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.errors import APIError

from rpc.durable.schedule import check_schedule

INVALID_SCHEDULE = 10189

GOOD = (
    "@every 1s",
    "@every 1h30m",
    "@every 1.5s",
    "@every 90000ms",
    *("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"),
    "0 * * * * *",
    "*/5 0-30/10 1,2,3 1-31 * *",
    "0 30 4 ? JAN-mar,12 Mon-FRI",
    "59 59 23 31 12 6",
    "0 0 0 1 1 0",
    "0  0 4 * * *",
    "5/15 0 * * * SUN,2-4",
)
BAD = {
    "* * * * *": "six fields",
    "0 0 0 0 * * *": "six fields",
    "60 * * * * *": "second",
    "0 -1 * * * *": "minute",
    "0 0 24 * * *": "hour",
    "0 0 0 0 * *": "day of month",
    "0 0 0 * 13 *": "month",
    "0 0 0 * * 7": "day of week",
    "0 0 0 * * monday": "day of week",
    "0 5-1 * * * *": "minute",
    "*/0 * * * * *": "second",
    "x * * * * *": "second",
    "@every 500ms": "1s and more",
    "@every 5": "not a duration",
    "@every -5m": "not a duration",
    "@fortnightly": "@hourly",
    "@every": "@hourly",
}
STRICTER = {
    "": "six fields",
    "0, * * * * *": "second",
    "0\n0 0 * * * *": "second",
    "\uff10 * * * * *": "second",
}
"""What is refused here only: a slip of the pen, or nothing for a header."""


@pytest.fixture
async def stream(nats_url: str) -> AsyncIterator[tuple[JetStreamContext, str]]:
    client = await nats.connect(nats_url)
    name = f"schedules-{secrets.token_hex(4)}"
    config = f'{{"name": "{name}", "subjects": ["{name}.>"], "storage": "memory", "allow_msg_schedules": true}}'
    await client.request(f"$JS.API.STREAM.CREATE.{name}", config.encode(), timeout=5)
    yield client.jetstream(), name
    await client.request(f"$JS.API.STREAM.DELETE.{name}", b"", timeout=5)
    await client.close()


async def broker_takes(stream: tuple[JetStreamContext, str], schedule: str) -> bool:
    jetstream, name = stream
    headers = {"Nats-Schedule": schedule, "Nats-Schedule-Target": f"{name}.target"}
    try:
        await jetstream.publish(f"{name}.later.{secrets.token_hex(4)}", b"", headers=headers)
    except APIError as error:
        return error.err_code != INVALID_SCHEDULE
    return True


async def test_what_is_taken_is_taken_by_the_broker(stream: tuple[JetStreamContext, str]) -> None:
    for schedule in GOOD:
        assert check_schedule(schedule) == schedule
        assert await broker_takes(stream, schedule), schedule


async def test_what_is_refused_is_refused_by_the_broker(stream: tuple[JetStreamContext, str]) -> None:
    for schedule, problem in BAD.items():
        with pytest.raises(ValueError, match=problem):
            check_schedule(schedule)
        assert not await broker_takes(stream, schedule), schedule


def test_slips_are_refused() -> None:
    for schedule, problem in STRICTER.items():
        with pytest.raises(ValueError, match=problem):
            check_schedule(schedule)
