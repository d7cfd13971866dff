"""natsmesh: protobuf messages by `rpc.Publisher`, a subscribed method that takes batches."""

from __future__ import annotations

from collections.abc import AsyncIterator

from bench.v1 import bench_pb2, bench_pb2_grpc
from google.protobuf import empty_pb2

import rpc
from benchmarks.programs import events_client
from benchmarks.programs.events_client import Counts, fields


class Clicks(bench_pb2_grpc.ClicksServicer):
    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    async def StoreClicks(
        self, request_iterator: AsyncIterator[bench_pb2.PageClicked], context: rpc.EventContext
    ) -> empty_pb2.Empty:
        async for click in request_iterator:
            self._counts.add(click.page, click.count)
        self._counts.batches += 1
        return empty_pb2.Empty()


class Events(events_client.Events):
    stream = "EVENTS-bench_v1_PageClicked"
    consumer = "bench_v1_Clicks-StoreClicks"

    async def open(self) -> None:
        self._publisher = rpc.Publisher(self.url)
        await self._publisher.__aenter__()

    async def publish(self, number: int) -> None:
        await self._publisher.publish(bench_pb2.PageClicked(**fields(number)))

    async def prepare(self) -> None:
        self._server = rpc.Server(await rpc.connect(self.url))
        bench_pb2_grpc.add_ClicksServicer_to_server(Clicks(self.counts), self._server)

    async def consume(self) -> None:
        await self._server.start()
