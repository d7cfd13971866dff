"""Answers of a back-end about itself: ADR-32 (``$SRV.PING|INFO|STATS``), its schemas, and its announcements.

The stock ``nats service ls|info|stats`` reads these replies, and rejects a whole listing for one that breaks the
schema: names without dots, descriptions that are strings, metadata that is never null. Source: NATS ADR-32.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rpc.method import MethodInfo
from rpc.stats import Stats
from rpc.subjects import QUEUE_GROUP, Subjects, srv_name
from rpc.tasks import TaskSet
from rpc.transport.base import Connection, Message, Subscription
from rpc.wire.envelope import WIRE_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

SERVICE_KEY = "mesh-service"
SCHEMA_KEY = "mesh-schema"
WIRE_KEY = "mesh-wire"
METHOD_KEY = "mesh-method"


@dataclass(frozen=True, slots=True)
class ServedService:
    """One service of this back-end."""

    name: str
    version: str
    methods: Mapping[str, MethodInfo]
    schema: bytes = b""
    digest: str = ""
    description: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


class Responder:
    """Speaks for one server."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        instance: str,
        services: list[ServedService],
        stats: Stats,
        load: Callable[[], Mapping[str, int]],
    ) -> None:
        """``load`` gives numbers for STATS ``data``: calls that run, wait, and may run at once."""
        self._connection = connection
        self._subjects = subjects
        self._instance = instance
        self._services = {srv_name(service.name): service for service in services}
        self._schemas = {service.digest: service.schema for service in services if service.digest}
        self._stats = stats
        self._load = load
        self._started = datetime.now(UTC)
        self._tasks = TaskSet()
        self._subscriptions: list[Subscription] = []
        self._schema_subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Answer questions from now on."""
        subscribe = self._connection.subscribe
        self._subscriptions = [await subscribe("$SRV.*", self._answer)]
        for name in self._services:
            self._subscriptions.append(await subscribe(f"$SRV.*.{name}", self._answer))
            self._subscriptions.append(await subscribe(f"$SRV.*.{name}.{self._instance}", self._answer))
        for digest in self._schemas:
            self._schema_subscriptions.append(
                await subscribe(self._subjects.schema(digest), self._answer_schema, queue=QUEUE_GROUP)
            )

    async def announce(self, event: str) -> None:
        """Tell those who follow the mesh: ``up``, ``draining`` or ``down``."""
        for name in self._services:
            data = json.dumps({**self._info(name), "event": event}).encode()
            try:
                await self._connection.publish(self._subjects.announcement(event), data)
            except (ConnectionError, ValueError) as error:
                logger.debug("could not announce %s of %s: %s", event, name, error)

    async def fall_silent(self) -> None:
        """Answer no more who is there: a back-end that drains is not. Its schemas can still be had."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()

    async def close(self) -> None:
        """Answer no more."""
        await self.fall_silent()
        # Of all that serve a schema, the broker asks one: a question that it has given us is answered still.
        await asyncio.gather(*(subscription.drain() for subscription in self._schema_subscriptions))
        self._schema_subscriptions.clear()
        await self._tasks.wait(1.0)
        await self._tasks.close()

    # -------------------------------------------------------------------------------------------------- answers

    def _answer(self, message: Message) -> None:
        if not message.reply:
            return
        _, verb, *rest = message.subject.split(".")
        build = {"PING": self._ping, "INFO": self._info, "STATS": self._stats_of}.get(verb)
        if build is None:
            return
        names = list(self._services) if not rest else [rest[0]]
        for name in names:
            if name in self._services:
                self._send(message.reply, json.dumps(build(name)).encode())

    def _answer_schema(self, message: Message) -> None:
        schema = self._schemas.get(message.subject.rpartition(".")[2])
        if message.reply and schema is not None:
            self._send(message.reply, schema)

    def _send(self, reply: str, data: bytes) -> None:
        self._tasks.spawn(self._publish(reply, data))

    async def _publish(self, reply: str, data: bytes) -> None:
        try:
            await self._connection.publish(reply, data)
        except (ConnectionError, ValueError) as error:
            logger.warning("could not answer a question about this service: %s", error)

    def _identity(self, kind: str, name: str) -> dict[str, Any]:
        service = self._services[name]
        metadata = {**service.metadata, SERVICE_KEY: service.name, WIRE_KEY: WIRE_VERSION}
        if service.digest:
            metadata[SCHEMA_KEY] = service.digest
        return {
            "type": f"io.nats.micro.v1.{kind}_response",
            "name": name,
            "id": self._instance,
            "version": service.version,
            "metadata": metadata,
        }

    def _ping(self, name: str) -> dict[str, Any]:
        return self._identity("ping", name)

    def _info(self, name: str) -> dict[str, Any]:
        service = self._services[name]
        return {
            **self._identity("info", name),
            "description": service.description,
            "endpoints": [self._endpoint(info) for info in service.methods.values()],
        }

    def _stats_of(self, name: str) -> dict[str, Any]:
        service = self._services[name]
        endpoints = []
        for info in service.methods.values():
            stats = self._stats.method(info)
            requests = stats.requests
            nanoseconds = int(stats.seconds * 1e9)
            endpoints.append(
                {
                    "name": info.name,
                    "subject": self._subjects.method(info.service, info.name),
                    "queue_group": QUEUE_GROUP,
                    "num_requests": requests,
                    "num_errors": stats.errors,
                    "last_error": stats.last_error,
                    "processing_time": nanoseconds,
                    "average_processing_time": nanoseconds // requests if requests else 0,
                    "data": dict(self._load()),
                }
            )
        return {
            **self._identity("stats", name),
            "started": self._started.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "endpoints": endpoints,
        }

    def _endpoint(self, info: MethodInfo) -> dict[str, Any]:
        kind = {
            (False, False): "unary",
            (False, True): "server-stream",
            (True, False): "client-stream",
            (True, True): "bidi-stream",
        }[info.client_streaming, info.server_streaming]
        return {
            "name": info.name,
            "subject": self._subjects.method(info.service, info.name),
            "queue_group": QUEUE_GROUP,
            "metadata": {METHOD_KEY: info.full_name, "kind": kind, "idempotency": info.idempotency.name},
        }
