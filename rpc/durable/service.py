"""What a server does besides answering calls: it works off the jobs, and handles the events, of its services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from rpc.call import Call, Handler
from rpc.discovery.responder import ServedService
from rpc.discovery.stored import SchemaWriter
from rpc.durable.context import EventContext, JobContext
from rpc.durable.measure import DeliveryStats
from rpc.events.subscriber import EventSubscriber
from rpc.jetstream.api import JetStream
from rpc.jobs.caller import JobCaller
from rpc.jobs.records import Records
from rpc.jobs.worker import JobWorker
from rpc.method import MethodInfo
from rpc.subjects import Subjects
from rpc.transport.base import Connection

ContextClass = type[JobContext] | type[EventContext]


class Worker(Protocol):
    """Takes messages of one method out of JetStream."""

    @property
    def running(self) -> int:
        """How many handlers run."""

    async def start(self) -> None:
        """Make what is needed in JetStream, and begin."""

    async def stop_pulling(self) -> None:
        """Take no further messages, and give back those that were not begun."""

    async def wait_idle(self, timeout: float) -> None:
        """Wait until no handler runs, ``timeout`` seconds at most."""

    async def close(self) -> None:
        """Cancel what still runs; its messages go back."""


class DurableMethods:
    """The jobs and subscriptions of one server."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        instance: str,
        methods: Iterable[MethodInfo],
        make_handler: Callable[[MethodInfo, ContextClass], Handler | None],
        services: Iterable[ServedService] = (),
    ) -> None:
        """``make_handler`` gives what runs a method of this server, with such a context; None if it has none.

        ``services`` are those of the server: the schemas of those that have jobs outlive it.
        """
        self._js = JetStream(connection)
        self._caller = JobCaller(connection, subjects)
        records = Records(self._js, subjects)
        self._workers: list[Worker] = []
        with_jobs = (service for service in services if any(info.job for info in service.methods.values()))
        self._schemas = SchemaWriter(self._js, subjects, with_jobs)
        stats = DeliveryStats()
        for info in methods:
            handler = make_handler(info, EventContext if info.job is None else JobContext)
            if handler is None:
                continue
            handler = stats.around(info, handler)
            if info.job is not None:
                self._workers.append(JobWorker(self._js, subjects, records, info, handler, instance))
            else:
                self._workers.append(EventSubscriber(self._js, subjects, info, handler))
        self._started: Sequence[Worker] = ()

    async def enqueue(self, call: Call) -> None:
        """Answer a job's method where it is called like any other: a Handler, for callers that know no jobs."""
        await self._caller(call)

    async def start(self) -> None:
        """Begin with all of them. Raises ``ConnectionError`` or ``StreamError`` when JetStream is not as needed."""
        await self._js.start()
        await self._caller.start()
        self._started = tuple(self._workers)
        for worker in self._workers:
            await worker.start()
        await self._schemas.start()

    @property
    def running(self) -> int:
        """How many handlers run."""
        return sum(worker.running for worker in self._started)

    async def stop_pulling(self) -> None:
        """Take nothing more, and give back what was not begun."""
        await asyncio.gather(*(worker.stop_pulling() for worker in self._started))

    async def wait_idle(self, timeout: float) -> None:
        """Wait until no handler runs, ``timeout`` seconds at most."""
        await asyncio.gather(*(worker.wait_idle(timeout) for worker in self._started))

    async def close(self) -> None:
        """Cancel what still runs, and end."""
        await self._schemas.close()
        await asyncio.gather(*(worker.close() for worker in self._started))
        await self._caller.close()
        await self._js.close()
