"""Reads dead letters, and puts them back where they came from."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from mesh.v1 import job_pb2
from rpc.durable.dead_letters import (
    ATTEMPTS,
    ERROR_CODE,
    ERROR_MESSAGE,
    EVENT_ID,
    SUBJECT,
    dead_letters,
)
from rpc.jetstream.api import MESSAGE_ID, NO_MESSAGE, STREAM_NOT_FOUND, JetStream, JetStreamError, StoredMessage
from rpc.jobs.names import CRON, JobName, is_job
from rpc.jobs.records import ChangedError, Record, Records
from rpc.subjects import Subjects, check_name, srv_name

QUEUED_TTL: Final = 60.0
"""Seconds that the record of a job stays that was put back and that no worker has written anew: the queue knows it."""

_CHUNK: Final = 256
_GONE: Final = frozenset({NO_MESSAGE, 10043, 10057})
"""JetStream's codes for a message that is not there."""
_OWN: Final = frozenset({ERROR_CODE, ERROR_MESSAGE, ATTEMPTS, SUBJECT})


class DeadLetter(NamedTuple):
    """What nobody could handle, and why."""

    kind: str
    """``jobs`` or ``events``."""
    service: str
    method: str
    id: str
    """A job's id; an event's place in the stream of its type."""
    code: str
    """The name of the gRPC status."""
    message: str
    attempts: int
    origin: str
    """The subject that it came from."""
    stored: StoredMessage

    @property
    def name(self) -> str:
        """What people call it: the name of the operation, or ``events/<package.Service>/<Method>/<number>``."""
        if self.kind == "jobs":
            return str(JobName(self.service, self.method, self.id))
        return f"{self.kind}/{self.service}/{self.method}/{self.id}"


class DeadLetters:
    """The dead letters of a mesh."""

    def __init__(self, js: JetStream, subjects: Subjects, records: Records) -> None:
        self._js = js
        self._subjects = subjects
        self._records = records
        self.stream = dead_letters(subjects).name

    async def read(self, service: str = "", method: str = "") -> AsyncIterator[DeadLetter]:
        """Yield those of a method, a service, or all, the oldest first: those that there are now, not what comes."""
        pattern, start, end = self.pattern(service, method), 1, await self._last_sequence()
        while start <= end:
            page = await self._js.read(self.stream, pattern, start=start, limit=_CHUNK)
            for stored in page:
                if stored.sequence <= end and (letter := self.parse(stored)) is not None:
                    yield letter
            if not page:
                return
            start = page[-1].sequence + 1

    async def _last_sequence(self) -> int:
        try:
            return int((await self._js.request(f"STREAM.INFO.{self.stream}"))["state"]["last_seq"])
        except JetStreamError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return 0
            raise

    async def find(self, kind: str, service: str, method: str, letter_id: str) -> DeadLetter | None:
        """Return one, None when there is none."""
        stored = await self._js.last(self.stream, self._subjects.dead_letter(kind, service, method, letter_id))
        return None if stored is None else self.parse(stored)

    async def count(self, service: str = "", method: str = "") -> int:
        """Return how many there are."""
        return (await self._js.oldest(self.stream, self.pattern(service, method)))[1]

    async def purge(self, service: str, method: str = "") -> int:
        """Remove those of a method or a service, and return how many there were."""
        try:
            answer = await self._js.request(
                f"STREAM.PURGE.{self.stream}", {"filter": self.pattern(service, method)}, timeout=30.0
            )
        except JetStreamError as error:
            if error.code == 404:
                return 0
            raise
        return int(answer.get("purged", 0))

    def pattern(self, service: str = "", method: str = "") -> str:
        """Return the subjects of those of a method, a service, or all."""
        return self._subjects.dead_letters_of(service, method) if service else self._subjects.dead_letters

    def parse(self, stored: StoredMessage) -> DeadLetter | None:
        """Return what a message of the stream is, None for what is no dead letter."""
        parts = stored.subject.removeprefix(self._subjects.prefix).split(".")
        headers = stored.headers
        if len(parts) < 5 or parts[1] not in {"jobs", "events"}:
            return None
        service, method, letter_id = ".".join(parts[2:-2]), parts[-2], parts[-1]
        if not is_job(service, method, letter_id) or not self._may_come_from(headers.get(SUBJECT, ""), *parts[1:]):
            return None
        attempts = headers.get(ATTEMPTS, "")
        return DeadLetter(
            kind=parts[1],
            service=service,
            method=method,
            id=letter_id,
            code=headers.get(ERROR_CODE, ""),
            message=headers.get(ERROR_MESSAGE, ""),
            attempts=int(attempts) if attempts.isascii() and attempts.isdigit() else 0,
            origin=headers[SUBJECT],
            stored=stored,
        )

    def _may_come_from(self, origin: str, kind: str, *parts: str) -> bool:
        """Tell whether a dead letter may go back there: somebody may have made it to have it sent anywhere."""
        service, method, letter_id = ".".join(parts[:-2]), parts[-2], parts[-1]
        if kind == "jobs":
            is_scheduled = letter_id.partition("-")[0] == CRON
            return origin == self._subjects.job(service, method, CRON if is_scheduled else letter_id)
        try:
            check_name(origin)
        except ValueError:
            return False
        first, *rest = origin.removeprefix(self._subjects.prefix).split(".")
        if first == "retry":
            return len(rest) == 4 and rest[1:3] == [srv_name(service), method] and rest[3].isdigit()
        return first == "events" and len(rest) > 0 and origin.startswith(self._subjects.prefix)

    # ------------------------------------------------------------------------------------------------- once more

    async def revive(self, letter: DeadLetter) -> bool:
        """Put one back: its attempts begin anew. It is removed here once it is stored there, not before.

        A job goes back into its queue; an event to the group alone that could not handle it. False when there was
        nothing to do: it was put back meanwhile, or its job has ended in another way. Raises ``ConnectionError``,
        ``JetStreamError``; doing it again is safe.
        """
        stored = letter.stored
        current = await self._js.last(self.stream, stored.subject)
        if current is None or current.sequence != stored.sequence:
            return False
        headers = {name: value for name, value in stored.headers.items() if name not in _OWN and name != MESSAGE_ID}
        headers[MESSAGE_ID] = f"{stored.headers.get(EVENT_ID, letter.id)}-retry-{stored.sequence}"
        subject = letter.origin
        if letter.kind == "jobs":
            headers.pop(EVENT_ID, None)
            # A job of a schedule becomes another job.
            is_scheduled = letter.id.partition("-")[0] == CRON
            name = JobName(letter.service, letter.method, letter.id)
            if not is_scheduled and not await self._reset_record(name):
                await self.remove(letter)
                return False
        else:
            subject = self._for_group(letter)
        await self._js.publish(subject, stored.data, headers, timeout=10.0)
        await self.remove(letter)
        return True

    async def remove(self, letter: DeadLetter) -> None:
        """Remove one, if it is there."""
        try:
            await self._js.request(
                f"STREAM.MSG.DELETE.{self.stream}", {"seq": letter.stored.sequence, "no_erase": True}
            )
        except JetStreamError as error:
            if error.err_code not in _GONE:
                raise

    async def _reset_record(self, name: JobName) -> bool:
        """Let a job be queued again that has failed; False when it has ended in another way."""
        while True:
            record = await self._records.get(name)
            if record is None or not record.is_final:
                return True
            if record.job.state != job_pb2.Job.STATE_FAILED:
                return False
            job = job_pb2.Job(name=str(name), state=job_pb2.Job.STATE_QUEUED)
            job.create_time.CopyFrom(record.job.create_time)
            with contextlib.suppress(ChangedError):
                await self._records.put(name, Record(job, record.revision), ttl=QUEUED_TTL)

    def _for_group(self, letter: DeadLetter) -> str:
        """Return the subject by which a group alone gets an event."""
        kind, _, event = letter.origin.removeprefix(self._subjects.prefix).partition(".")
        if kind == "retry":
            return letter.origin
        name, _, last = event.rpartition(".")
        is_partition = last.isascii() and last.isdigit()
        event, partition = (name, int(last)) if is_partition else (event, 0)
        return self._subjects.event_again(event, letter.service, letter.method, partition)
