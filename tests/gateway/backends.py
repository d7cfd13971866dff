"""Back-ends written from the wire protocol alone, without rpc.Server: they can lie, be broken, and have any schema."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from rpc.transport.base import Connection, Message, Subscription

_numbers = count(1)

Handler = Callable[[str, bytes], Awaitable[bytes] | bytes]
"""(method, request) to response."""


class RawBackend:
    """One instance of one service. ``requests`` are (method, request, headers) as they came."""

    def __init__(
        self,
        connection: Connection,
        service: str,
        schema: bytes,
        *,
        version: str = "1.0.0",
        prefix: str = "",
        digest: str | None = None,
        respond: Handler = lambda method, request: request,
    ) -> None:
        self.connection = connection
        self.service = service
        self.schema = schema
        self.version = version
        self.prefix = f"{prefix}." if prefix else ""
        self.digest = hashlib.sha256(schema).hexdigest() if digest is None else digest
        self.instance = f"raw{next(_numbers)}"
        self.respond = respond
        self.requests: list[tuple[str, bytes, dict[str, str]]] = []
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def info(self) -> dict[str, Any]:
        return {
            "type": "io.nats.micro.v1.info_response",
            "name": self.service.replace(".", "_"),
            "id": self.instance,
            "version": self.version,
            "description": "",
            "metadata": {"mesh-service": self.service, "mesh-schema": self.digest, "mesh-wire": "1"},
            "endpoints": [],
        }

    async def start(self) -> None:
        subscribe = self.connection.subscribe
        self._subscriptions = [
            await subscribe("$SRV.INFO", self._answer_info),
            await subscribe(f"{self.prefix}schema.{self.digest}", self._answer_schema, queue="q"),
            await subscribe(f"{self.prefix}rpc.{self.service}.*", self._serve, queue="q"),
        ]
        await self.announce("up")

    async def announce(self, event: str) -> None:
        data = json.dumps({**self.info, "event": event}).encode()
        await self.connection.publish(f"{self.prefix}mesh.announce.{event}", data)

    async def stop(self, *, silently: bool = False) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        if not silently:
            await self.announce("down")
        await self.connection.flush()
        for task in self._tasks:
            task.cancel()

    def _answer_info(self, message: Message) -> None:
        self._spawn(self.connection.publish(message.reply, json.dumps(self.info).encode()))

    def _answer_schema(self, message: Message) -> None:
        self._spawn(self.connection.publish(message.reply, self.schema))

    def _serve(self, message: Message) -> None:
        method = message.subject.rpartition(".")[2]
        self.requests.append((method, message.data, message.headers or {}))
        self._spawn(self._respond(method, message))

    async def _respond(self, method: str, message: Message) -> None:
        response = self.respond(method, message.data)
        if not isinstance(response, bytes):
            response = await response
        await self.connection.publish(message.reply, response)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
