"""Clicks: a collector that takes them in at a high rate, and a store that counts them per page and minute."""

import asyncio
import base64
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

import grpc
from google.protobuf import empty_pb2, timestamp_pb2

import rpc
from clickstream.v1 import clickstream_pb2 as pb
from clickstream.v1 import clickstream_pb2_grpc
from services.click_counts import ClickCounts, Hit
from services.once import write_or_retry

logger = logging.getLogger(__name__)

MAX_PAGE = 512
MAX_ID = 64
LATEST = 7 * 86400.0  # as long as the broker keeps clicks: proto/clickstream/v1/clickstream.proto
AHEAD = 60.0
MAX_BATCH = 1000
SHOWN_REFUSALS = 100
MAX_COUNTS = 10_000
END_OF_TIME = 253_402_300_000  # the last minutes of the year 9999
AT_ONCE = 1000  # clicks of one stream that wait for the broker

_PAGE = re.compile(r"/[^\x00-\x20\x7f?#]*")
_ID = re.compile(r"[!-~]*")

Publish = Callable[..., Awaitable[object]]


class RefusedError(ValueError):
    """It is not a click; the text says what to change."""


class Collector(clickstream_pb2_grpc.CollectorServicer):
    """Publishes clicks as events."""

    def __init__(self, publish: Publish | None = None) -> None:
        """`publish` is `rpc.publish`, or what a test puts in its place."""
        self._publish = publish or rpc.publish

    async def Collect(self, request: pb.CollectRequest, context: grpc.aio.ServicerContext) -> pb.CollectResponse:
        try:
            click = checked(request.click, time.time())
        except RefusedError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        await self._publish(click, id=click.id)
        return pb.CollectResponse()

    async def CollectBatch(
        self, request: pb.CollectBatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.CollectBatchResponse:
        if len(request.clicks) > MAX_BATCH:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"clicks: {len(request.clicks)} are too many; send at most {MAX_BATCH} at once",
            )
        clicks, refusals = _sift(enumerate(request.clicks))
        await self._publish_all(clicks)
        return pb.CollectBatchResponse(accepted=len(clicks), refusals=refusals)

    async def CollectStream(
        self, request_iterator: AsyncIterator[pb.CollectStreamRequest], context: grpc.aio.ServicerContext
    ) -> pb.CollectStreamResponse:
        answer = pb.CollectStreamResponse()
        index = 0
        async for requests in _chunks(request_iterator, AT_ONCE):
            clicks, refusals = _sift(enumerate((request.click for request in requests), index))
            await self._publish_all(clicks)
            index += len(requests)
            answer.accepted += len(clicks)
            answer.refused += len(refusals)
            answer.refusals.extend(refusals[: SHOWN_REFUSALS - len(answer.refusals)])
        return answer

    async def _publish_all(self, clicks: Iterable[pb.Click]) -> None:
        sending = (self._publish(click, id=click.id) for click in clicks)
        for outcome in await asyncio.gather(*sending, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


class Store(clickstream_pb2_grpc.StoreServicer):
    """Counts clicks in a DuckDB file: the one that `CLICKS_DB` names."""

    def __init__(self, counts: ClickCounts | None = None) -> None:
        self._counts = counts or ClickCounts(os.environ.get("CLICKS_DB", ""))

    async def StoreClicks(
        self, request_iterator: AsyncIterator[pb.Click], context: rpc.EventContext
    ) -> empty_pb2.Empty:
        clicks = [click async for click in request_iterator]
        hits = [_hit(click, delivery.published) for click, delivery in zip(clicks, context.deliveries, strict=True)]
        await write_or_retry(context, lambda: self._counts.add(context.deliveries, hits))
        if refused := hits.count(None):
            logger.warning("%d events were no clicks, and are not counted", refused)
        return empty_pb2.Empty()

    async def Aggregate(self, request: pb.AggregateRequest, context: grpc.aio.ServicerContext) -> pb.AggregateResponse:
        try:
            start, end, size, after = _range(request, time.time())
        except RefusedError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        found, total = await asyncio.to_thread(self._counts.find, request.page, start, end, limit=size + 1, after=after)
        answer = pb.AggregateResponse(total=total)
        for minute, page, clicks in found[:size]:
            answer.counts.add(page=page, clicks=clicks).minute.seconds = minute
        if len(found) > size:
            answer.next_page_token = _token(found[size - 1].minute, found[size - 1].page)
        return answer


def checked(click: pb.Click, now: float) -> pb.Click:
    """The click, with its time. Raises RefusedError."""
    if not _PAGE.fullmatch(click.page):
        raise RefusedError("page: expected the path of a page, such as /pricing, without query and fragment")
    if len(click.page.encode()) > MAX_PAGE:
        raise RefusedError(f"page: it is longer than {MAX_PAGE} bytes")
    if len(click.visitor.encode()) > MAX_ID:
        raise RefusedError(f"visitor: it is longer than {MAX_ID} bytes")
    if len(click.id) > MAX_ID or not _ID.fullmatch(click.id):
        raise RefusedError(f"id: expected at most {MAX_ID} printable ASCII characters, without spaces")
    if not click.HasField("time"):
        click.time.FromNanoseconds(int(now * 1e9))
    elif not now - LATEST <= _seconds(click.time) <= now + AHEAD:
        raise RefusedError("time: it is more than 7 days ago, or more than a minute ahead")
    return click


def _sift(clicks: Iterable[tuple[int, pb.Click]]) -> tuple[list[pb.Click], list[pb.Refusal]]:
    """What is a click, and what is not."""
    good, refusals = [], []
    now = time.time()
    for index, click in clicks:
        try:
            good.append(checked(click, now))
        except RefusedError as error:
            refusals.append(pb.Refusal(index=index, reason=str(error)))
    return good, refusals


def _hit(click: pb.Click, published: float) -> Hit | None:
    """What is counted. Anybody on the mesh can publish a click, so it is checked again; None if it is not one."""
    try:
        return Hit(_seconds(checked(click, published).time), click.page)
    except RefusedError:
        return None


def _range(request: pb.AggregateRequest, now: float) -> tuple[int, int, int, tuple[int, str] | None]:
    """First second, last second, how many, and after what. Raises RefusedError."""
    end = _seconds(request.end_time) if request.HasField("end_time") else now
    start = _seconds(request.start_time) if request.HasField("start_time") else end - 3600
    if not 0 <= start <= end <= END_OF_TIME:
        raise RefusedError("from, to: expected two times, the earlier one first")
    if request.page_size < 0:
        raise RefusedError("page_size: it is negative")
    size = min(request.page_size or 1000, MAX_COUNTS)
    return int(start // 60) * 60, int(-(-end // 60)) * 60, size, _read_token(request.page_token)


def _token(minute: int, page: str) -> str:
    return base64.urlsafe_b64encode(f"{minute}{page}".encode()).decode()


def _read_token(token: str) -> tuple[int, str] | None:
    if not token:
        return None
    try:
        minute, slash, page = base64.urlsafe_b64decode(token).decode().partition("/")
        return min(max(int(minute), 0), END_OF_TIME), slash + page
    except ValueError:
        raise RefusedError("page_token: expected the next_page_token of the previous answer") from None


def _seconds(timestamp: timestamp_pb2.Timestamp) -> float:
    return timestamp.seconds + timestamp.nanos / 1e9


async def _chunks(
    requests: AsyncIterator[pb.CollectStreamRequest], size: int
) -> AsyncIterator[Sequence[pb.CollectStreamRequest]]:
    chunk: list[pb.CollectStreamRequest] = []
    async for request in requests:
        chunk.append(request)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
