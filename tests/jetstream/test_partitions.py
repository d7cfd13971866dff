"""The partitions of an event type change while it is published and handled: no event goes where nobody looks."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import empty_pb2

import rpc
from accounts.v1 import accounts_pb2
from mailer.v1 import mailer_pb2_grpc
from rpc.durable.options import EventOptions, event_of
from rpc.events.layout import stream
from rpc.jetstream.api import JetStream
from rpc.jetstream.specs import StreamSpec
from rpc.jetstream.streams import MigrationError, ensure_stream
from rpc.subjects import Subjects

KEYS = [f"account-{number}" for number in range(40)]


@pytest.fixture
def subjects(name: str) -> Subjects:
    return Subjects(name)


def keyed(subjects: Subjects, partitions: int) -> StreamSpec:
    """The stream of an event type that has a key, as a ``.proto`` with so many partitions wants it."""
    options: EventOptions = event_of(accounts_pb2.UserSignedUp.DESCRIPTOR)
    assert options.key == "account_id"
    return stream(subjects, replace(options, partitions=partitions))


def sign_up(key: str) -> Any:
    return accounts_pb2.UserSignedUp(account_id=key)


async def counts(js: JetStream, spec: StreamSpec) -> dict[str, int]:
    """How many events each partition has."""
    state = (await js.request(f"STREAM.INFO.{spec.name}", {"subjects_filter": ">"}))["state"]
    return {subject.rpartition(".")[2]: count for subject, count in (state.get("subjects") or {}).items()}


async def test_publishers_spread_keys_as_the_stream_says(js: JetStream, nats_url: str, subjects: Subjects) -> None:
    wanted = keyed(subjects, 2)
    await ensure_stream(js, wanted, migrate=True)
    # Its .proto says 4.
    async with rpc.Publisher(nats_url, prefix=subjects.prefix.rstrip(".")) as publisher:
        await asyncio.gather(*(publisher.publish(sign_up(key)) for key in KEYS))
    assert set(await counts(js, wanted)) == {"0", "1"}


async def test_a_publisher_notices_that_partitions_are_gone(js: JetStream, nats_url: str, subjects: Subjects) -> None:
    await ensure_stream(js, keyed(subjects, 8), migrate=True)
    async with rpc.Publisher(nats_url, prefix=subjects.prefix.rstrip(".")) as publisher:
        await publisher.publish(sign_up(KEYS[0]))
        fewer = keyed(subjects, 3)
        await js.request(f"STREAM.PURGE.{fewer.name}")
        await ensure_stream(js, fewer, migrate=True)
        await asyncio.gather(*(publisher.publish(sign_up(key)) for key in KEYS))
    after = await counts(js, fewer)
    assert set(after) == {"0", "1", "2"}
    assert sum(after.values()) == len(KEYS)


async def test_a_key_is_not_taken_away_from_stored_events(js: JetStream, nats_url: str, subjects: Subjects) -> None:
    await ensure_stream(js, keyed(subjects, 4), migrate=True)
    async with rpc.Publisher(nats_url, prefix=subjects.prefix.rstrip(".")) as publisher:
        await publisher.publish(sign_up("a"))
    options = replace(event_of(accounts_pb2.UserSignedUp.DESCRIPTOR), key="", partitions=1)
    with pytest.raises(MigrationError, match="would not take"):
        await ensure_stream(js, stream(subjects, options), migrate=True)
    with pytest.raises(MigrationError, match="it does not take"):
        await ensure_stream(js, stream(subjects, options), migrate=False)


async def test_a_group_handles_events_of_partitions_that_come(js: JetStream, nats_url: str, subjects: Subjects) -> None:
    prefix = subjects.prefix.rstrip(".")
    seen: set[str] = set()
    everything = asyncio.Event()

    class Mailer(mailer_pb2_grpc.MailerServicer):
        async def WelcomeUser(self, request: Any, context: Any) -> Any:
            seen.add(request.account_id)
            if len(seen) == len(KEYS):
                everything.set()
            return empty_pb2.Empty()

    server = rpc.Server(nats_url, prefix=prefix)
    mailer_pb2_grpc.add_MailerServicer_to_server(Mailer(), server)
    await server.start()
    wider = keyed(subjects, 16)
    await ensure_stream(js, wider, migrate=True)
    async with rpc.Publisher(nats_url, prefix=prefix) as publisher:
        await asyncio.gather(*(publisher.publish(sign_up(key)) for key in KEYS))
    assert len(await counts(js, wider)) > 4
    async with asyncio.timeout(10):
        await everything.wait()
    await server.stop(1)
