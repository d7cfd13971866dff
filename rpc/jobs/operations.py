"""``google.longrunning.Operations``, answered from what JetStream holds: no worker has to be up. Source: AIP-151."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.protobuf.message import DecodeError

from mesh.v1 import job_pb2
from rpc.call import Call
from rpc.jetstream.api import NO_MESSAGE, JetStream, JetStreamError, StoredMessage
from rpc.jobs.layout import queue_name
from rpc.jobs.listing import Listing
from rpc.jobs.names import CRON, JobName, parse_name
from rpc.jobs.records import ChangedError, Record, Records, note_due, now, operation_of
from rpc.status import StatusCode, StatusError
from rpc.subjects import Subjects

SERVICE: Final = "google.longrunning.Operations"

CANCELLED_TTL: Final = 86400.0
"""Seconds that the record of a cancelled job is kept."""

LONGEST_WAIT: Final = 3600.0
"""Seconds that one WaitOperation lasts at most."""


_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 5.0

_ANSWERING: Final = 0.5
"""Seconds that are left for the answer, when a wait ends because its call is about to."""


class Operations:
    """Answers the calls of the service, and the questions of our own commands."""

    def __init__(self, js: JetStream, subjects: Subjects, records: Records) -> None:
        self._js = js
        self._subjects = subjects
        self._records = records
        self.listing = Listing(js, subjects, records)
        self._methods: dict[str, tuple[Any, Callable[[Any], Awaitable[Any]]]] = {
            "GetOperation": (operations_pb2.GetOperationRequest, self._get),
            "ListOperations": (operations_pb2.ListOperationsRequest, self.listing),
            "WaitOperation": (operations_pb2.WaitOperationRequest, self._wait),
            "CancelOperation": (operations_pb2.CancelOperationRequest, self._cancel),
            "DeleteOperation": (operations_pb2.DeleteOperationRequest, self._delete),
        }

    async def __call__(self, call: Call) -> None:
        """Answer one call. Raises ``StatusError``, ``ConnectionError``, ``JetStreamError``."""
        found = self._methods.get(call.info.name)
        if found is None:
            raise StatusError(StatusCode.UNIMPLEMENTED, f"Method {call.info.name} not found!")
        kind, answer = found
        try:
            request = kind.FromString(call.request)
        except DecodeError:
            raise StatusError(StatusCode.INVALID_ARGUMENT, f"the request is no {kind.DESCRIPTOR.full_name}") from None
        if kind is operations_pb2.WaitOperationRequest and call.deadline is not None:
            _end_before(request, call.deadline)
        response = await answer(request)
        call.response = response.SerializeToString()

    async def find(self, name: JobName) -> Record | None:
        """Return what is known of a job, None when nobody knows it."""
        record = await self._records.get(name)
        if record is None:
            queued = await self._queued(name)
            # It may have ended between the two questions.
            record = await self._records.get(name) or queued
        return record

    async def request_of(self, name: JobName) -> StoredMessage | None:
        """Return the request of a job as its queue has it, None when it is not there (any more)."""
        stream, sequence = queue_name(self._subjects, name.service), name.scheduled_sequence
        if sequence is not None:
            subject = self._subjects.job(name.service, name.method, CRON)
            found = await self._js.read(stream, subject, start=sequence, limit=1)
            return found[0] if found and found[0].sequence == sequence else None
        stored = await self._js.last(stream, self._subjects.job(*name))
        return stored or await self._js.last(stream, self._subjects.job_later(*name))

    async def _queued(self, name: JobName) -> Record | None:
        """Return what the queue knows of a job that has no record."""
        stored = await self.request_of(name)
        if stored is None:
            return None
        is_later = stored.subject == self._subjects.job_later(*name)
        record = _record(name, job_pb2.Job.STATE_SCHEDULED if is_later else job_pb2.Job.STATE_QUEUED, stored.time)
        note_due(record.job, stored)
        return record

    async def _known(self, name: JobName) -> Record:
        record = await self.find(name)
        if record is None:
            raise StatusError(StatusCode.NOT_FOUND, f"there is no operation {name} (any more)")
        return record

    async def _get(self, request: Any) -> Any:
        return operation_of((await self._known(parse_name(request.name))).job)

    async def _wait(self, request: Any) -> Any:
        name = parse_name(request.name)
        seconds = LONGEST_WAIT
        if request.HasField("timeout"):
            seconds = min(LONGEST_WAIT, max(0.0, request.timeout.ToNanoseconds() / 1e9))
        return operation_of((await self.wait(name, seconds)).job)

    async def wait(self, name: JobName, seconds: float) -> Record:
        """Return the record as soon as the job has ended, or what is known of it after so many seconds."""
        changed = asyncio.Event()
        # Whoever writes a record publishes it, so that it is heard of before it can be read: hence the look at it.
        subscription = await self._js.connection.subscribe(self._records.subject(name), lambda _message: changed.set())
        try:
            loop = asyncio.get_running_loop()
            until = loop.time() + seconds
            pause = _LONGEST_PAUSE
            record = await self._known(name)
            while not record.is_final and loop.time() < until:
                try:
                    # Not for ever: the message that tells of it may get lost.
                    async with asyncio.timeout_at(min(until, loop.time() + pause)):
                        await changed.wait()
                    changed.clear()
                    pause = _FIRST_PAUSE  # What it tells of may not be stored yet.
                except TimeoutError:
                    pause = min(2 * pause, _LONGEST_PAUSE)
                record = await self._known(name)
            return record
        finally:
            await subscription.unsubscribe()

    async def _cancel(self, request: Any) -> Any:
        await self.cancel(parse_name(request.name))
        return empty_pb2.Empty()

    async def cancel(self, name: JobName) -> Record:
        """Cancel a job that has not ended, and return its record; its worker is told."""
        while True:
            record = await self._known(name)
            if record.is_final:
                if record.job.state == job_pb2.Job.STATE_CANCELLED:
                    await self._remove_request(name)  # Who cancelled it may not have got as far as that.
                return record
            record.job.state = job_pb2.Job.STATE_CANCELLED
            record.job.end_time.CopyFrom(now())
            record.job.ClearField("next_attempt_time")
            try:
                await self._records.put(name, record, ttl=CANCELLED_TTL)
            except ChangedError:
                continue
            break
        await self._remove_request(name)
        await self._js.connection.publish(self._subjects.job_cancelled(name.service, name.method), name.job_id.encode())
        return record

    async def _remove_request(self, name: JobName) -> None:
        """Take a job's request from its queue."""
        stream, sequence = queue_name(self._subjects, name.service), name.scheduled_sequence
        try:
            if sequence is not None:
                await self._js.request(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
                return
            for subject in (self._subjects.job_later(*name), self._subjects.job(*name)):
                await self._js.request(f"STREAM.PURGE.{stream}", {"filter": subject})
        except JetStreamError as error:
            if error.code != 404 and error.err_code != NO_MESSAGE:
                raise

    async def _delete(self, request: Any) -> Any:
        name = parse_name(request.name)
        record = await self._known(name)
        if not record.is_final:
            raise StatusError(StatusCode.FAILED_PRECONDITION, f"{name} has not ended: cancel it first")
        await self._records.delete(name)
        return empty_pb2.Empty()


def _end_before(request: Any, deadline: float) -> None:
    """Let a WaitOperation end before its call does: it answers with what is known by then (operations.proto)."""
    left = max(0.0, deadline - asyncio.get_running_loop().time())
    left -= min(_ANSWERING, left / 10)
    if not request.HasField("timeout") or request.timeout.ToNanoseconds() > left * 1e9:
        request.timeout.FromNanoseconds(int(left * 1e9))


def _record(name: JobName, state: Any, time: str) -> Record:
    job = job_pb2.Job(name=str(name), state=state)
    job.create_time.FromJsonString(time)
    return Record(job)
