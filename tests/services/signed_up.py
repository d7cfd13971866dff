"""Accounts, mailer and sign-up counter in the test's process, on a real broker; mails go to a real mail server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2

import rpc
from accounts.v1 import accounts_pb2, accounts_pb2_grpc
from mailer.v1 import mailer_pb2_grpc
from services.accounts import Accounts
from services.mailer import Mailer
from services.signups import Signups
from signups.v1 import signups_pb2, signups_pb2_grpc

SECONDS = 10.0


@dataclass
class Mesh:
    """Calls to the services of a test."""

    connection: rpc.Connection
    channel: rpc.Channel
    accounts: Any
    mailer: Any
    signups: Any
    operations: Any

    async def sign_up(self, email: str, name: str = "", request_id: str = "") -> accounts_pb2.Account:
        request = accounts_pb2.CreateAccountRequest(email=email, display_name=name, request_id=request_id)
        account: accounts_pb2.Account = await self.accounts.CreateAccount(request, timeout=SECONDS)
        return account

    async def refusal(self, email: str, name: str = "", request_id: str = "") -> tuple[grpc.StatusCode, str]:
        """What a sign-up fails with."""
        try:
            account = await self.sign_up(email, name, request_id)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        raise AssertionError(f"an account was made: {account}")

    async def counted(self) -> int:
        """How many sign-ups were counted."""
        found = await self.signups.GetSignups(signups_pb2.GetSignupsRequest(), timeout=SECONDS)
        return int(found.total)

    async def counts(self, number: int) -> bool:
        return await self.counted() >= number

    async def ended(self, operation: operations_pb2.Operation) -> operations_pb2.Operation:
        """The end of a job."""
        request = operations_pb2.WaitOperationRequest(name=operation.name, timeout=duration_pb2.Duration(seconds=10))
        found: operations_pb2.Operation = await self.operations.WaitOperation(request, timeout=SECONDS)
        assert found.done, found
        return found

    async def jobs(self, method: str, *, done: bool) -> list[operations_pb2.Operation]:
        """The jobs of a method, by what has become of them."""
        request = operations_pb2.ListOperationsRequest(
            name=f"operations/{method}", filter=f"done={str(done).lower()}", page_size=1000
        )
        return list((await self.operations.ListOperations(request, timeout=SECONDS)).operations)


@contextlib.asynccontextmanager
async def serving(url: str, *servicers: Any, instances: int = 1) -> AsyncIterator[Mesh]:
    """Serve; $NATSMESH_PREFIX tells the meshes of tests apart. Without servicers, serve all three."""
    connection = await rpc.connect(url)
    servers = []
    for _ in range(instances):
        server = rpc.Server(connection)
        for servicer in servicers or (Accounts(), Mailer(), Signups()):
            add(servicer, server)
        await server.start()
        servers.append(server)
    async with rpc.Channel(connection) as channel:
        yield Mesh(
            connection,
            channel,
            accounts_pb2_grpc.AccountsStub(channel),
            mailer_pb2_grpc.MailerStub(channel),
            signups_pb2_grpc.SignupsStub(channel),
            operations_pb2_grpc.OperationsStub(channel),
        )
    for server in servers:
        await server.stop(1)
    await connection.close()


def add(servicer: Any, server: rpc.Server) -> None:
    for kind, adder in (
        (Accounts, accounts_pb2_grpc.add_AccountsServicer_to_server),
        (Mailer, mailer_pb2_grpc.add_MailerServicer_to_server),
        (Signups, signups_pb2_grpc.add_SignupsServicer_to_server),
    ):
        if isinstance(servicer, kind):
            adder(servicer, server)
