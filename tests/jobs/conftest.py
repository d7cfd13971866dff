"""A mesh of the test's own on the shared broker, with callers and workers of ``lab.proto``."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2

import rpc
from mesh.v1 import job_pb2
from rpc.jetstream.api import JetStream, StoredMessage
from rpc.jobs.names import JobName
from rpc.jobs.records import Records
from rpc.subjects import Subjects
from tests.generated import compile_contract
from tests.jobs.lab import LAB, lab

SECONDS = 10


@pytest.fixture(scope="session")
def lab_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the generated code, for processes: ``gen`` in it is to be on their path."""
    folder = tmp_path_factory.mktemp("lab")
    compile_contract(LAB, folder)
    lab.use(folder)
    return folder


class World:
    """One mesh."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = f"t{secrets.token_hex(4)}"
        self.subjects = Subjects(self.prefix)
        self.channel = rpc.Channel(url, prefix=self.prefix)
        self.stub: Any = lab.grpc.LabStub(self.channel)
        self.operations: Any = operations_pb2_grpc.OperationsStub(self.channel)
        self.servers: list[rpc.Server] = []
        self.connection: rpc.Connection

    async def start(self) -> None:
        self.connection = await rpc.connect(self.url)
        self.js = JetStream(self.connection)
        await self.js.start()
        self.records = Records(self.js, self.subjects)

    async def close(self) -> None:
        for server in self.servers:
            await server.stop(None)
        await self.channel.close()
        await self.js.close()
        await self.connection.close()

    def server(self, worker: Any, target: str | rpc.Connection | None = None, **options: Any) -> rpc.Server:
        """Return a server of ``Lab`` that is not started."""
        server = rpc.Server(target or self.url, prefix=self.prefix, **options)
        lab.grpc.add_LabServicer_to_server(worker, server)
        self.servers.append(server)
        return server

    async def serve(self, worker: Any, target: str | rpc.Connection | None = None, **options: Any) -> rpc.Server:
        server = self.server(worker, target, **options)
        await server.start()
        return server

    async def get(self, operation: Any) -> Any:
        return await self.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))

    async def wait(self, operation: Any, seconds: float = SECONDS) -> Any:
        """Wait for the end of an operation."""
        timeout = duration_pb2.Duration(nanos=int(seconds % 1 * 1e9), seconds=int(seconds))
        request = operations_pb2.WaitOperationRequest(name=operation.name, timeout=timeout)
        return await self.operations.WaitOperation(request)

    async def done(self, operation: Any) -> Any:
        """Wait for the end of an operation, and return its response."""
        ended = await self.wait(operation)
        assert ended.done, ended
        assert ended.HasField("response"), ended
        response = lab.pb.WorkResponse()
        assert ended.response.Unpack(response)
        return response

    async def failed(self, operation: Any) -> Any:
        """Wait for the end of an operation, and return its error."""
        ended = await self.wait(operation)
        assert ended.done, ended
        assert ended.HasField("error"), ended
        return ended.error

    async def cancel(self, operation: Any) -> None:
        await self.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))

    async def record(self, operation: Any) -> Any:
        """What is written down of a job, None for nothing."""
        record = await self.records.get(JobName(*operation.name.split("/")[1:]))
        return None if record is None else record.job

    async def state(self, operation: Any) -> str:
        job = await self.record(operation)
        return "" if job is None else job_pb2.Job.State.Name(job.state).removeprefix("STATE_")

    async def dead_letters(self) -> list[StoredMessage]:
        return await self.js.read(self.subjects.jetstream("DEAD-LETTERS"), ">")

    async def queued(self, service: str = "lab.v1.Lab") -> int:
        """How many messages the queue of a service has."""
        stream = self.subjects.jetstream("JOBS", service)
        return int((await self.js.request(f"STREAM.INFO.{stream}"))["state"]["messages"])

    async def unsettled(self, method: str = "Work", service: str = "lab.v1.Lab") -> int:
        """How many messages workers have, or have given back for later."""
        stream = self.subjects.jetstream("JOBS", service)
        return int((await self.js.request(f"CONSUMER.INFO.{stream}.{method}"))["num_ack_pending"])

    async def history(self, operation: Any) -> tuple[list[Any], Any]:
        """Return a list that gets each version of a job's record from now on, and the subscription."""
        versions: list[Any] = []
        subject = self.records.subject(JobName(*operation.name.split("/")[1:]))
        subscription = await self.connection.subscribe(
            subject, lambda message: versions.append(job_pb2.Job.FromString(message.data))
        )
        await self.connection.flush()
        return versions, subscription


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[World]:
    """A mesh of a test's own."""
    world = World(url)
    try:
        await world.start()
        yield world
    finally:
        await world.close()


@pytest.fixture
async def world(nats_url: str, lab_code: Path) -> AsyncIterator[World]:
    async with opened(nats_url) as world:
        yield world
