"""Counts are exact: over real processes, a real broker, and a store that is killed while it counts."""

import asyncio
import json
import signal
import time
import urllib.request
from collections import Counter
from pathlib import Path

import duckdb
import grpc

import rpc
from clickstream.v1 import clickstream_pb2 as pb
from clickstream.v1 import clickstream_pb2_grpc
from rpc.embedded import Broker
from tests.cli.commands import Commands, closing, free_port
from tests.services.processes import ROOT, channel, commands, prefix, publisher, serving

__all__ = ["channel", "commands", "prefix", "publisher"]

DYING = "tests.services.dying:DyingStore"
STORE, COLLECTOR = "services.clickstream:Store", "services.clickstream:Collector"
NOW = int(time.time())


async def total(store: clickstream_pb2_grpc.StoreStub) -> int:
    """How many are counted; 0 while nobody answers."""
    asked = pb.AggregateRequest(start_time={"seconds": NOW - 7200}, page_size=1)
    try:
        answer: pb.AggregateResponse = await store.Aggregate(asked, timeout=2)
    except grpc.aio.AioRpcError as error:  # of a store that was killed
        if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
            return 0
        raise
    return answer.total


async def reaches(store: clickstream_pb2_grpc.StoreStub, clicks: int, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while await total(store) < clicks:
            await asyncio.sleep(0.05)


async def test_a_killed_store_counts_every_click_once(
    commands: Commands, channel: rpc.Channel, publisher: rpc.Publisher, tmp_path: Path
) -> None:
    clicks = [pb.Click(page=f"/{n % 7}", time={"seconds": NOW - n % 3600}) for n in range(20_000)]
    store = clickstream_pb2_grpc.StoreStub(channel)

    async def publish() -> None:
        for first in range(0, len(clicks), 500):
            await asyncio.gather(*[publisher.publish(click) for click in clicks[first : first + 500]])

    publishing = asyncio.create_task(publish())
    for _ in range(2):
        dying = commands.start("serve", DYING)
        assert await asyncio.to_thread(dying.ends) == -signal.SIGKILL
    process = await serving(commands.start("serve", STORE))
    await reaches(store, 6000)
    process.kill()
    process = await serving(commands.start("serve", STORE))
    await publishing
    await reaches(store, len(clicks))
    await asyncio.sleep(3.5)  # what the killed ones had not settled is delivered again after 3 s, and counts no more
    assert await total(store) == len(clicks)
    assert await asyncio.to_thread(process.stop) == 0
    with duckdb.connect(str(tmp_path / "clicks.duckdb"), read_only=True) as database:
        rows = database.execute("SELECT epoch(minute)::BIGINT, page, clicks FROM counts").fetchall()
        (ranges,) = database.execute("SELECT ranges FROM applied").fetchone() or ("",)
    assert {(minute, page): number for minute, page, number in rows} == Counter(
        (click.time.seconds // 60 * 60, click.page) for click in clicks
    )
    assert ranges == f"1-{len(clicks)}"


async def test_clicks_by_rest_and_by_stream_are_counted(commands: Commands, channel: rpc.Channel) -> None:
    port = free_port()
    gateway = commands.start("gateway", "--port", str(port))
    processes = [commands.start("serve", COLLECTOR), commands.start("serve", COLLECTOR), commands.start("serve", STORE)]
    for process in processes:
        await serving(process)
    await asyncio.to_thread(gateway.says, r"serving clickstream\.v1\.Collector")
    await asyncio.to_thread(gateway.says, r"serving clickstream\.v1\.Store")

    def rest(path: str, body: object = None) -> dict[str, object]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, object] = json.load(answer)
            return found

    for _ in range(2):  # a client that tries again
        assert await asyncio.to_thread(rest, "/v1/clicks", {"page": "/pricing", "visitor": "ada", "id": "c1"}) == {}
    clicks = [{"page": "/pricing"}, {"page": "nowhere"}, {"page": "/about"}]
    answer = await asyncio.to_thread(rest, "/v1/clicks:batch", {"clicks": clicks})
    assert answer["accepted"] == "2"
    collector = clickstream_pb2_grpc.CollectorStub(channel)
    requests = [pb.CollectStreamRequest(click=pb.Click(page="/pricing"))] * 3000
    streamed = await collector.CollectStream(iter(requests), timeout=20)
    assert streamed.accepted == 3000
    await reaches(clickstream_pb2_grpc.StoreStub(channel), 3003)
    now = int(time.time())  # not that of the import: other tests come before this one
    path = f"/v1/clicks:aggregate?page=/pricing&from={at(now - 600)}&to={at(now + 60)}"
    found = await asyncio.to_thread(rest, path)
    assert found["total"] == "3002"
    counts = found["counts"]
    assert isinstance(counts, list)
    assert sum(int(count["clicks"]) for count in counts) == 3002


def at(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


async def test_a_broker_that_forgot_everything_is_counted_on(tmp_path: Path) -> None:
    """A development broker begins anew, and its numbers with it; the file of the counts goes on."""
    with Broker(port=0) as broker, closing(Commands(ROOT, NATS_URL=broker.url)) as own:
        process = await serving(own.start("serve", STORE, CLICKS_DB=str(tmp_path / "clicks.duckdb")))
        for goal in (300, 450):
            async with rpc.Channel(broker.url) as channel, rpc.Publisher(broker.url) as publisher:
                store = clickstream_pb2_grpc.StoreStub(channel)
                clicks = [pb.Click(page="/", time={"seconds": NOW})] * (300 if goal == 300 else 150)
                await asyncio.gather(*[publisher.publish(click) for click in clicks])
                await reaches(store, goal)
                assert await total(store) == goal
            broker.stop()
            broker.start()
        await asyncio.to_thread(process.says, "the stream was made anew")


async def test_a_second_store_says_why_it_does_not_start(commands: Commands) -> None:
    await serving(commands.start("serve", STORE))
    second = commands.start("serve", STORE)
    assert await asyncio.to_thread(second.ends) == 2
    assert "another process has it; run one writer" in second.output
