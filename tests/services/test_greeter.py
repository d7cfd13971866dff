"""The greeter, on grpc.aio."""

import grpc
import pytest

from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from services.greeter import Greeter

SERVICES = [(greeter_pb2_grpc.add_GreeterServicer_to_server, Greeter)]


@pytest.mark.parametrize("name", ["Ada", "", "Þórbergur 🧊"])
async def test_it_greets(channel: grpc.aio.Channel, name: str) -> None:
    greeter = greeter_pb2_grpc.GreeterStub(channel)
    reply = await greeter.SayHello(greeter_pb2.HelloRequest(name=name), timeout=10)
    assert reply.message == f"Hello, {name}!"
