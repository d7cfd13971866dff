"""The caller's side of jobs: a channel's calls that JetStream answers, with or without a worker.

A job is published by the channel that its stub was made on (the gateway's too): its operation exists with that one
write. ``google.longrunning.Operations`` is answered here as well, by what JetStream holds.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from google.longrunning import operations_pb2

from rpc import telemetry
from rpc.call import Call
from rpc.durable.options import JobOptions
from rpc.jetstream.api import MESSAGE_ID, JetStream, PubAck
from rpc.jetstream.specs import DEFAULT_DUPLICATE_WINDOW
from rpc.jetstream.statuses import FAILURES, status_of
from rpc.jetstream.streams import ensure_stream
from rpc.jobs.layout import queue
from rpc.jobs.names import MAX_REQUEST_ID, JobName, id_of_request, new_id
from rpc.jobs.operations import Operations
from rpc.jobs.records import Records, operation_of
from rpc.jobs.request_id import string_field
from rpc.metadata import Metadata, write_headers
from rpc.status import StatusCode, StatusError
from rpc.subjects import Subjects
from rpc.transport.base import Connection
from rpc.transport.stream import HEADER_ROOM

IDEMPOTENCY_KEY: Final = "idempotency-key"
"""Metadata: a client's request id. Source: IETF draft "The Idempotency-Key HTTP Header Field"."""

CALLER: Final = "x-claim-sub"
"""Metadata: who calls, by the word of the gateway."""

RUN_AT: Final = "natsmesh-run-at"
"""Metadata: when a job is to be run, RFC 3339."""

LATEST: Final = timedelta(days=3650)
"""How far away that may be."""

PUBLISH_TIMEOUT: Final = 10.0
"""Seconds that a job without a deadline may take to be accepted."""


class JobCaller:
    """A Handler for the methods that JetStream answers. One per channel."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._js = JetStream(connection)
        self._subjects = subjects
        self._records = Records(self._js, subjects)
        self._operations = Operations(self._js, subjects, self._records)
        self._producer = telemetry.producer()

    async def start(self) -> None:
        """Be ready. The connection is connected already."""
        await self._js.start()

    async def close(self) -> None:
        """End what is under way."""
        await self._js.close()

    async def __call__(self, call: Call) -> None:
        """Answer one call. Raises ``StatusError``."""
        job = call.info.job
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one

        def cancel(_error: StatusError) -> None:
            task.cancel()

        call.on_cancel(cancel)
        try:
            await (self._operations(call) if job is None else self.enqueue(call, job))
        except asyncio.CancelledError:
            if call.cancelled is None:
                raise
            task.uncancel()
            raise call.cancelled from None
        except FAILURES as error:
            raise status_of(error) from error
        finally:
            call.on_cancel(None)

    async def enqueue(self, call: Call, job: JobOptions) -> None:
        """Have JetStream take a request, and answer its operation."""
        room = self._connection.max_payload - HEADER_ROOM
        if len(call.request) > room:
            raise StatusError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"a job's request may have {room} bytes here, this one has {len(call.request)}: "
                "put what is large into an object store, and its name into the request",
            )
        request_id = self._request_id(call, job)
        job_id = new_id() if not request_id else id_of_request(job.service, job.method, request_id)
        name = JobName(job.service, job.method, job_id)
        if request_id and (known := await self._operations.find(name)) is not None:
            call.response = operation_of(known.job).SerializeToString()
            return
        if self._producer is None:
            ack = await self._publish(call, name, call.metadata)
        else:
            with self._producer.job(call.info, job_id, call.metadata) as sending:
                ack = await self._publish(call, name, sending.metadata)
        if ack.duplicate and await self._operations.find(name) is None:
            # The broker knows the id for a while longer than there is anything else left of the job.
            raise StatusError(
                StatusCode.FAILED_PRECONDITION,
                f"the operation of this request id was deleted less than {DEFAULT_DUPLICATE_WINDOW:g} s ago: "
                "use another one for a new job",
            )
        call.response = operations_pb2.Operation(name=str(name)).SerializeToString()

    async def _publish(self, call: Call, name: JobName, metadata: Metadata) -> PubAck:
        metadata, run_at = _without_run_at(metadata)
        headers = {MESSAGE_ID: name.job_id}
        write_headers(headers, metadata)
        subject = self._subjects.job(*name)
        if run_at is not None and run_at > datetime.now(UTC):
            # The broker's clock decides; what is due already is published at once.
            headers["Nats-Schedule"] = f"@at {_rounded_up(run_at).strftime('%Y-%m-%dT%H:%M:%SZ')}"
            headers["Nats-Schedule-Target"] = subject
            subject = self._subjects.job_later(*name)
        timeout = PUBLISH_TIMEOUT
        if call.deadline is not None:
            # The caller shall hear why: that comes before the deadline.
            timeout = max(0.0, 0.9 * (call.deadline - asyncio.get_running_loop().time()))

        async def make() -> None:
            await ensure_stream(self._js, queue(self._subjects, name.service), migrate=False)

        return await self._js.publish(subject, call.request, headers, timeout=timeout, ensure=make)

    @staticmethod
    def _request_id(call: Call, job: JobOptions) -> str:
        """Return what the client named its request, "" when it did not.

        What one caller of the gateway named so is not what another one did.
        """
        found = string_field(call.request, job.request_id_field) if job.request_id_field else ""
        caller = ""
        for key, value in call.metadata:
            if key == IDEMPOTENCY_KEY and isinstance(value, str) and not found:
                found = value
            elif key == CALLER and isinstance(value, str):
                caller = value
        if len(found) > MAX_REQUEST_ID:
            raise StatusError(StatusCode.INVALID_ARGUMENT, f"a request id has {MAX_REQUEST_ID} characters at most")
        return f"{caller}\0{found}" if found and caller else found


def _without_run_at(metadata: Metadata) -> tuple[Metadata, datetime | None]:
    for key, value in metadata:
        if key == RUN_AT:
            try:
                at = datetime.fromisoformat(value if isinstance(value, str) else value.decode())
            except ValueError:
                at = None
            if at is None or at.tzinfo is None:
                raise StatusError(
                    StatusCode.INVALID_ARGUMENT, f"{RUN_AT}: a time with its zone is wanted, as 2030-01-31T06:00:00Z"
                )
            if at > datetime.now(UTC) + LATEST:
                raise StatusError(
                    StatusCode.INVALID_ARGUMENT, f"{RUN_AT}: {at.isoformat()} is more than {LATEST.days} days away"
                )
            return tuple(pair for pair in metadata if pair[0] != RUN_AT), at
    return metadata, None


def _rounded_up(time: datetime) -> datetime:
    """Return a time in UTC in whole seconds, as the broker takes it: never an earlier one."""
    return (time + timedelta(microseconds=999_999)).astimezone(UTC).replace(microsecond=0)
