"""Services whose methods have HTTP rules, as many as asked for: what a gateway with a large mesh behind it serves.

    python -m benchmarks.programs.many_routes <nats url> <routes>

Each method has one rule with a variable, `POST /v1/kinds<N>/{name}:greet`; they greet as the greeter does.
"""

import asyncio
import sys

import grpc
import uvloop
from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto

import rpc
from greeter.v1 import greeter_pb2
from services.greeter import Greeter

METHODS = 100
"""Methods of one service at most."""


def contract(service: str, first: int, count: int) -> FileDescriptorProto:
    """A .proto with one service and `count` methods, the numbers of whose paths begin at `first`."""
    file = FileDescriptorProto(name=f"{service.lower()}.proto", package="routes.v1", syntax="proto3")
    file.dependency.extend(["google/api/annotations.proto", greeter_pb2.DESCRIPTOR.name])
    declared = file.service.add(name=service)
    for number in range(first, first + count):
        method = declared.method.add(
            name=f"Greet{number}", input_type=".greeter.v1.HelloRequest", output_type=".greeter.v1.HelloReply"
        )
        rule = method.options.Extensions[annotations_pb2.http]
        rule.post, rule.body = f"/v1/kinds{number}/{{name}}:greet", "*"
    return file


async def main() -> None:
    url, routes = sys.argv[1], int(sys.argv[2])
    server = rpc.Server(await rpc.connect(url))
    greet = grpc.unary_unary_rpc_method_handler(
        Greeter().SayHello,
        request_deserializer=greeter_pb2.HelloRequest.FromString,
        response_serializer=greeter_pb2.HelloReply.SerializeToString,
    )
    for number, first in enumerate(range(0, routes, METHODS)):
        file = contract(f"Kinds{number}", first, min(METHODS, routes - first))
        descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
        methods = {method.name: greet for method in file.service[0].method}
        name = f"routes.v1.{file.service[0].name}"
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, methods)])
        server.add_registered_method_handlers(name, methods)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
