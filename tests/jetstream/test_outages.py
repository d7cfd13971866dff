"""Streams are wanted while the broker is away, restarts, has no JetStream, or is too old."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

import rpc
from rpc.embedded import Broker
from rpc.jetstream.api import JetStream
from rpc.jetstream.consumers import ensure_consumer
from rpc.jetstream.features import Feature, require
from rpc.jetstream.specs import ConsumerSpec, MigrationError, StreamError, StreamSpec
from rpc.jetstream.streams import ensure_stream

SPEC = StreamSpec(name="S", subjects=("s.>",))
GROUP = ConsumerSpec(name="G")


async def opened(broker: Broker) -> tuple[rpc.Connection, JetStream]:
    connection = await rpc.connect(broker.url)
    js = JetStream(connection)
    await js.start()
    return connection, js


async def test_it_is_all_there_after_a_crash_of_the_broker(tmp_path: Path) -> None:
    with Broker(port=0, store_dir=tmp_path) as broker:
        connection, js = await opened(broker)
        made = await ensure_stream(js, SPEC, migrate=True)
        await ensure_consumer(js, "S", GROUP, migrate=True)
        await js.publish("s.a", b"x", {})
        await asyncio.to_thread(broker.kill)
        # Who comes while the broker is away waits for it.
        waiting = asyncio.create_task(ensure_stream(js, SPEC, migrate=True, timeout=20))
        await asyncio.to_thread(broker.start)
        info = await waiting
        assert not info.created
        assert info.config == made.config
        assert info.messages == 1
        consumer = await ensure_consumer(js, "S", GROUP, migrate=True)
        assert not consumer.created
        assert consumer.unread == 1
        await js.close()
        await connection.close()


async def test_killed_at_any_moment_of_a_migration(tmp_path: Path) -> None:
    """Whatever the broker had done of it: in the end it is all as wanted, and no message is missing."""
    with Broker(port=0, store_dir=tmp_path) as broker:
        connection, js = await opened(broker)
        for round_ in range(6):
            spec = StreamSpec(name="S", subjects=("s.>",), description=f"round {round_}", max_bytes=10_000_000 + round_)
            group = ConsumerSpec(name="G", max_ack_pending=100 + round_)

            async def ensure(spec: StreamSpec = spec, group: ConsumerSpec = group) -> None:
                await ensure_stream(js, spec, migrate=True, timeout=20)
                await ensure_consumer(js, "S", group, migrate=True, timeout=20)

            work = asyncio.gather(*(ensure() for _ in range(3)))
            await asyncio.sleep(0.001 * round_)  # not to wait for anything: to hit another moment each time
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            await work
            info = await ensure_stream(js, spec, migrate=False)
            assert info.config["description"] == f"round {round_}"
            assert info.messages == round_, "one of each round before"
            consumer = await ensure_consumer(js, "S", group, migrate=False)
            assert consumer.config["max_ack_pending"] == 100 + round_
            assert consumer.unread == round_
            await js.publish("s.a", b"x", {})
        await js.close()
        await connection.close()


async def test_a_broker_that_stays_away(tmp_path: Path) -> None:
    with Broker(port=0, store_dir=tmp_path) as broker:
        connection, js = await opened(broker)
        await asyncio.to_thread(broker.kill)
        started = time.monotonic()
        with pytest.raises(ConnectionError, match=r"stream 'S': .*; this was tried for 0.5 s"):
            await ensure_stream(js, SPEC, migrate=True, timeout=0.5)
        with pytest.raises(ConnectionError, match=r"consumer 'G' of stream 'S': .*; this was tried for 0.2 s"):
            await ensure_consumer(js, "S", GROUP, migrate=True, timeout=0.2)
        assert time.monotonic() - started < 2
        await js.close()
        await connection.close()


async def test_a_broker_without_jetstream() -> None:
    with Broker(port=0, config="jetstream: disabled") as broker:
        connection, js = await opened(broker)
        with pytest.raises((ConnectionError, StreamError), match=r"JetStream (does not answer|not enabled)"):
            await ensure_stream(js, SPEC, migrate=True, timeout=0.5)
        await js.close()
        await connection.close()


class OldBroker:
    """Answers as nats-server before 2.11 does: it has no API level, and takes options that it does not know."""

    def __init__(self, level: int | None, js: JetStream) -> None:
        self.level, self._js = level, js

    async def request(
        self, subject: str, body: dict[str, Any] | None = None, *, timeout: float = 5.0
    ) -> dict[str, Any]:
        reply = await self._js.request(subject, body, timeout=timeout)
        if subject == "INFO":
            if self.level is None:
                del reply["api"]["level"]
            else:
                reply["api"]["level"] = self.level
        return reply


async def test_what_only_a_newer_broker_has_is_asked_for_by_name(js: JetStream) -> None:
    await require(js, "method x.v1.X.M", Feature.REPEATED_SCHEDULES, Feature.MESSAGE_TTL)
    with pytest.raises(StreamError, match=r"method x\.v1\.X\.M needs .* repeats by a schedule, .* has from 2\.14 on"):
        await require(OldBroker(3, js), "method x.v1.X.M", Feature.REPEATED_SCHEDULES, Feature.MESSAGE_TTL)
    await require(OldBroker(None, js), "nothing")


@pytest.mark.parametrize(
    ("level", "values", "needs"),
    [
        (None, {"allow_msg_ttl": True}, "2.11"),
        (0, {"allow_msg_ttl": True}, "2.11"),
        (None, {"allow_msg_schedules": True}, "2.12"),
        (1, {"allow_msg_schedules": True, "allow_msg_ttl": True}, "2.12"),
        (1, {"allow_msg_ttl": True}, ""),
        (None, {}, ""),
        (2, {"allow_msg_schedules": True}, ""),
    ],
)
async def test_a_broker_that_is_too_old(
    js: JetStream, name: str, level: int | None, values: dict[str, Any], needs: str
) -> None:
    """Before anything is made there: an old server would take the option without a word."""
    old = OldBroker(level, js)
    spec = StreamSpec(name=name, subjects=(f"{name}.>",), **values)
    if not needs:
        assert (await ensure_stream(old, spec, migrate=False)).created
        return
    with pytest.raises(StreamError, match=f"nats-server has from {needs} on, and the broker is older: update it"):
        await ensure_stream(old, spec, migrate=False)
    # Nor is one that exists made to lie.
    await ensure_stream(old, StreamSpec(name=name, subjects=(f"{name}.>",)), migrate=True)
    with pytest.raises(StreamError, match=f"from {needs} on"):
        await ensure_stream(old, spec, migrate=True)
    with pytest.raises(MigrationError):
        await ensure_stream(old, spec, migrate=False)
