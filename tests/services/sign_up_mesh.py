"""Accounts, mailer and sign-up counter as their users run them: processes, a gateway, a broker, a mail server."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
from google.longrunning import operations_pb2, operations_pb2_grpc

import rpc
from mesh.v1 import job_pb2
from tests.cli.commands import Command, Commands, closing, free_port
from tests.services.mail_server import MailServer

ROOT = Path(__file__).parents[2]
READY = r"^\d\d:.* serving"
MAILS = "mailer.v1.Mailer/SendWelcomeMail"
SECONDS = 30.0


async def until(condition: Callable[[], Any], what: str = "", seconds: float = SECONDS) -> None:
    """Wait until a condition holds; it may be a coroutine function."""
    limit = time.monotonic() + seconds
    while True:
        result = condition()
        if result and (not asyncio.iscoroutine(result) or await result):
            return
        assert time.monotonic() < limit, f"not so within {seconds:g} s: {what}"
        await asyncio.sleep(0.02)


class SignUpMesh:
    """One mesh. Its mailers hand over to ``server``."""

    def __init__(self, commands: Commands, prefix: str, connection: rpc.Connection, client: httpx.AsyncClient) -> None:
        self.server = MailServer()
        self.prefix = prefix
        self.connection = connection
        self.client = client
        self._commands = commands
        self._operations: Any = operations_pb2_grpc.OperationsStub(rpc.Channel(connection, prefix=prefix))
        self._records = rpc.KeyValue(connection, f"{prefix}-operations")

    async def serve(self, *targets: str) -> list[Command]:
        """Start a process for each, and wait until they are ready."""
        variables = {"SMTP_URL": self.server.url, "MAIL_FROM": "Acme <hello@example.org>"}
        started = [self._commands.start("serve", target, **variables) for target in targets]
        for command in started:
            await asyncio.to_thread(command.says, READY)
        return started

    async def accounts_are_served(self) -> bool:
        """Whether the gateway knows the accounts, and reaches them."""
        return (await self.post("nobody")).status_code == 400

    async def post(self, email: str, **fields: str) -> httpx.Response:
        return await self.client.post("/v1/accounts", json={"email": email, **fields})

    async def sign_up(self, email: str) -> dict[str, Any]:
        """Sign up, again until there is an answer: with one id it is one sign-up."""
        request_id = str(uuid.uuid4())
        limit = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self.post(email, requestId=request_id)
                if answer.status_code == 200:
                    account: dict[str, Any] = answer.json()
                    return account
                assert answer.status_code in {503, 504}, answer.text
            assert time.monotonic() < limit
            await asyncio.sleep(0.1)

    async def counted(self) -> int:
        answer = await self.client.get("/v1/signups")
        return int(answer.json().get("total", 0)) if answer.status_code == 200 else -1

    async def has_counted(self, number: int) -> bool:
        return await self.counted() >= number

    async def jobs(self, method: str = MAILS, *, done: bool = True) -> list[operations_pb2.Operation]:
        request = operations_pb2.ListOperationsRequest(
            name=f"operations/{method}", filter=f"done={str(done).lower()}", page_size=1000
        )
        return list((await self._operations.ListOperations(request, timeout=5)).operations)

    async def mails_done(self, number: int) -> bool:
        """Whether so many jobs of the mailer have ended."""
        return len(await self.jobs()) >= number

    async def record(self, operation: operations_pb2.Operation) -> job_pb2.Job:
        """What the mesh knows of a job."""
        _, service, method, job_id = operation.name.split("/")
        entry = await self._records.get(f"{service}.{method}.{job_id}")
        return job_pb2.Job.FromString(entry.value if entry is not None else b"")

    def recipients(self) -> list[str]:
        """Whose mails the server has taken over, in order."""
        return [recipient for mail in self.server.mails for recipient in mail.recipients]


@contextlib.asynccontextmanager
async def sign_up_mesh(url: str, prefix: str, *targets: str, config: Path | None = None) -> AsyncIterator[SignUpMesh]:
    """A mesh with these processes and a gateway, which may have a configuration file."""
    port = free_port()
    with closing(Commands(ROOT, NATS_URL=url, NATSMESH_PREFIX=prefix)) as commands:
        connection = await rpc.connect(url)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            mesh = SignUpMesh(commands, prefix, connection, client)
            mesh.server.start()
            try:
                options = () if config is None else ("--config", str(config))
                gateway = commands.start("gateway", "--port", str(port), "--host", "127.0.0.1", *options)
                await mesh.serve(*targets)
                await asyncio.to_thread(gateway.says, READY)
                yield mesh
            finally:
                mesh.server.stop()
                await connection.close()
