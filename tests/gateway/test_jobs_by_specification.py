"""A caller and a worker written from docs/wire-protocol.md alone, with nats-py, beside ours."""

import asyncio
import gzip
import hashlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from nats.aio.client import Client as Nats
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig

import rpc
from mesh.v1 import job_pb2
from tests.gateway.asgi import Client
from tests.gateway.test_operations import Site, until, wait
from tests.gateway.works import SERVICE, message, schema

METHOD = f"{SERVICE}/Print"


@pytest.fixture
async def site(nats_url: str) -> AsyncIterator[Site]:
    site = Site(nats_url, f"t{secrets.token_hex(4)}")
    yield site
    await site.close()


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Nats]:
    bus = await nats.connect(nats_url)
    yield bus
    await bus.close()


async def test_a_caller(site: Site, bus: Nats) -> None:
    await site.worker()
    client = await site.gateway()
    job_id = hashlib.sha256(f"{METHOD}\0mine".encode()).hexdigest()[:32]
    request = message("PrintRequest")(text="raw", request_id="mine").SerializeToString()
    subject = f"{site.prefix}.jobs.{SERVICE}.Print.{job_id}"
    for duplicate in (None, True):
        ack = await bus.jetstream().publish(subject, request, headers={"Nats-Msg-Id": job_id, "x-color": "blue"})
        assert (ack.stream, ack.duplicate) == (f"{site.prefix}-JOBS-works_v1_Works", duplicate)
    done = await wait(client, f"operations/{METHOD}/{job_id}")
    assert done["response"]["printed"] == "raw"
    # The record is where the page says, and is what ours answer by.
    bucket = f"{site.prefix}-operations"
    stored = await bus.jetstream().get_last_msg(f"KV_{bucket}", f"$KV.{bucket}.{SERVICE}.Print.{job_id}")
    record = job_pb2.Job.FromString(stored.data or b"")
    assert (record.name, record.state) == (f"operations/{METHOD}/{job_id}", job_pb2.Job.STATE_SUCCEEDED)
    again = await client.post("/v1/prints", json={"requestId": "mine"})
    assert again.json == done


class RawWorker:
    """Step by step as in "Working"; its name in the numbers of the page."""

    def __init__(self, bus: Nats, prefix: str) -> None:
        self.js = bus.jetstream()
        self.bucket = f"{prefix}-operations"
        self.stream = f"{prefix}-JOBS-works_v1_Works"
        self.filter = f"{prefix}.jobs.{SERVICE}.Print.*"
        self.prefix = prefix
        self.revisions: dict[str, int] = {}

    async def make_streams(self) -> None:
        both = [f"{self.prefix}.{kind}.{SERVICE}.*.*" for kind in ("jobs", "later")]
        queue = StreamConfig(
            self.stream,
            subjects=both,
            retention=RetentionPolicy.WORK_QUEUE,
            allow_direct=True,
            allow_msg_ttl=True,
            allow_msg_schedules=True,
        )
        await self.js.add_stream(queue)
        records = StreamConfig(
            f"KV_{self.bucket}",
            subjects=[f"$KV.{self.bucket}.>"],
            max_msgs_per_subject=1,
            allow_direct=True,
            allow_msg_ttl=True,
            allow_rollup_hdrs=True,
            deny_delete=True,
        )
        await self.js.add_stream(records)
        await self.js.add_consumer(
            self.stream, ConsumerConfig(durable_name="Print", filter_subject=self.filter, ack_wait=1)
        )

    async def write(self, job: Any, ttl: int) -> None:
        key = job.name.removeprefix("operations/").replace("/", ".")
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(self.revisions.get(job.name, 0)),
            "Nats-TTL": f"{ttl}s",
        }
        ack = await self.js.publish(f"$KV.{self.bucket}.{key}", job.SerializeToString(), headers=headers)
        self.revisions[job.name] = ack.seq

    async def store_schema(self) -> None:
        bucket = f"{self.prefix}-schemas"
        stream = StreamConfig(
            f"KV_{bucket}",
            subjects=[f"$KV.{bucket}.>"],
            max_msgs_per_subject=1,
            max_age=90 * 86400,
            allow_direct=True,
            allow_rollup_hdrs=True,
            deny_delete=True,
        )
        await self.js.add_stream(stream)
        headers = {"mesh-schema": hashlib.sha256(schema()).hexdigest(), "mesh-version": "1.0.0"}
        await self.js.publish(f"$KV.{bucket}.{SERVICE}", gzip.compress(schema()), headers=headers)

    async def next(self) -> tuple[Any, Any, Any]:
        """Return (message, request, record)."""
        consumer = await self.js.pull_subscribe_bind("Print", stream=self.stream)
        (delivered,) = await consumer.fetch(1, timeout=10)
        job_id = delivered.subject.rpartition(".")[2]
        job = job_pb2.Job(name=f"operations/{METHOD}/{job_id}", attempt=delivered.metadata.num_delivered)
        return delivered, message("PrintRequest").FromString(delivered.data), job


async def test_a_worker_and_its_schema(site: Site, bus: Nats) -> None:
    worker = RawWorker(bus, site.prefix)
    await worker.make_streams()
    await worker.store_schema()
    client = await site.gateway()
    name = (await client.post("/v1/prints", json={"text": "raw"}, headers={"x-color": "blue"})).json["name"]
    delivered, request, job = await worker.next()
    assert (request.text, job.name, delivered.headers["x-color"]) == ("raw", name, "blue")
    job.state = job_pb2.Job.STATE_RUNNING
    job.progress.Pack(message("PrintProgress")(pages=2))
    await worker.write(job, 86400)
    assert (await client.get(f"/v1/{name}")).json["metadata"]["pages"] == 2
    job.state = job_pb2.Job.STATE_SUCCEEDED
    job.response.Pack(message("PrintResponse")(printed=request.text))
    await worker.write(job, 86400)
    await delivered.ack_sync()
    done = await until(client, name, lambda shown: shown.get("done"))
    assert done["response"] == {"@type": "type.googleapis.com/works.v1.PrintResponse", "printed": "raw"}
    await ours_take_over(site, client)


async def ours_take_over(site: Site, client: Client) -> None:
    """What it has made is what ours would have made: they work with it."""
    await site.worker()
    name = (await client.post("/v1/prints", json={"text": "ours"})).json["name"]
    assert (await wait(client, name))["response"]["printed"] == "ours"


async def test_cancelling_a_job_of_such_a_worker(site: Site, bus: Nats) -> None:
    worker = RawWorker(bus, site.prefix)
    await worker.make_streams()
    await worker.store_schema()
    client = await site.gateway()
    told: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hear(cancelled: Any) -> None:
        told.set_result(cancelled.data)

    await bus.subscribe(f"{site.prefix}.mesh.cancelled.{SERVICE}.Print", cb=hear)
    await bus.flush()
    name = (await client.post("/v1/prints", json={})).json["name"]
    _, _, job = await worker.next()
    channel: Any = rpc.Channel(site.url, prefix=site.prefix)
    async with channel:
        stub: Any = operations_pb2_grpc.OperationsStub
        await stub(channel).CancelOperation(operations_pb2.CancelOperationRequest(name=name))
    assert f"operations/{METHOD}/{(await asyncio.wait_for(told, 10)).decode()}" == name
    job.state = job_pb2.Job.STATE_SUCCEEDED
    with pytest.raises(nats.js.errors.BadRequestError, match="wrong last sequence"):
        await worker.write(job, 86400)
