"""The collector and the store of clicks, on grpc.aio; events go into a list."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import grpc
import pytest

from clickstream.v1 import clickstream_pb2 as pb
from clickstream.v1 import clickstream_pb2_grpc
from services.click_counts import ClickCounts, Hit
from services.clickstream import Collector, Store

NOW = time.time()
MINUTE = int(NOW // 60) * 60 - 600


class Delivered(NamedTuple):
    sequence: int
    published: float = NOW


class Events:
    """What was published: clicks, and their ids."""

    def __init__(self) -> None:
        self.clicks: list[pb.Click] = []
        self.ids: list[str] = []

    async def publish(self, click: pb.Click, *, id: str = "") -> None:  # noqa: A002
        self.clicks.append(click)
        self.ids.append(id)


EVENTS = Events()
SERVICES: list[tuple[Callable[[Any, grpc.aio.Server], None], Callable[[], Any]]] = [
    (clickstream_pb2_grpc.add_CollectorServicer_to_server, lambda: Collector(EVENTS.publish)),
    (clickstream_pb2_grpc.add_StoreServicer_to_server, lambda: Store(counted())),
]


def counted() -> ClickCounts:
    """Twelve pages with one click each in three minutes, and a hundred on one of them."""
    counts = ClickCounts()
    hits = [Hit(MINUTE + 60 * (n % 3), f"/{n:02}") for n in range(12)] + [Hit(MINUTE, "/00")] * 100
    counts.add([Delivered(number) for number in range(1, len(hits) + 1)], hits)
    return counts


@pytest.fixture
def events() -> Events:
    EVENTS.clicks.clear()
    EVENTS.ids.clear()
    return EVENTS


@pytest.fixture
def collector(channel: grpc.aio.Channel, events: Events) -> clickstream_pb2_grpc.CollectorStub:
    return clickstream_pb2_grpc.CollectorStub(channel)


@pytest.fixture
def store(channel: grpc.aio.Channel) -> clickstream_pb2_grpc.StoreStub:
    return clickstream_pb2_grpc.StoreStub(channel)


def at(seconds: float) -> Any:
    return {"seconds": int(seconds)}


async def test_a_click_is_published_with_its_id_and_a_time(
    collector: clickstream_pb2_grpc.CollectorStub, events: Events
) -> None:
    await collector.Collect(pb.CollectRequest(click=pb.Click(page="/pricing", visitor="ada", id="c-1")))
    (click,) = events.clicks
    assert (click.page, click.visitor, events.ids) == ("/pricing", "ada", ["c-1"])
    assert abs(click.time.ToNanoseconds() / 1e9 - time.time()) < 60


@pytest.mark.parametrize(
    ("click", "reason"),
    [
        (pb.Click(), "page: expected the path of a page"),
        (pb.Click(page="pricing"), "page: expected the path of a page"),
        (pb.Click(page="/pricing?from=mail"), "page: expected the path of a page"),
        (pb.Click(page="/a\nb"), "page: expected the path of a page"),
        (pb.Click(page="/" + "x" * 512), "page: it is longer than 512 bytes"),
        (pb.Click(page="/", visitor="x" * 65), "visitor: it is longer than 64 bytes"),
        (pb.Click(page="/", id="a b"), "id: expected at most 64 printable"),
        (pb.Click(page="/", id="x" * 65), "id: expected at most 64 printable"),
        (pb.Click(page="/", time=at(NOW - 8 * 86400)), "time: it is more than 7 days ago"),
        (pb.Click(page="/", time=at(NOW + 3600)), "time: it is more than 7 days ago, or more than a minute ahead"),
        (pb.Click(page="/", time={"seconds": 2**62}), "time: it is more than 7 days ago"),
    ],
)
async def test_what_is_no_click_is_refused(
    collector: clickstream_pb2_grpc.CollectorStub, events: Events, click: pb.Click, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await collector.Collect(pb.CollectRequest(click=click))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (refused.value.details() or "").startswith(reason)
    assert events.clicks == []


async def test_of_a_batch_the_good_ones_are_taken(
    collector: clickstream_pb2_grpc.CollectorStub, events: Events
) -> None:
    batch = pb.CollectBatchRequest(clicks=[pb.Click(page="/a"), pb.Click(page="b"), pb.Click(page="/c")])
    answer = await collector.CollectBatch(batch)
    assert answer.accepted == 2
    assert [refusal.index for refusal in answer.refusals] == [1]
    assert [click.page for click in events.clicks] == ["/a", "/c"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await collector.CollectBatch(pb.CollectBatchRequest(clicks=[pb.Click(page="/a")] * 1001))
    assert "send at most 1000" in (refused.value.details() or "")


async def test_a_stream_of_any_length(collector: clickstream_pb2_grpc.CollectorStub, events: Events) -> None:
    async def clicks() -> AsyncIterator[pb.CollectStreamRequest]:
        for number in range(3500):
            page = f"/{number}" if number % 10 else "none"
            yield pb.CollectStreamRequest(click=pb.Click(page=page))

    answer = await collector.CollectStream(clicks())
    assert (answer.accepted, answer.refused) == (3150, 350)
    assert [refusal.index for refusal in answer.refusals] == list(range(0, 1000, 10))
    assert len(events.clicks) == 3150


async def test_counts_by_minute_and_page(store: clickstream_pb2_grpc.StoreStub) -> None:
    asked = pb.AggregateRequest(start_time=at(MINUTE), end_time=at(MINUTE + 60))
    answer = await store.Aggregate(asked)
    assert [(count.page, count.clicks) for count in answer.counts] == [("/00", 101), ("/03", 1), ("/06", 1), ("/09", 1)]
    assert {count.minute.seconds for count in answer.counts} == {MINUTE}
    assert answer.total == 104
    inside = await store.Aggregate(pb.AggregateRequest(start_time=at(MINUTE + 30), end_time=at(MINUTE + 31)))
    assert inside == answer, "whole minutes"
    one = await store.Aggregate(pb.AggregateRequest(page="/03"))
    assert [(count.minute.seconds, count.clicks) for count in one.counts] == [(MINUTE, 1)], "the last hour"


async def test_pages_of_counts(store: clickstream_pb2_grpc.StoreStub) -> None:
    asked, found = pb.AggregateRequest(page_size=5), []
    while True:
        answer = await store.Aggregate(asked)
        assert answer.total == 112
        found += [count.page for count in answer.counts]
        if not answer.next_page_token:
            break
        asked.page_token = answer.next_page_token
    assert found == [f"/{n:02}" for minute in range(3) for n in range(minute, 12, 3)]


@pytest.mark.parametrize(
    "asked",
    [
        pb.AggregateRequest(page_token="what?"),
        pb.AggregateRequest(page_token="eA=="),
        pb.AggregateRequest(page_size=-1),
        pb.AggregateRequest(start_time=at(NOW), end_time=at(NOW - 60)),
        pb.AggregateRequest(start_time={"seconds": -5}),
        pb.AggregateRequest(end_time={"seconds": 2**62}),
    ],
)
async def test_impossible_questions_are_refused(
    store: clickstream_pb2_grpc.StoreStub, asked: pb.AggregateRequest
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await store.Aggregate(asked)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
