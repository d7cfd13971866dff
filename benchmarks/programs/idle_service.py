"""The back-end of `benchmarks.idle_streams`: a stream that says one thing and then nothing, and the reference greeter.

python -m benchmarks.programs.idle_service <nats url>
"""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import uvloop
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass

SERVICE = "bench.v1.Idle"
PROTO = """
syntax = "proto3";
package bench.v1;
import "google/api/annotations.proto";
message News { string text = 1; }
service Idle {
  rpc Listen(News) returns (stream News) { option (google.api.http) = {get: "/v1/listen"}; }
  rpc Talk(stream News) returns (stream News);
}
"""


def message_class() -> Any:
    """Compiles the contract and makes it known, as importing generated code would."""
    from google.api import annotations_pb2  # noqa: F401 - what the contract imports
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "idle.proto").write_text(PROTO)
        includes = [f"-I{folder}", f"-I{sysconfig.get_path('purelib')}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
        target = Path(folder) / "set"
        assert protoc.main(["protoc", *includes, f"--descriptor_set_out={target}", "idle.proto"]) == 0
        file = FileDescriptorSet.FromString(target.read_bytes()).file[-1]
    pool = descriptor_pool.Default()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("bench.v1.News"))


async def main() -> None:
    import rpc
    from greeter.v1 import greeter_pb2_grpc
    from natsmesh.garbage import settle
    from services.greeter import Greeter

    news = message_class()

    async def listen(_request: Any, _context: Any) -> AsyncIterator[Any]:
        yield news(text="welcome")
        await asyncio.Event().wait()

    async def talk(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield request

    server = rpc.Server(sys.argv[1], maximum_concurrent_rpcs=20_000)
    codec = {"request_deserializer": news.FromString, "response_serializer": news.SerializeToString}
    handlers = {
        "Listen": grpc.unary_stream_rpc_method_handler(listen, **codec),
        "Talk": grpc.stream_stream_rpc_method_handler(talk, **codec),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    settle()  # as `natsmesh serve` does
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
