"""The worker of one durable job: takes requests from the queue, runs the handler, writes down what became of it.

Whatever happens in between, a request is settled last: who dies before leaves it to the next worker. So a handler may
run more than once for a request, and never not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, Final

from google.protobuf import any_pb2

from mesh.v1 import job_pb2
from rpc.call import Handler
from rpc.durable.backoff import delay
from rpc.durable.context import DeliveredCall, retry_delay
from rpc.durable.dead_letters import bury, ensure_dead_letters
from rpc.durable.feed import Feed, Messages, give_back
from rpc.durable.options import JobOptions
from rpc.durable.running import StoppedError, run
from rpc.jetstream.api import JetStream, JetStreamError
from rpc.jetstream.pull import THROW_AWAY, PulledMessage, settle
from rpc.jetstream.specs import StreamError
from rpc.jetstream.streams import ensure_consumer, ensure_stream
from rpc.jobs.layout import queue, queue_name, workers
from rpc.jobs.names import CRON, JobName, is_id
from rpc.jobs.records import ChangedError, Record, Records, now, set_error, timestamp
from rpc.jobs.schedule import set_schedule
from rpc.metadata import read_headers
from rpc.method import MethodInfo
from rpc.status import StatusCode, StatusError
from rpc.subjects import Subjects
from rpc.tasks import TaskSet
from rpc.transport.base import Message, Subscription

logger = logging.getLogger(__name__)

RUNNING_AFTER: Final = 0.5
"""Seconds after which a running job is written down as such; short ones would cost a write that says little."""

REPORT_PAUSE: Final = 0.1
"""Seconds between two writes of progress; what comes faster is kept for the next one."""

HISTORY: Final = 20
"""Failed attempts that are remembered."""

WRITE_TIMEOUT: Final = 60.0
"""Seconds for which the outcome of a job is tried to be written down, over restarts of the broker."""

MAX_PROGRESS: Final = 64 * 1024
"""Bytes of a progress message: it is written down again and again, together with all else that is known."""

MANY_ATTEMPTS: Final = 3
"""Methods with fewer attempts fetch nothing ahead: what dies with a worker counts as tried, begun or not."""

_CANCELLED_KEPT: Final = 1024
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_DIED: Final = "the worker that had it died or fell silent"


class _Run:
    """One attempt of one job."""

    __slots__ = ("call", "lock", "message", "name", "record", "reported", "write_is_due")

    def __init__(self, name: JobName, message: PulledMessage, record: Record, call: DeliveredCall) -> None:
        self.name = name
        self.message = message
        self.record = record
        self.call = call
        self.lock = asyncio.Lock()
        self.reported = 0.0
        self.write_is_due = False


class JobWorker:
    """Serves one job in one process."""

    def __init__(
        self,
        js: JetStream,
        subjects: Subjects,
        records: Records,
        info: MethodInfo,
        handler: Handler,
        instance: str,
    ) -> None:
        assert info.job is not None  # noqa: S101 - who calls has looked
        self._js = js
        self._subjects = subjects
        self._records = records
        self._info = info
        self._job: JobOptions = info.job
        self._handler = handler
        self._instance = instance
        self._runs: dict[str, _Run] = {}
        self._cancelled_ids: dict[str, None] = {}
        """Jobs that were cancelled lately and did not run: they may wait here already."""
        self._writes = TaskSet()
        self._cancellations: Subscription | None = None
        self._stream = queue_name(subjects, self._job.service)
        self._feed = Feed(
            js.connection,
            self._stream,
            self._job.method,
            handle=self._handle,
            release=self._release,
            repair=self._ensure,
            ack_wait=self._job.ack_wait,
            concurrency=self._job.max_concurrency,
            prefetches=self._job.retry.max_attempts >= MANY_ATTEMPTS,
            gives_back=True,
        )

    async def start(self) -> None:
        """Make what is needed in JetStream, and begin. Raises ``StreamError``, ``ConnectionError``."""
        await self._ensure()
        await ensure_dead_letters(self._js, self._subjects, migrate=True)
        await set_schedule(self._js, self._subjects, self._job)
        self._cancellations = await self._js.connection.subscribe(
            self._subjects.job_cancelled(self._job.service, self._job.method), self._cancelled
        )
        await self._feed.start()

    async def _ensure(self) -> None:
        await ensure_stream(self._js, queue(self._subjects, self._job.service), migrate=True)
        await self._records.ensure(migrate=True)
        await ensure_consumer(self._js, self._stream, workers(self._subjects, self._job), migrate=True)

    @property
    def running(self) -> int:
        """How many handlers run."""
        return self._feed.running

    async def stop_pulling(self) -> None:
        """Take no further requests."""
        await self._feed.stop_pulling()

    async def wait_idle(self, timeout: float) -> None:
        """Wait until no handler runs, ``timeout`` seconds at most."""
        await self._feed.wait_idle(timeout)

    async def close(self) -> None:
        """Cancel what still runs; it goes back into the queue, and does not count as an attempt."""
        await self._feed.close()
        await self._writes.close()
        if self._cancellations is not None:
            await self._cancellations.unsubscribe()

    def _cancelled(self, message: Message) -> None:
        job_id = message.data[:64].decode("utf-8", "replace")
        found = self._runs.get(job_id)
        if found is not None:
            found.call.cancel(StatusCode.CANCELLED, "the operation was cancelled")
            return
        self._cancelled_ids[job_id] = None
        if len(self._cancelled_ids) > _CANCELLED_KEPT:
            del self._cancelled_ids[next(iter(self._cancelled_ids))]

    # -------------------------------------------------------------------------------------------------- one attempt

    def _name(self, message: PulledMessage) -> JobName:
        job_id = message.subject.rpartition(".")[2]
        if job_id == CRON:
            job_id = f"{CRON}-{message.sequence}"
        return JobName(self._job.service, self._job.method, job_id)

    async def _handle(self, messages: Messages) -> Coroutine[None, None, None] | None:
        """Make one attempt; return what is to be done about its outcome."""
        message = messages[0]
        name = self._name(message)
        if not is_id(name.job_id):
            logger.warning("%r is no job's id: what somebody put into the queue is thrown away", name.job_id[:100])
            await settle(self._js.connection, message, THROW_AWAY)
            return None
        if message.deliveries == 1 and name.job_id not in self._cancelled_ids:
            record = self._new(name, message)
        elif (known := await self._patiently_known(name, message)) is None:
            return None  # Not settled: it is delivered again.
        else:
            record = known
        if record.is_final:
            await settle(self._js.connection, message)  # It ended, and only the word of it got lost.
            return None
        attempt = max(1, message.deliveries - record.job.released)
        somebody_died = self._note_the_dead(record.job, attempt)
        call = self._call(name, message, attempt)
        current = _Run(name, message, record, call)
        if attempt > self._job.retry.max_attempts:
            record.job.attempt = attempt - 1
            return self._finish(current, StatusError(StatusCode.UNAVAILABLE, _DIED), final=True)
        record.job.attempt = attempt
        record.job.state = job_pb2.Job.STATE_RUNNING
        record.job.worker = self._instance
        record.job.start_time.CopyFrom(now())
        record.job.ClearField("next_attempt_time")
        self._runs[name.job_id] = current
        if somebody_died:
            await self._write_progress(current)  # This attempt may kill us as well.
        announcing = asyncio.get_running_loop().call_later(RUNNING_AFTER, self._announce, current)
        try:
            outcome = await run(call, self._handler)
        except StoppedError:
            await self._release_run(current)
            raise asyncio.CancelledError from None
        finally:
            announcing.cancel()
            del self._runs[name.job_id]
        return self._finish(current, outcome, final=False)

    async def _patiently_known(self, name: JobName, message: PulledMessage) -> Record | None:
        """Return what is known of a job, over restarts of the broker; None when that takes too long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + WRITE_TIMEOUT
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._known(name, message)
            except (ConnectionError, JetStreamError) as error:
                if loop.time() + pause > until:
                    logger.warning("%s: its record cannot be read: %s", name, error)
                    return None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _known(self, name: JobName, message: PulledMessage) -> Record:
        # What is delivered for the first time has no record, unless it was cancelled before it came here.
        looked_up = message.deliveries > 1 or name.job_id in self._cancelled_ids
        if looked_up and (known := await self._records.get(name)) is not None:
            self._cancelled_ids.pop(name.job_id, None)
            return known
        return self._new(name, message)

    @staticmethod
    def _new(name: JobName, message: PulledMessage) -> Record:
        """Return the record of a job that has none."""
        return Record(job_pb2.Job(name=str(name), create_time=timestamp(message.published)))

    def _call(self, name: JobName, message: PulledMessage, attempt: int) -> DeliveredCall:
        deadline = None
        if self._job.timeout is not None:
            deadline = asyncio.get_running_loop().time() + self._job.timeout
        metadata, _ = read_headers(message.headers)
        call = DeliveredCall(self._info, message.data, metadata=metadata, deadline=deadline, peer=message.reply)
        call.attempt_number, call.job_id, call.operation = attempt, name.job_id, str(name)
        call.messages = (message,)
        call.report = lambda progress: self._report(name, progress)
        return call

    def _note_the_dead(self, job: Any, attempt: int) -> bool:
        """Note the last attempt, if whoever made it did not live to do so."""
        noted = job.history[-1].number if job.history else 0
        if noted >= attempt - 1:
            return False
        dead = job.history.add(number=attempt - 1)
        if job.state == job_pb2.Job.STATE_RUNNING and job.attempt == attempt - 1:
            dead.worker = job.worker
            dead.start_time.CopyFrom(job.start_time)
        set_error(dead.error, StatusError(StatusCode.UNAVAILABLE, _DIED))
        del job.history[:-HISTORY]
        return True

    def _announce(self, current: _Run) -> None:
        current.write_is_due = False
        self._writes.spawn(self._write_progress(current))

    async def _report(self, name: JobName, progress: Any) -> None:
        current = self._runs.get(name.job_id)
        if current is None:
            return  # It is over.
        packed = any_pb2.Any()
        packed.Pack(progress)
        most = min(MAX_PROGRESS, self._js.connection.max_payload // 8)
        if (size := packed.ByteSize()) > most:
            raise ValueError(f"a progress message has {most} bytes at most, this one has {size}")
        current.record.job.progress.CopyFrom(packed)
        loop = asyncio.get_running_loop()
        wait = current.reported + REPORT_PAUSE - loop.time()
        if wait <= 0:
            current.reported = loop.time()
            await self._write_progress(current)
        elif not current.write_is_due:
            current.write_is_due = True
            loop.call_later(wait, self._announce, current)

    async def _write_progress(self, current: _Run) -> None:
        async with current.lock:
            if self._runs.get(current.name.job_id) is not current:
                return
            try:
                await self._records.put(current.name, current.record)
            except ChangedError:
                await self._someone_changed(current)
            except (ConnectionError, JetStreamError) as error:
                logger.warning("%s: its progress could not be written down: %s", current.name, error)

    async def _someone_changed(self, current: _Run) -> bool:
        """Look at a record that somebody else has changed. True when the job has ended that way."""
        latest = await self._records.get(current.name)
        if latest is not None and latest.is_final:
            current.call.cancel(StatusCode.CANCELLED, "the operation was cancelled")
            return True
        # Another worker has it, too: the broker took us for dead. Who writes last is right.
        current.record.revision = 0 if latest is None else latest.revision
        return False

    # -------------------------------------------------------------------------------------------------- its end

    async def _finish(self, current: _Run, error: StatusError | None, *, final: bool) -> None:
        job = current.record.job
        verdict: float | None = None
        try:
            if error is None:
                job.state = job_pb2.Job.STATE_SUCCEEDED
                job.ClearField("error")
                job.response.type_url = f"type.googleapis.com/{self._job.response_type}"
                job.response.value = current.call.response
            elif current.call.cancelled is not None and error.code is StatusCode.CANCELLED:
                job.state = job_pb2.Job.STATE_CANCELLED
            else:
                verdict = await self._failed(current, error, final=final)
            if verdict is None:
                job.end_time.CopyFrom(now())
            await self._write(current, ttl=self._job.result_ttl if verdict is None else None)
        except ValueError as problem:  # too large for the broker
            too_large = StatusError(StatusCode.RESOURCE_EXHAUSTED, f"the response cannot be kept: {problem}")
            if error is not None or not job.HasField("response"):
                raise
            job.ClearField("response")
            await self._finish(current, too_large, final=True)
            return
        except (ConnectionError, JetStreamError) as problem:
            # Not settled: it is delivered again, and ends then.
            logger.warning("%s: what became of it could not be written down: %s", current.name, problem)
            return
        if verdict is None:
            await settle(self._js.connection, current.message)
        else:
            await give_back(self._js.connection, current.message, verdict)

    async def _failed(self, current: _Run, error: StatusError, *, final: bool) -> float | None:
        """Note a failed attempt; return the delay until the next one, None when there is none."""
        job, retry = current.record.job, self._job.retry
        if not job.history or job.history[-1].number < job.attempt:
            attempt = job.history.add(number=job.attempt, start_time=job.start_time, worker=self._instance)
            attempt.end_time.CopyFrom(now())
            set_error(attempt.error, error)
            del job.history[:-HISTORY]
        set_error(job.error, error, current.call.trailing_metadata)
        if error.code in retry.retryable_codes and job.attempt < retry.max_attempts and not final:
            asked = retry_delay(current.call.trailing_metadata)
            wait = delay(retry, job.attempt) if asked is None else asked
            job.state = job_pb2.Job.STATE_RETRYING
            job.next_attempt_time.CopyFrom(timestamp(now().ToNanoseconds() / 1e9 + wait))
            return wait
        message = current.message
        await bury(
            self._js,
            self._subjects,
            self._subjects.dead_letter("jobs", *current.name),
            origin=message.subject,
            data=message.data,
            headers=message.headers,
            error=error,
            attempts=job.attempt,
            sequence=message.sequence,
            timeout=WRITE_TIMEOUT,
        )
        job.state = job_pb2.Job.STATE_FAILED
        logger.warning("%s failed for good at attempt %d: %s", current.name, job.attempt, error)
        return None

    async def _write(self, current: _Run, ttl: float | None) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + WRITE_TIMEOUT
        pause = _FIRST_PAUSE
        async with current.lock:
            while True:
                try:
                    await self._records.put(current.name, current.record, ttl=ttl)
                except ChangedError:
                    if await self._someone_changed(current):
                        return  # Cancelled meanwhile: that is how it ended.
                    continue
                except ConnectionError:
                    if loop.time() + pause > until:
                        raise
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    # Whoever waits for the record listens on its subject, so nobody says that the bucket is not there.
                    with contextlib.suppress(ConnectionError, JetStreamError, StreamError):
                        await self._records.ensure()
                    continue
                return

    # -------------------------------------------------------------------------------------------------- giving back

    async def _release(self, message: PulledMessage) -> None:
        """Give back a request that was not begun."""
        name = self._name(message)
        with contextlib.suppress(ConnectionError, JetStreamError, ValueError):
            record = await self._known(name, message)
            await self._release_run(_Run(name, message, record, self._call(name, message, 1)))
            return
        await give_back(self._js.connection, message)

    async def _release_run(self, current: _Run) -> None:
        """Give back a request whose worker stops; it was no attempt, which is why it is counted."""
        job = current.record.job
        job.released += 1
        job.state = job_pb2.Job.STATE_QUEUED
        job.ClearField("worker")
        try:
            await self._records.put(current.name, current.record)
        except (ChangedError, ConnectionError, JetStreamError) as error:
            logger.debug("%s: could not be noted as given back: %s", current.name, error)
        await give_back(self._js.connection, current.message)
