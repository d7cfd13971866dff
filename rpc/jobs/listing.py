"""ListOperations: pages of what waits in the queues, then of the records of what has ended.

A page token says where in which stream the next page begins; nothing is kept between pages. Source: AIP-132, AIP-158,
AIP-160 (of its filters: comparisons by ``=`` and ``!=``, joined by ``AND``).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.longrunning import operations_pb2

from mesh.v1 import job_pb2
from rpc.jetstream.api import JetStream, JetStreamError, StoredMessage
from rpc.jobs.names import CRON, JobName, is_job, parse_parent
from rpc.jobs.records import FINAL, Record, Records, decode, note_due, operation_of
from rpc.status import StatusCode, StatusError
from rpc.subjects import Subjects

DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 1000

_CHUNK: Final = 256
_LAST_SEQUENCE: Final = 2**63 - 1
_MAX_CHUNKS: Final = 40
"""Chunks that are looked through for one page: a filter that little passes gives short pages rather than long waits."""

_MAX_PAGE_BYTES: Final = 2 * 1024 * 1024
"""Bytes of a page, but for its last job: gRPC's clients take 4 MiB unless they are told to take more."""

_TERM = re.compile(r"\s*([a-z_]+)\s*(!=|=)\s*(\"[^\"]*\"|[^\s\"]+)\s*\Z")

Test = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Filter:
    """What a filter lets pass, and where that may be found."""

    tests: tuple[Test, ...] = ()
    waiting: bool = True
    """Whether it may pass what has not ended: that is in the queues."""
    ended: bool = True

    def __call__(self, job: Any) -> bool:
        """Tell whether a job passes."""
        return all(test(job) for test in self.tests)


class Listing:
    """Finds jobs, page by page."""

    def __init__(self, js: JetStream, subjects: Subjects, records: Records) -> None:
        self._js = js
        self._subjects = subjects
        self._records = records

    async def __call__(self, request: Any) -> Any:
        """Answer ListOperations. Raises ``StatusError``."""
        jobs, token = await self.page(request.name, request.filter, request.page_size, request.page_token)
        return operations_pb2.ListOperationsResponse(operations=map(operation_of, jobs), next_page_token=token)

    async def page(self, name: str, filter_text: str, page_size: int, page_token: str) -> tuple[list[Any], str]:
        """Return a page of jobs (``mesh.v1.Job``), and the token of the next one, "" after the last.

        First what waits, in the order of its arrival, then what has ended, in the order of its end.
        """
        service, method = parse_parent(name)
        passes = parse_filter(filter_text)
        if page_size < 0:
            raise StatusError(StatusCode.INVALID_ARGUMENT, "page_size: it cannot be negative")
        size = min(page_size or DEFAULT_PAGE, MAX_PAGE)
        place = _parse_token(page_token)
        queues = await self._queues(service) if passes.waiting else []
        streams = [*queues, self._records.stream] if passes.ended else queues
        jobs: list[Any] = []
        room = _MAX_PAGE_BYTES
        for _ in range(_MAX_CHUNKS):
            stream, start = place
            if stream not in streams:  # the first page, or a queue that is gone
                following = [one for one in streams if one > stream or one == self._records.stream]
                if not following:
                    return jobs, ""
                stream, start = following[0], 1
            limit = _CHUNK if passes.tests else size - len(jobs)
            found, start = await self._chunk(stream, (service, method), start, min(limit, _CHUNK))
            for record, sequence in found:
                if passes(record.job):
                    jobs.append(record.job)
                    room -= record.job.ByteSize()
                    if len(jobs) == size or room < 0:
                        return jobs, _token(stream, sequence + 1)
            if start:
                place = stream, start
            elif stream == streams[-1]:
                return jobs, ""
            else:
                place = streams[streams.index(stream) + 1], 1
        return jobs, _token(*place)

    async def _queues(self, service: str) -> list[str]:
        """Return the names of the streams that requests wait in."""
        subject = self._subjects.jobs_of(service) if service else f"{self._subjects.prefix}jobs.>"
        names: list[str] = []
        while True:
            answer = await self._js.request("STREAM.NAMES", {"subject": subject, "offset": len(names)})
            page = answer.get("streams") or []
            names += page
            if not page or len(names) >= int(answer.get("total", 0)):
                return sorted(names)

    async def _chunk(
        self, stream: str, parent: tuple[str, str], start: int, limit: int
    ) -> tuple[list[tuple[Record, int]], int]:
        """Return the records among so many messages of a stream, and their places; and where to go on, 0 at its end."""
        is_records = stream == self._records.stream
        try:
            stored = await self._js.read(stream, self._filter(*parent, is_records), start=start, limit=limit)
        except JetStreamError as error:
            if error.code in {404, 408}:
                return [], 0
            raise
        found = self._ended(stored) if is_records else await self._waiting(stored)
        return found, stored[-1].sequence + 1 if stored else 0

    def _filter(self, service: str, method: str, is_records: bool) -> str:
        """Return the subjects of a method, or a service, or all."""
        if not service:
            return ">"
        subjects = self._subjects
        return (
            subjects.records_of(service, method or "*") if is_records else subjects.any_jobs_of(service, method or "*")
        )

    def _ended(self, stored: list[StoredMessage]) -> list[tuple[Record, int]]:
        # What has not ended stands in a queue, too.
        records = [(record, one.sequence) for one in stored if (record := decode(one)) is not None]
        return [(record, sequence) for record, sequence in records if record.is_final]

    async def _waiting(self, stored: list[StoredMessage]) -> list[tuple[Record, int]]:
        jobs = [(job, one.sequence) for one in stored if (job := self._waiting_job(one)) is not None]
        records = await self._records.get_many([JobName(*job.name.split("/")[1:]) for job, _ in jobs])
        merged = [(records.get(job.name) or Record(job), sequence) for job, sequence in jobs]
        # A job that has ended this moment is listed by its record.
        return [(record, sequence) for record, sequence in merged if not record.is_final]

    def _waiting_job(self, stored: StoredMessage) -> Any | None:
        kind, _, rest = stored.subject[len(self._subjects.prefix) :].partition(".")
        parts = rest.rsplit(".", 2)
        if len(parts) != 3 or (kind == "later" and parts[2] == CRON):
            return None
        service, method, job_id = parts
        if not is_job(*parts):
            return None
        if job_id == CRON:
            job_id = f"{CRON}-{stored.sequence}"
        job = job_pb2.Job(
            name=str(JobName(service, method, job_id)),
            state=job_pb2.Job.STATE_SCHEDULED if kind == "later" else job_pb2.Job.STATE_QUEUED,
        )
        job.create_time.FromJsonString(stored.time)
        note_due(job, stored)
        return job


def parse_filter(text: str) -> Filter:
    """Return what a filter lets pass: ``done``, ``state``, ``service`` and ``method``, joined by AND.

    Raises ``StatusError`` INVALID_ARGUMENT.
    """
    tests: list[Test] = []
    waiting = ended = True
    for term in re.split(r"\s+AND\s+", text.strip()) if text.strip() else []:
        found = _TERM.match(term)
        if found is None:
            raise _unreadable(term)
        field, operator, value = found[1], found[2], found[3].strip('"')
        wanted = operator == "="
        tests.append(_test(field, value, term, wanted=wanted))
        if field == "done":
            is_ended = (value == "true") is wanted
            waiting, ended = waiting and not is_ended, ended and is_ended
        elif field == "state" and wanted:
            is_ended = job_pb2.Job.State.Value(_state(value)) in FINAL
            waiting, ended = waiting and not is_ended, ended and is_ended
    return Filter(tuple(tests), waiting, ended)


def _state(value: str) -> str:
    return value if value.startswith("STATE_") else f"STATE_{value}"


def _test(field: str, value: str, term: str, *, wanted: bool) -> Test:
    if field == "done" and value in {"true", "false"}:
        return lambda job: (operation_of(job).done is (value == "true")) is wanted
    if field == "state":
        name = _state(value)
        if name in job_pb2.Job.State.keys():  # noqa: SIM118 - an enum wrapper of protobuf is no mapping
            number = job_pb2.Job.State.Value(name)
            return lambda job: (job.state == number) is wanted
    if field == "service":
        return lambda job: (job.name.split("/")[1] == value) is wanted
    if field == "method":
        return lambda job: (job.name.split("/")[2] == value) is wanted
    raise _unreadable(term)


def _unreadable(term: str) -> StatusError:
    return StatusError(
        StatusCode.INVALID_ARGUMENT,
        f"filter: {term[:100]!r} is not understood; there are done=true, state=QUEUED, service=pkg.Service, "
        "method=Method, with = and !=, joined by AND",
    )


def _token(stream: str, sequence: int) -> str:
    return base64.urlsafe_b64encode(f"{stream} {sequence}".encode()).decode()


def _parse_token(token: str) -> tuple[str, int]:
    if not token:
        return "", 1
    try:
        stream, _, number = base64.urlsafe_b64decode(token[:1000].encode()).decode().partition(" ")
        return stream, min(max(1, int(number)), _LAST_SEQUENCE)
    except (binascii.Error, ValueError):
        raise StatusError(StatusCode.INVALID_ARGUMENT, "page_token: it is none of ours") from None
