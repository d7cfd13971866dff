"""A user's program, as strict type checking must accept it: plain grpcio-tools code on rpc.Server and rpc.Channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import rpc
from greeter.v1 import greeter_pb2, greeter_pb2_grpc

if TYPE_CHECKING:
    import grpc.aio

    Context = grpc.aio.ServicerContext[greeter_pb2.HelloRequest, greeter_pb2.HelloReply]


class Greeter(greeter_pb2_grpc.GreeterServicer):
    async def SayHello(self, request: greeter_pb2.HelloRequest, context: Context) -> greeter_pb2.HelloReply:
        assert_type(context.time_remaining(), float)
        return greeter_pb2.HelloReply(message=f"Hello, {request.name}!")


async def main() -> None:
    server = rpc.Server()
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()

    async with rpc.Channel("nats://127.0.0.1:4222") as channel:
        greeter = greeter_pb2_grpc.GreeterStub(channel)
        reply = await greeter.SayHello(greeter_pb2.HelloRequest(name="you"), timeout=1, metadata=(("key", "value"),))
        assert_type(reply, greeter_pb2.HelloReply)
        assert_type(reply.message, str)

        call = greeter.SayHello(greeter_pb2.HelloRequest(name="you"), wait_for_ready=True)
        assert_type(await call.details(), str)
    await server.stop(grace=1)
