"""Many subscribers of the greeter in one process, each an `rpc.Server` with a connection of its own.

    python -m benchmarks.programs.subscribers <nats url> <count>

Prints "ready"; answers each line on stdin with `COUNTS [...]`, the calls each has answered; ends with stdin.
"""

import asyncio
import json
import sys

import grpc
import uvloop

import rpc
from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from services.greeter import Greeter


class CountingGreeter(Greeter):
    def __init__(self) -> None:
        self.calls = 0

    async def SayHello(
        self, request: greeter_pb2.HelloRequest, context: grpc.aio.ServicerContext
    ) -> greeter_pb2.HelloReply:
        self.calls += 1
        return await super().SayHello(request, context)


async def main() -> None:
    url, count = sys.argv[1], int(sys.argv[2])
    greeters = [CountingGreeter() for _ in range(count)]
    for greeter in greeters:
        server = rpc.Server(await rpc.connect(url))
        greeter_pb2_grpc.add_GreeterServicer_to_server(greeter, server)
        await server.start()
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print("COUNTS " + json.dumps([greeter.calls for greeter in greeters]), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
