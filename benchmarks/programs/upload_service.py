"""The back-end of `benchmarks.uploads`: counts the bytes of a stream of HttpBody.

python -m benchmarks.programs.upload_service <nats url>
"""

from __future__ import annotations

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

SERVICE = "bench.v1.Uploads"
PROTO = """
syntax = "proto3";
package bench.v1;
import "google/api/annotations.proto";
import "google/api/httpbody.proto";
message Receipt { int64 size = 1; }
service Uploads {
  rpc Put(stream google.api.HttpBody) returns (Receipt) { option (google.api.http) = {post: "/v1/files" body: "*"}; }
}
"""


def receipt_class() -> Any:
    """Compiles the contract and makes it known, as importing generated code would."""
    from google.api import annotations_pb2  # noqa: F401 - what the contract imports
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "uploads.proto").write_text(PROTO)
        includes = [f"-I{folder}", f"-I{sysconfig.get_path('purelib')}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
        target = Path(folder) / "set"
        assert protoc.main(["protoc", *includes, f"--descriptor_set_out={target}", "uploads.proto"]) == 0
        file = FileDescriptorSet.FromString(target.read_bytes()).file[-1]
    pool = descriptor_pool.Default()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("bench.v1.Receipt"))


async def main() -> None:
    from google.api.httpbody_pb2 import HttpBody

    import rpc

    receipt = receipt_class()

    async def put(requests: AsyncIterator[Any], _context: Any) -> Any:
        size = 0
        async for body in requests:
            size += len(body.data)
        return receipt(size=size)

    server = rpc.Server(sys.argv[1])
    handler = grpc.stream_unary_rpc_method_handler(put, HttpBody.FromString, receipt.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Put": handler}),))
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
