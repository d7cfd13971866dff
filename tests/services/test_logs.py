"""The service that keeps log records, on grpc.aio."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import grpc
import pytest

from mesh.v1 import log_pb2, logs_pb2, logs_pb2_grpc
from services import logs
from services.logs import Logs

NOW = time.time()
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Delivered(NamedTuple):
    sequence: int
    published: float = NOW


class Context:
    """What the handler of events is told."""

    def __init__(self, deliveries: Sequence[Delivered]) -> None:
        self.deliveries = deliveries


class Kept:
    """The service, and what was delivered to it."""

    def __init__(self) -> None:
        self.service = Logs()
        self._sequence = 0

    async def deliver(self, *records: log_pb2.LogRecord) -> None:
        async def batch() -> AsyncIterator[log_pb2.LogRecord]:
            for record in records:
                yield record

        deliveries = [Delivered(self._sequence + place) for place in range(1, len(records) + 1)]
        self._sequence += len(records)
        context: Any = Context(deliveries)
        await self.service.StoreLogRecords(batch(), context)


KEPT: list[Kept] = []


def make() -> Logs:
    KEPT.append(Kept())
    return KEPT[-1].service


SERVICES: list[tuple[Callable[[Any, grpc.aio.Server], None], Callable[[], Any]]] = [
    (logs_pb2_grpc.add_LogsServicer_to_server, make)
]


@pytest.fixture
def kept(channel: grpc.aio.Channel) -> Kept:
    return KEPT[-1]


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> logs_pb2_grpc.LogsStub:
    return logs_pb2_grpc.LogsStub(channel)


def record(body: str, *, age: float = 0.0, **fields: Any) -> log_pb2.LogRecord:
    made = log_pb2.LogRecord(body=body, **fields)
    made.time.FromNanoseconds(int((NOW - age) * 1e9))
    return made


def at(seconds: float) -> Any:
    return {"seconds": int(seconds)}


async def test_records_are_listed_the_latest_first_page_by_page(stub: logs_pb2_grpc.LogsStub, kept: Kept) -> None:
    await kept.deliver(*[record(str(age), age=age, service="a") for age in range(25)], record("other", service="b"))
    request, bodies = logs_pb2.ListLogRecordsRequest(service="a", page_size=10), []
    sizes = []
    while True:
        answer = await stub.ListLogRecords(request)
        bodies += [each.body for each in answer.records]
        sizes.append(len(answer.records))
        request.page_token = answer.next_page_token
        if not request.page_token:
            break
    assert bodies == [str(age) for age in range(25)]
    assert sizes == [10, 10, 5]


async def test_what_is_asked_is_what_is_found(stub: logs_pb2_grpc.LogsStub, kept: Kept) -> None:
    await kept.deliver(
        record("started", age=300, severity=log_pb2.SEVERITY_INFO),
        record("Broke", age=200, severity=log_pb2.SEVERITY_ERROR, trace_id=TRACE),
        record("broken", age=100, severity=log_pb2.SEVERITY_WARN),
    )

    async def found(**asked: Any) -> list[str]:
        answer = await stub.ListLogRecords(logs_pb2.ListLogRecordsRequest(**asked))
        return [each.body for each in answer.records]

    assert await found(min_severity=log_pb2.SEVERITY_WARN) == ["broken", "Broke"]
    assert await found(trace_id=TRACE.upper()) == ["Broke"]
    assert await found(text="BROKE") == ["broken", "Broke"]
    assert await found(start_time=at(NOW - 250), end_time=at(NOW - 150)) == ["Broke"]


@pytest.mark.parametrize(
    "asked",
    [
        {"trace_id": "xyz"},
        {"page_size": -1},
        {"page_token": "?"},
        {"page_token": "MS0tMQ=="},
        {"start_time": {"seconds": -1}},
        {"end_time": {"seconds": 2**62}},
    ],
)
async def test_impossible_questions_are_refused(stub: logs_pb2_grpc.LogsStub, asked: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ListLogRecords(logs_pb2.ListLogRecordsRequest(**asked))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def take(call: Any, number: int) -> list[logs_pb2.FollowLogRecordsResponse]:
    async with asyncio.timeout(10):
        return [await call.read() for _ in range(number)]


async def following(kept: Kept, number: int = 1) -> None:
    """Wait until so many follow."""
    async with asyncio.timeout(10):
        while kept.service._followers < number:
            await asyncio.sleep(0.01)


async def test_followers_get_what_comes_and_can_go_on_after_a_break(
    stub: logs_pb2_grpc.LogsStub, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "AT_ONCE", 3)
    await kept.deliver(record("before"))
    call = stub.FollowLogRecords(logs_pb2.FollowLogRecordsRequest(min_severity=log_pb2.SEVERITY_WARN))
    await following(kept)
    batch = [record(str(number), severity=log_pb2.SEVERITY_ERROR) for number in range(8)]
    await kept.deliver(record("not this", severity=log_pb2.SEVERITY_INFO), *batch)
    answers = await take(call, 5)
    assert [answer.record.body for answer in answers] == ["0", "1", "2", "3", "4"]
    call.cancel()
    again = logs_pb2.FollowLogRecordsRequest(resume_token=answers[-1].resume_token, start_time=at(NOW + 100_000))
    call = stub.FollowLogRecords(again)
    assert [answer.record.body for answer in await take(call, 3)] == ["5", "6", "7"]
    await kept.deliver(record("more"))
    assert [answer.record.body for answer in await take(call, 1)] == ["more"]
    call.cancel()
    async with asyncio.timeout(10):
        while kept.service._followers:
            await asyncio.sleep(0.01)


async def test_with_a_time_what_is_stored_comes_first(stub: logs_pb2_grpc.LogsStub, kept: Kept) -> None:
    await kept.deliver(record("old", age=1000), record("new", age=10))
    call = stub.FollowLogRecords(logs_pb2.FollowLogRecordsRequest(start_time=at(NOW - 100)))
    assert [answer.record.body for answer in await take(call, 1)] == ["new"]
    call.cancel()


async def test_followers_are_bounded(stub: logs_pb2_grpc.LogsStub, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_FOLLOWERS", 2)
    calls = [stub.FollowLogRecords(logs_pb2.FollowLogRecordsRequest()) for _ in range(2)]
    await following(kept, 2)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await take(stub.FollowLogRecords(logs_pb2.FollowLogRecordsRequest()), 1)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for call in calls:
        call.cancel()
