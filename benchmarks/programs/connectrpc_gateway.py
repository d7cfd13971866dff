"""ASGI application: the greeter by `connectrpc` alone, in the process that speaks HTTP; no bus, no back-end.

Its message classes are protobuf-py's, which `connectrpc` works with, made of the descriptors of the same .proto.
"""

from typing import Any

from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from protobuf import wkt

from greeter.v1 import greeter_pb2


def file_descriptor_set() -> bytes:
    """The greeter's contract without its HTTP rule, whose extension nobody asks for here."""
    contract = FileDescriptorProto()
    greeter_pb2.DESCRIPTOR.CopyToProto(contract)
    del contract.dependency[:]
    for rpc_method in contract.service[0].method:
        rpc_method.ClearField("options")
    for message in contract.message_type:
        for field in message.field:
            field.json_name = field.name  # protoc has left it out; the names have no underscore
    return FileDescriptorSet(file=[contract]).SerializeToString()


registry = wkt.FileDescriptorSet.from_binary(file_descriptor_set()).to_registry()
request_type: Any = registry.message("greeter.v1.HelloRequest").type
response_type: Any = registry.message("greeter.v1.HelloReply").type


async def say_hello(request: Any, _context: RequestContext[Any, Any]) -> Any:
    return response_type(message=f"Hello, {request.name}!")


method: MethodInfo[Any, Any] = MethodInfo(
    name="SayHello",
    service_name="greeter.v1.Greeter",
    input=request_type,
    output=response_type,
    idempotency_level=IdempotencyLevel.UNKNOWN,
    stream_type=StreamType.UNARY,
)


class Application(ConnectASGIApplication[None]):
    @property
    def path(self) -> str:
        return "/greeter.v1.Greeter"


app = Application(
    service=None,
    endpoints=lambda _service: {"/greeter.v1.Greeter/SayHello": Endpoint.unary(method, say_hello)},
)
