"""Where the log records of the mesh are kept: `natsmesh logs` asks here."""

import asyncio
import base64
import contextlib
import datetime as dt
import os
import re
from collections.abc import AsyncIterator, Iterator

import grpc
from google.protobuf import empty_pb2, timestamp_pb2

import rpc
from mesh.v1 import log_pb2, logs_pb2, logs_pb2_grpc
from services.log_store import LogStore, Query
from services.once import write_or_retry

MAX_PAGE = 1000
MAX_FOLLOWERS = 100
AT_ONCE = 500  # records that a follower is sent between two looks

_TRACE = re.compile(r"[0-9a-f]{32}|")
_TOO_MANY = f"{MAX_FOLLOWERS} others follow already; ask for what is stored (ListLogRecords)"


class BadRequestError(ValueError):
    """It cannot be answered; the text says what to change."""


class Logs(logs_pb2_grpc.LogsServicer):
    """Keeps records in a DuckDB file: the one that `LOGS_DB` names, for `LOGS_KEEP_DAYS` days (7)."""

    def __init__(self, store: LogStore | None = None) -> None:
        self._store = store or LogStore(
            os.environ.get("LOGS_DB", ""), keep=dt.timedelta(days=float(os.environ.get("LOGS_KEEP_DAYS", "7")))
        )
        self._stored = asyncio.Event()
        self._followers = 0

    async def StoreLogRecords(
        self, request_iterator: AsyncIterator[log_pb2.LogRecord], context: rpc.EventContext
    ) -> empty_pb2.Empty:
        # Nothing is logged here: it would come back as the next record.
        records = [record async for record in request_iterator]
        await write_or_retry(context, lambda: self._store.add(context.deliveries, records))
        stored, self._stored = self._stored, asyncio.Event()
        stored.set()
        return empty_pb2.Empty()

    async def ListLogRecords(
        self, request: logs_pb2.ListLogRecordsRequest, context: grpc.aio.ServicerContext
    ) -> logs_pb2.ListLogRecordsResponse:
        try:
            query, before = _query(request), _read_token(request.page_token)
            if request.HasField("end_time"):
                query = query._replace(end=_nanoseconds("to", request.end_time))
            if request.page_size < 0:
                raise BadRequestError("page_size: it is negative")
        except BadRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        size = min(request.page_size or 100, MAX_PAGE)
        found = await asyncio.to_thread(self._store.find, query, limit=size + 1, before=before)
        answer = logs_pb2.ListLogRecordsResponse(records=[each.record for each in found[:size]])
        if len(found) > size:
            last = found[size - 1]
            answer.next_page_token = _token(last.record.time.ToNanoseconds(), last.row)
        return answer

    async def FollowLogRecords(
        self, request: logs_pb2.FollowLogRecordsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[logs_pb2.FollowLogRecordsResponse]:
        try:
            query = _query(request)
            _, after = _read_token(request.resume_token) or (0, -1)
        except BadRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if after < 0:
            after = 0 if request.HasField("start_time") else self._store.last_row
        else:
            query = query._replace(start=0)
        if self._followers >= MAX_FOLLOWERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, _TOO_MANY)
        with self._following():
            while True:
                stored = self._stored  # taken before the look: what is stored during it is not missed
                found, after = await asyncio.to_thread(self._store.follow, query, after, limit=AT_ONCE)
                for row, record in found:
                    token = _token(record.time.ToNanoseconds(), row)
                    yield logs_pb2.FollowLogRecordsResponse(record=record, resume_token=token)
                if len(found) < AT_ONCE:
                    await stored.wait()

    @contextlib.contextmanager
    def _following(self) -> Iterator[None]:
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1


def _query(request: logs_pb2.ListLogRecordsRequest | logs_pb2.FollowLogRecordsRequest) -> Query:
    """What both kinds of questions have. Raises BadRequestError."""
    trace_id = request.trace_id.lower()
    if not _TRACE.fullmatch(trace_id):
        raise BadRequestError("trace_id: expected 32 hexadecimal digits")
    start = _nanoseconds("from", request.start_time) if request.HasField("start_time") else 0
    return Query(request.service, request.min_severity, trace_id, request.text, start)


def _nanoseconds(name: str, timestamp: timestamp_pb2.Timestamp) -> int:
    nanoseconds = timestamp.seconds * 1_000_000_000 + timestamp.nanos
    if not 0 <= nanoseconds < 2**63:
        raise BadRequestError(f"{name}: expected a time from 1970 to 2262")
    return nanoseconds


def _token(nanoseconds: int, row: int) -> str:
    return base64.urlsafe_b64encode(b"%d-%d" % (nanoseconds, row)).decode()


def _read_token(token: str) -> tuple[int, int] | None:
    if not token:
        return None
    with contextlib.suppress(ValueError):
        nanoseconds, row = (int(part) for part in base64.urlsafe_b64decode(token).split(b"-"))
        if 0 <= nanoseconds < 2**63 and 0 <= row < 2**63:
            return nanoseconds, row
    raise BadRequestError("page_token, resume_token: expected what an earlier answer gave")
