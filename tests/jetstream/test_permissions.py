"""What docs/durability.md says that accounts must allow is enough for jobs and events."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2, empty_pb2

import rpc
from accounts.v1 import accounts_pb2
from mailer.v1 import mailer_pb2, mailer_pb2_grpc
from rpc.embedded import Broker

DOCS = Path(__file__).parents[2] / "docs/durability.md"


class Mailer(mailer_pb2_grpc.MailerServicer):
    def __init__(self) -> None:
        self.welcomed = asyncio.Event()

    async def SendWelcomeMail(self, request: Any, context: Any) -> Any:
        return mailer_pb2.SendWelcomeMailResponse(message_id=f"<{request.email}>")

    async def WelcomeUser(self, request: Any, context: Any) -> Any:
        self.welcomed.set()
        return empty_pb2.Empty()


def config_of_the_docs() -> str:
    (block,) = re.findall(r"```text\n(authorization.*?)```", DOCS.read_text(), re.DOTALL)
    return str(block)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    with (tmp_path / "log").open("wb") as log:
        async with Broker(port=0, config=config_of_the_docs(), output=log) as broker:
            yield broker


def url(broker: Broker, user: str) -> str:
    return f"nats://{user}:secret@127.0.0.1:{broker.port}"


async def test_what_the_docs_allow_is_enough(broker: Broker, tmp_path: Path) -> None:
    mailer = Mailer()
    server = rpc.Server(url(broker, "server"))
    mailer_pb2_grpc.add_MailerServicer_to_server(mailer, server)
    await server.start()
    async with rpc.Channel(url(broker, "caller")) as channel, rpc.Publisher(url(broker, "caller")) as publisher:
        stub = mailer_pb2_grpc.MailerStub(channel)
        operation = await stub.SendWelcomeMail(mailer_pb2.SendWelcomeMailRequest(email="a@b"), timeout=10)
        operations = operations_pb2_grpc.OperationsStub(channel)
        wait = operations_pb2.WaitOperationRequest(name=operation.name, timeout=duration_pb2.Duration(seconds=10))
        done = await operations.WaitOperation(wait, timeout=15)
        assert done.done
        assert done.HasField("response")
        listed = await operations.ListOperations(operations_pb2.ListOperationsRequest(name="operations"), timeout=10)
        assert [one.name for one in listed.operations] == [operation.name]
        await operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=operation.name), timeout=10)
        await publisher.publish(accounts_pb2.UserSignedUp(), timeout=10)
        async with asyncio.timeout(10):
            await mailer.welcomed.wait()
        await server.stop(1)
        # Nobody is up: the job waits, and is cancelled.
        later = await stub.SendWelcomeMail(mailer_pb2.SendWelcomeMailRequest(email="c@d"), timeout=10)
        await operations.CancelOperation(operations_pb2.CancelOperationRequest(name=later.name), timeout=10)
    assert "Violation" not in (tmp_path / "log").read_text()


async def test_and_the_server_sees_what_is_not_allowed(broker: Broker, tmp_path: Path) -> None:
    connection = await rpc.connect(url(broker, "caller"))
    await connection.publish("$JS.API.STREAM.DELETE.JOBS-mailer_v1_Mailer", b"")
    async with asyncio.timeout(10):
        while "Publish Violation" not in (tmp_path / "log").read_text():
            await asyncio.sleep(0.02)
    await connection.close()
