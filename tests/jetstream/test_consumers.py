"""Consumers as the .proto wants them: made once, migrated, and never so that messages are skipped."""

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rpc.jetstream.api import JetStream
from rpc.jetstream.consumers import ensure_consumer
from rpc.jetstream.specs import VERSION, ConsumerInfo, ConsumerSpec, MigrationError, StreamError, StreamSpec
from rpc.jetstream.streams import ensure_stream


@pytest.fixture
async def stream(js: JetStream, name: str) -> str:
    """A stream with the subjects NAME.a and NAME.b, one message each."""
    await ensure_stream(js, StreamSpec(name=name, subjects=(f"{name}.>",)), migrate=True)
    for subject in ("a", "b"):
        await js.publish(f"{name}.{subject}", b"", {})
    return name


def group(**values: Any) -> ConsumerSpec:
    return replace(ConsumerSpec(name="M", description="a group"), **values)


async def find(js: JetStream, stream: str) -> dict[str, Any]:
    return await js.request(f"CONSUMER.INFO.{stream}.M")


async def refused(js: JetStream, stream: str, spec: ConsumerSpec, *, migrate: bool = True) -> str:
    """Return why a consumer is refused, after a look whether it was really left alone."""
    before = (await find(js, stream))["config"]
    with pytest.raises(MigrationError) as refusal:
        await ensure_consumer(js, stream, spec, migrate=migrate)
    assert (await find(js, stream))["config"] == before
    assert refusal.value.what == f"consumer 'M' of stream {stream!r}"
    return str(refusal.value)


async def read(nats_url: str, stream: str, count: int) -> list[str]:
    """Take messages as a worker would, and return their subjects."""
    import nats

    client = await nats.connect(nats_url)
    subscription = await client.jetstream().pull_subscribe_bind("M", stream)
    subjects = []
    for _ in range(count):
        for message in await subscription.fetch(1, timeout=5):
            subjects.append(message.subject.rpartition(".")[2])
            await message.ack_sync()
    await client.close()
    return subjects


@pytest.mark.parametrize("migrate", [False, True])
async def test_a_missing_one_is_made(js: JetStream, stream: str, migrate: bool) -> None:
    spec = group(filter_subject=f"{stream}.a", ack_wait=5, max_ack_pending=7)
    info = await ensure_consumer(js, stream, spec, migrate=migrate)
    assert info.created
    assert info.unread == 1
    config = info.config
    assert (config["ack_policy"], config["deliver_policy"], config["max_deliver"]) == ("explicit", "all", -1)
    assert (config["ack_wait"], config["max_ack_pending"], config["filter_subject"]) == (5 * 10**9, 7, f"{stream}.a")
    assert config["metadata"][VERSION]
    assert not (await ensure_consumer(js, stream, spec, migrate=migrate)).created


async def test_where_a_new_one_begins(js: JetStream, stream: str, nats_url: str) -> None:
    assert (await ensure_consumer(js, stream, group(deliver_policy="new"), migrate=True)).unread == 0
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    spec = group(name="past", deliver_policy="by_start_time", start_time=hour_ago)
    assert (await ensure_consumer(js, stream, spec, migrate=True)).unread == 2
    spec = group(name="soon", deliver_policy="by_start_time", start_time=hour_ago + timedelta(hours=2))
    assert (await ensure_consumer(js, stream, spec, migrate=True)).unread == 0


async def test_an_existing_one_goes_on_from_where_it_is(
    js: JetStream, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rpc.jetstream")
    await ensure_consumer(js, stream, group(), migrate=True)
    info = await ensure_consumer(js, stream, group(deliver_policy="new"), migrate=True)
    assert info.unread == 2
    assert "began with 'all' and goes on from where it is: 'new' is for new ones" in caplog.text


async def test_many_make_it_at_once(js: JetStream, stream: str) -> None:
    work = [ensure_consumer(js, stream, group(max_ack_pending=1 + number % 2), migrate=True) for number in range(20)]
    infos: list[ConsumerInfo] = await asyncio.gather(*work)
    assert {info.name for info in infos} == {"M"}
    assert (await find(js, stream))["config"]["max_ack_pending"] in (1, 2)


async def test_it_is_brought_up_to_date_and_keeps_its_place(
    js: JetStream, stream: str, nats_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rpc.jetstream")
    await ensure_consumer(js, stream, group(), migrate=True)
    assert await read(nats_url, stream, 1) == ["a"]
    changed = group(ack_wait=60, max_ack_pending=5, description="better")
    assert (await ensure_consumer(js, stream, changed, migrate=False)).config["max_ack_pending"] == 1000
    info = await ensure_consumer(js, stream, changed, migrate=True)
    assert (info.config["ack_wait"], info.config["max_ack_pending"]) == (60 * 10**9, 5)
    assert info.config["description"] == "better"
    assert info.unread == 1
    caplog.clear()
    await ensure_consumer(js, stream, changed, migrate=True)
    assert not caplog.messages
    assert await read(nats_url, stream, 1) == ["b"]


async def test_what_operators_set_stays(js: JetStream, stream: str) -> None:
    config = (await ensure_consumer(js, stream, group(), migrate=True)).config
    by_hand = {"max_batch": 17, "sample_freq": "100"}
    body = {"stream_name": stream, "config": {**config, **by_hand, "metadata": {"owner": "shop"}}, "action": "update"}
    await js.request(f"CONSUMER.CREATE.{stream}.M", body)
    await js.request(f"CONSUMER.PAUSE.{stream}.M", {"pause_until": "2126-01-01T00:00:00Z"})
    await ensure_consumer(js, stream, group(ack_wait=7), migrate=True)
    assert (await find(js, stream))["paused"]
    config = (await find(js, stream))["config"]
    assert config["ack_wait"] == 7 * 10**9
    assert {key: config[key] for key in by_hand} == by_hand
    assert config["metadata"]["owner"] == "shop"


async def test_one_that_would_end_or_give_up_by_itself_is_mended(js: JetStream, stream: str) -> None:
    config = (await ensure_consumer(js, stream, group(), migrate=True)).config
    by_hand = {"inactive_threshold": 60 * 10**9, "max_deliver": 3}
    body = {"stream_name": stream, "config": {**config, **by_hand}, "action": "update"}
    await js.request(f"CONSUMER.CREATE.{stream}.M", body)
    config = (await ensure_consumer(js, stream, group(), migrate=True)).config
    assert config.get("inactive_threshold", 0) == 0
    assert config["max_deliver"] == -1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"deliver_subject": "somewhere"}, "it pushes to 'somewhere', and the mesh pulls"),
        ({"ack_policy": "all"}, "its acknowledgements are 'all', and have to be 'explicit'"),
        ({"headers_only": True}, "it delivers headers without their messages"),
        ({"backoff": [10**9]}, "it has a backoff, which takes the place of ack_wait"),
        ({"mem_storage": True}, "it is kept in memory"),
    ],
)
async def test_consumers_of_a_foreign_shape(js: JetStream, stream: str, config: dict[str, Any], reason: str) -> None:
    body = {"stream_name": stream, "config": {"durable_name": "M", "ack_policy": "explicit", **config}}
    await js.request(f"CONSUMER.CREATE.{stream}.M", body)
    for migrate in (False, True):
        why = await refused(js, stream, group(), migrate=migrate)
        assert reason in why
        assert f"`nats consumer rm {stream} M`" in why


async def test_what_is_not_handled_is_not_skipped(js: JetStream, stream: str, nats_url: str) -> None:
    await ensure_consumer(js, stream, group(), migrate=True)
    await read(nats_url, stream, 1)
    narrow = group(filter_subject=f"{stream}.a")
    why = await refused(js, stream, narrow)
    assert f"would take '{stream}.a' instead of '>', and 1 messages are not handled yet" in why
    await read(nats_url, stream, 1)
    info = await ensure_consumer(js, stream, narrow, migrate=True)
    assert info.config["filter_subject"] == f"{stream}.a"
    # And back: what it would take anew lies behind it.
    why = await refused(js, stream, group())
    assert f"messages of '{stream}.b' are stored, of which it would skip those that it has passed" in why
    # One that has passed nothing takes all.
    await js.request(f"CONSUMER.DELETE.{stream}.M")
    await ensure_consumer(js, stream, narrow, migrate=True)
    info = await ensure_consumer(js, stream, group(), migrate=True)
    assert info.unread == 2
    assert await read(nats_url, stream, 2) == ["a", "b"]


async def test_several_filters_become_one(js: JetStream, stream: str) -> None:
    filters = [f"{stream}.a", f"{stream}.b"]
    body = {
        "stream_name": stream,
        "config": {"durable_name": "M", "ack_policy": "explicit", "filter_subjects": filters},
    }
    await js.request(f"CONSUMER.CREATE.{stream}.M", body)
    info = await ensure_consumer(js, stream, group(filter_subject=f"{stream}.*"), migrate=True)
    assert info.config["filter_subject"] == f"{stream}.*"
    assert not info.config.get("filter_subjects")
    assert info.unread == 2


async def test_what_publishers_cannot_use_as_it_is(js: JetStream, stream: str) -> None:
    await ensure_consumer(js, stream, group(filter_subject=f"{stream}.a"), migrate=True)
    await ensure_consumer(js, stream, group(filter_subject=f"{stream}.a"), migrate=False)
    assert f"takes {stream}.a and not >" in await refused(js, stream, group(), migrate=False)


async def test_a_message_of_a_work_queue_has_one_consumer(js: JetStream, name: str) -> None:
    queue = StreamSpec(name=name, subjects=(f"{name}.>",), retention="workqueue")
    await ensure_stream(js, queue, migrate=True)
    await ensure_consumer(js, name, ConsumerSpec(name="Old", filter_subject=f"{name}.a"), migrate=True)
    with pytest.raises(MigrationError, match=r"'Old' takes messages of .* already") as refusal:
        await ensure_consumer(js, name, group(filter_subject=f"{name}.*"), migrate=True)
    assert f"`nats consumer rm {name} Old`" in str(refusal.value)


async def test_what_the_broker_refuses(js: JetStream, name: str) -> None:
    queue = StreamSpec(name=name, subjects=(f"{name}.>",), retention="workqueue")
    await ensure_stream(js, queue, migrate=True)
    with pytest.raises(StreamError, match="is refused by the broker: consumer must be deliver all on workqueue"):
        await ensure_consumer(js, name, group(deliver_policy="new"), migrate=True)
    with pytest.raises(StreamError, match="stream not found"):
        await ensure_consumer(js, f"{name}-missing", group(), migrate=True)


def test_specs_that_say_half_of_it() -> None:
    with pytest.raises(ValueError, match="start_time"):
        group(deliver_policy="by_start_time")
    with pytest.raises(ValueError, match="start_time"):
        group(start_time=datetime.now(UTC))
    with pytest.raises(ValueError, match="time zone"):
        group(deliver_policy="by_start_time", start_time=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
    with pytest.raises(ValueError, match="names no"):
        group(name="a.b")
