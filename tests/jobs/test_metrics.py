"""Queues and groups as Prometheus text, and on the gateway's ``/metrics``."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

import rpc
from gateway.app import Gateway
from gateway.config import Config
from rpc.embedded import Broker
from rpc.jobs import metrics
from tests.gateway.asgi import Client
from tests.jobs.conftest import World
from tests.jobs.lab import lab
from tests.waiting import until

Numbers = dict[tuple[str, str, str], float]


def parse(text: str) -> Numbers:
    """(name, destination, state) -> value."""
    return {
        (sample.name, sample.labels["messaging_destination_name"], sample.labels.get("state", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("natsmesh_")
    }


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered from one look to the next."""
    monkeypatch.setattr(metrics, "MAX_AGE", 0.0)


async def test_queues_and_groups(world: World, fresh: None) -> None:
    queues = rpc.QueueMetrics(world.connection, prefix=world.prefix)
    assert await queues.text() == b""

    async def bad(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "never")

    for what in ("bad", "a", "b"):
        await world.stub.Work(lab.request(what))
    async with rpc.Publisher(world.url, prefix=world.prefix) as publisher:
        await publisher.publish(lab.pb.Done(what="a"))
    found = parse((await queues.text()).decode())
    job = "jobs.lab.v1.Lab.Work"
    assert found["natsmesh_job_queue_jobs", job, "waiting"] == 3
    assert 0 < found["natsmesh_job_queue_oldest_seconds", job, ""] < 60
    await world.serve(lab.worker(bad=bad))

    class Shop(lab.grpc.ShopServicer):
        async def OnDone(self, request: Any, context: Any) -> Any:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "never")

    server = rpc.Server(world.url, prefix=world.prefix)
    lab.grpc.add_ShopServicer_to_server(Shop(), server)
    world.servers.append(server)
    await server.start()

    async def numbers() -> Numbers:
        return parse((await queues.text()).decode())

    async def is_done() -> bool:
        found = await numbers()
        return (
            found["natsmesh_job_queue_jobs", job, "dead"] == 1
            and found["natsmesh_job_queue_oldest_seconds", job, ""] == 0
            and found.get(("natsmesh_event_group_events", "events.lab.v1.Done", "dead")) == 1
        )

    await until(is_done)
    found = await numbers()
    assert [found["natsmesh_job_queue_jobs", job, state] for state in ("waiting", "in_flight", "scheduled")] == [
        0,
        0,
        0,
    ]
    assert found["natsmesh_event_group_events", "events.lab.v1.Done", "behind"] == 0


async def test_the_gateway_tells_them(world: World) -> None:
    await world.stub.Work(lab.request("a"))
    config = Config(nats_url=world.url, prefix=world.prefix)
    async with Gateway(config) as app:
        client = Client(app)
        text = (await client.get("/metrics")).body.decode()
        assert parse(text)["natsmesh_job_queue_jobs", "jobs.lab.v1.Lab.Work", "waiting"] == 1
        # Whoever asks without end does not have the broker asked each time.
        await world.stub.Work(lab.request("a"))
        before = time.monotonic()
        texts = await asyncio.gather(*(client.get("/metrics") for _ in range(20)))
        if time.monotonic() - before < 0.5:
            waiting = {
                parse(each.body.decode())["natsmesh_job_queue_jobs", "jobs.lab.v1.Lab.Work", "waiting"]
                for each in texts
            }
            assert len(waiting) <= 2


async def test_without_jetstream_there_are_none(lab_code: object) -> None:
    with Broker(port=0, config="jetstream: disabled") as broker:
        connection = await rpc.connect(broker.url)
        started = time.monotonic()
        assert await rpc.QueueMetrics(connection).text() == b""
        assert time.monotonic() - started < 1
        await connection.close()
