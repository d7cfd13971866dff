"""A user's mistakes, as type checking must find them: one on each line that names the error it is to give."""

from __future__ import annotations

import rpc
from greeter.v1 import greeter_pb2, greeter_pb2_grpc


class NotAGreeter:
    pass


async def main(server: rpc.Server, channel: rpc.Channel) -> None:
    greeter_pb2_grpc.add_GreeterServicer_to_server(NotAGreeter(), server)  # error: arg-type

    greeter = greeter_pb2_grpc.GreeterStub(channel)
    await greeter.SayHello(greeter_pb2.HelloReply())  # error: arg-type
    await greeter.SayHello(greeter_pb2.HelloRequest(), timeout="1 s")  # error: arg-type
    await greeter.SayGoodbye(greeter_pb2.HelloRequest())  # error: attr-defined
    greeter_pb2.HelloRequest(nickname="you")  # error: call-arg
    reply = await greeter.SayHello(greeter_pb2.HelloRequest(name="you"))
    print(reply.massage)  # error: attr-defined
    number: int = reply.message  # error: assignment
    print(number)
