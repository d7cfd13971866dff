"""ADR-32: what every tool of NATS may ask a back-end about itself, asked without our library."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import nats.aio.client
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

import rpc
from tests.integration import drill
from tests.integration.processes import Backends, Process

FOLDER = Path(__file__).with_name("adr32")
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)
NAME = "drill_v1_Drill"


def check(reply: dict[str, Any], kind: str) -> None:
    """Validate against the schema of this kind of reply."""
    Draft202012Validator.check_schema(SCHEMAS[kind])
    errors = [error.message for error in Draft202012Validator(SCHEMAS[kind], registry=REGISTRY).iter_errors(reply)]
    assert errors == [], reply


class Asker:
    """Asks with nats-py, as any tool would."""

    def __init__(self, client: nats.aio.client.Client) -> None:
        self._client = client

    async def ask(self, subject: str, expected: int) -> list[dict[str, Any]]:
        """The replies of the mesh's instances that come until there are as many as expected; no more may come."""
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox)
        await self._client.publish(subject, reply=inbox)
        replies = []
        for _ in range(expected):
            message = await subscription.next_msg(5)
            assert message.headers is None
            replies.append(json.loads(message.data))
        await self._client.flush()
        await asyncio.sleep(0)
        assert subscription.pending_msgs == 0
        await subscription.unsubscribe()
        return replies


@pytest.fixture
async def asker(nats_url: str) -> AsyncIterator[Asker]:
    client = await nats.connect(nats_url)
    yield Asker(client)
    await client.close()


@pytest.fixture
async def processes(backends: Backends) -> list[Process]:
    return [*await backends.start("one", "two", version="1.2.3-rc.1+build.5"), *await backends.start("three")]


async def test_every_way_of_asking_gets_valid_replies(
    asker: Asker, processes: list[Process], channel: rpc.Channel
) -> None:
    work = drill.method(channel)
    for request in ({}, {"sleep": 0.02}, {"fail": "NOT_FOUND", "details": 'not "here" \u00e4\n%'}):
        for _ in range(4):
            await work(request, timeout=5).code()
    ids = {process.instance for process in processes}
    for kind in ("ping", "info", "stats"):
        for subject, expected in [
            (f"$SRV.{kind.upper()}", ids),
            (f"$SRV.{kind.upper()}.{NAME}", ids),
            (f"$SRV.{kind.upper()}.{NAME}.{processes[0].instance}", {processes[0].instance}),
        ]:
            replies = await asker.ask(subject, len(expected))
            for reply in replies:
                check(reply, kind)
                assert reply["name"] == NAME
            assert {reply["id"] for reply in replies} == expected


async def test_what_the_replies_say(asker: Asker, processes: list[Process], prefix: str) -> None:
    one = processes[0]
    replies = {reply["id"]: reply for reply in await asker.ask(f"$SRV.INFO.{NAME}", 3)}
    assert [replies[process.instance]["version"] for process in processes] == [
        *["1.2.3-rc.1+build.5"] * 2,
        "1.0.0",
    ]
    info = replies[one.instance]
    assert info["metadata"]["mesh-service"] == drill.SERVICE
    assert info["metadata"]["mesh-wire"] == "1.1"
    digests = {reply["metadata"]["mesh-schema"] for reply in replies.values()}
    assert len(digests) == 1
    assert {endpoint["name"]: endpoint["subject"] for endpoint in info["endpoints"]} == {
        name: f"{prefix}.rpc.drill.v1.Drill.{name}" for name in ("Work", "Ask")
    }
    assert {endpoint["metadata"]["mesh-method"] for endpoint in info["endpoints"]} == {
        "drill.v1.Drill/Work",
        "drill.v1.Drill/Ask",
    }


async def test_the_numbers_are_those_of_the_calls(asker: Asker, backends: Backends, channel: rpc.Channel) -> None:
    await backends.start("one")
    work = drill.method(channel)
    for _ in range(3):
        await work({"sleep": 0.02}, timeout=5)
    for _ in range(2):
        await work({"fail": "NOT_FOUND", "details": "no such thing"}, timeout=5).code()
    (stats,) = await asker.ask(f"$SRV.STATS.{NAME}", 1)
    check(stats, "stats")
    numbers = {endpoint["name"]: endpoint for endpoint in stats["endpoints"]}
    assert (numbers["Work"]["num_requests"], numbers["Work"]["num_errors"]) == (5, 2)
    assert numbers["Work"]["last_error"] == "no such thing"
    assert 50e6 < numbers["Work"]["processing_time"] < 2e9  # a sleep may end a little early
    assert numbers["Work"]["average_processing_time"] == numbers["Work"]["processing_time"] // 5
    assert (numbers["Ask"]["num_requests"], numbers["Ask"]["average_processing_time"]) == (0, 0)
    assert numbers["Work"]["data"]["limit"] == 100


async def test_questions_of_others_are_not_answered(asker: Asker, processes: list[Process], nats_url: str) -> None:
    client = await nats.connect(nats_url)
    for subject in (f"$SRV.PING.{NAME}.nobody", "$SRV.PING.other", f"$SRV.INFO.{NAME}.a.b"):
        with pytest.raises(nats.errors.NoRespondersError):
            await client.request(subject, timeout=2)
    await client.close()


async def test_a_plain_nats_client_can_call_and_is_told_of_errors_as_adr_32_says(
    processes: list[Process], nats_url: str, prefix: str
) -> None:
    client = await nats.connect(nats_url)
    subject = f"{prefix}.rpc.drill.v1.Drill.Work"
    reply = await client.request(subject, drill._encode({}), timeout=5)
    assert drill._decode(reply.data)["by"] in ("one", "two", "three")
    assert reply.headers is None
    reply = await client.request(subject, drill._encode({"fail": "NOT_FOUND", "details": "nothing \u00e4"}), timeout=5)
    assert reply.headers
    assert reply.headers["Nats-Service-Error-Code"] == "5"
    assert reply.headers["Nats-Service-Error"].startswith("nothing")
    await client.close()
