"""``python python_ticker.py NATS_URL GENERATED``: the Python twin of ``examples/node-backend/ticker.mjs``."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import grpc
from grpc import aio

import rpc

sys.path.insert(0, sys.argv[2])

from ticker.v1 import ticker_pb2, ticker_pb2_grpc


class Ticker(ticker_pb2_grpc.TickerServicer):
    def __init__(self) -> None:
        self.watches = 0

    async def Quote(self, request: ticker_pb2.QuoteRequest, context: aio.ServicerContext) -> ticker_pb2.QuoteReply:
        if request.symbol == "SLEEP":
            await asyncio.sleep(1)
        elif request.symbol != "NATS":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no such symbol: {request.symbol}")
        context.set_trailing_metadata([pair for pair in context.invocation_metadata() if pair[0] == "x-echo"])
        return ticker_pb2.QuoteReply(price=4222, note=request.note)

    async def Watch(
        self, request: ticker_pb2.WatchRequest, context: aio.ServicerContext
    ) -> AsyncIterator[ticker_pb2.Tick]:
        self.watches += 1
        try:
            number = 0
            while not request.count or number < request.count:
                yield ticker_pb2.Tick(number=number, price=4222 + number, padding=bytes(request.padding))
                if request.symbol != "NATS":
                    await context.abort(grpc.StatusCode.NOT_FOUND, f"no such symbol: {request.symbol}")
                number += 1
                await asyncio.sleep(request.pause_ms / 1000)
        finally:
            self.watches -= 1

    async def Running(
        self, request: ticker_pb2.RunningRequest, context: aio.ServicerContext
    ) -> ticker_pb2.RunningReply:
        return ticker_pb2.RunningReply(watches=self.watches)


async def main() -> None:
    server = rpc.Server(sys.argv[1], version="1.0.0")
    ticker_pb2_grpc.add_TickerServicer_to_server(Ticker(), server)
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(server.stop(5)))
    print(f"serving ticker.v1.Ticker as {server.instance}", flush=True)
    await server.wait_for_termination()


asyncio.run(main())
