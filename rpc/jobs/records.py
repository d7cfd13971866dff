"""The records of jobs: one value a job in a key-value bucket, changed by whoever saw its last version."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from google.longrunning import operations_pb2
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, status_pb2

from mesh.v1 import job_pb2
from rpc.jetstream.api import EXPECTED_SEQUENCE, TTL, WRONG_SEQUENCE, JetStream, JetStreamError, StoredMessage
from rpc.jetstream.streams import ensure_stream
from rpc.jobs.layout import records, records_name
from rpc.jobs.names import JobName, is_job
from rpc.metadata import STATUS_DETAILS_KEY, Metadata
from rpc.status import StatusError, code_number
from rpc.subjects import Subjects

SCHEDULE: Final = "Nats-Schedule"

FINAL: Final = frozenset({job_pb2.Job.STATE_SUCCEEDED, job_pb2.Job.STATE_FAILED, job_pb2.Job.STATE_CANCELLED})
"""States that a job does not leave."""


KEPT: Final = 30 * 86400.0
"""Seconds that the record of a job stays that has not ended, after it was written last. Its request outlives it; the
record of a job whose request somebody has removed goes away at last."""

MAX_ERROR: Final = 2048
"""Characters of an error's text that are kept."""

MAX_DETAILS: Final = 64 * 1024
"""Bytes of an error's details that are kept."""


class ChangedError(Exception):
    """Somebody else has changed the record since: read it again."""


@dataclass(slots=True)
class Record:
    """What is known of a job, and which version of it: 0 when nothing was written yet."""

    job: Any
    revision: int = 0

    @property
    def is_final(self) -> bool:
        """Tell whether the job has ended."""
        return self.job.state in FINAL


class Records:
    """Reads and writes records."""

    def __init__(self, js: JetStream, subjects: Subjects) -> None:
        self._js = js
        self._subjects = subjects
        self.stream = records_name(subjects)

    def subject(self, name: JobName) -> str:
        """Return the subject under which a record is kept, and on which its changes are heard of."""
        return self._subjects.record(*name)

    async def ensure(self, *, migrate: bool = False) -> None:
        """Make the bucket, unless it is there."""
        await ensure_stream(self._js, records(self._subjects), migrate=migrate)

    async def get(self, name: JobName) -> Record | None:
        """Return a record, None when there is none. Raises ``ConnectionError``."""
        stored = await self._js.last(self.stream, self.subject(name))
        return None if stored is None else decode(stored)

    async def get_many(self, names: list[JobName]) -> dict[str, Record]:
        """Return the records of these jobs, by name; 1000 at most."""
        if not names:
            return {}
        found = await self._js.last_of(self.stream, [self.subject(name) for name in names])
        decoded = [record for stored in found.values() if (record := decode(stored)) is not None]
        return {record.job.name: record for record in decoded}

    async def put(self, name: JobName, record: Record, *, ttl: float | None = None, timeout: float = 5.0) -> None:
        """Write a record, if nobody has changed it since it was read, and note its new revision.

        ``ttl``: seconds after which it is gone; ``KEPT`` for None. Raises ``ChangedError``, ``ConnectionError``,
        ``JetStreamError``.
        """
        seconds = KEPT if ttl is None else max(1.0, ttl)
        headers = {EXPECTED_SEQUENCE: str(record.revision), TTL: f"{int(seconds)}s"}
        data = record.job.SerializeToString()
        try:
            ack = await self._js.publish(
                self.subject(name), data, headers, timeout=timeout, ensure=partial(self.ensure, migrate=False)
            )
        except JetStreamError as error:
            if error.err_code in WRONG_SEQUENCE:
                raise ChangedError from error
            raise
        record.revision = ack.sequence

    async def delete(self, name: JobName) -> None:
        """Remove a record."""
        await self._js.request(f"STREAM.PURGE.{self.stream}", {"filter": self.subject(name)})


def decode(stored: StoredMessage) -> Record | None:
    """Return the record that a message of the bucket holds; None for what is none."""
    try:
        job = job_pb2.Job.FromString(stored.data)
    except DecodeError:
        return None
    parts = job.name.split("/")
    is_ours = len(parts) == 4 and parts[0] == "operations" and is_job(*parts[1:])
    return Record(job, stored.sequence) if is_ours else None


def note_due(job: Any, stored: StoredMessage) -> None:
    """Note when a job is due that waits for its time, as the broker was told."""
    kind, _, time_ = stored.headers.get(SCHEDULE, "").partition(" ")
    if kind == "@at":
        with contextlib.suppress(ValueError):
            job.next_attempt_time.FromJsonString(time_)


def now() -> Timestamp:
    """Return the time."""
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def timestamp(seconds: float) -> Timestamp:
    """Return a time given in Unix seconds."""
    whole, nanos = divmod(int(seconds * 1e9), 1_000_000_000)
    return Timestamp(seconds=whole, nanos=nanos)


def set_error(status: Any, error: StatusError, metadata: Metadata = ()) -> None:
    """Write a status into a ``google.rpc.Status``, with the details that ``metadata`` has of it.

    What is very long is cut off: handlers write there what they like, and a record is one message.
    """
    status.Clear()
    for key, value in metadata:
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes) and len(value) <= MAX_DETAILS:
            try:
                rich = status_pb2.Status.FromString(value)
            except DecodeError:
                continue
            status.details.extend(rich.details)
    status.code = code_number(error.code)
    status.message = error.details[:MAX_ERROR]


def operation_of(job: Any) -> Any:
    """Return the ``google.longrunning.Operation`` that a record is seen as from outside (AIP-151)."""
    operation = operations_pb2.Operation(name=job.name, done=job.state in FINAL)
    if job.HasField("progress"):
        operation.metadata.CopyFrom(job.progress)
    if job.state == job_pb2.Job.STATE_SUCCEEDED:
        operation.response.CopyFrom(job.response)
    elif job.state == job_pb2.Job.STATE_CANCELLED:
        operation.error.code = code_pb2.CANCELLED
        operation.error.message = "the operation was cancelled"
    elif job.state == job_pb2.Job.STATE_FAILED:
        operation.error.CopyFrom(job.error)
    return operation
