"""A service with a job, for tests: ``works.v1.Works``. As a program it is a worker: ``works.py URL PREFIX NAME``."""

from __future__ import annotations

import asyncio
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "gen")]

import grpc  # noqa: E402 - the paths come first
from google.api import annotations_pb2  # noqa: E402, F401 - the contract imports it
from google.longrunning import operations_pb2  # noqa: E402
from google.protobuf import descriptor_pool  # noqa: E402
from google.protobuf.message_factory import GetMessageClass  # noqa: E402

import rpc  # noqa: E402
from mesh.v1 import options_pb2  # noqa: E402, F401 - the contract imports it
from tests.gateway.contracts import compile_proto, register  # noqa: E402

SERVICE = "works.v1.Works"


@cache
def schema() -> bytes:
    """The schema of works.v1, known to this process from then on."""
    data = compile_proto(Path(__file__).with_name("works.proto").read_text(), "works.proto")
    register(data)
    return data


def message(name: str) -> Any:
    """The class of a message of works.v1."""
    schema()
    return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"works.v1.{name}"))


class Works:
    """Prints. What is held reports a page, and runs until it is cancelled or let go."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.let_go = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def print(self, request: Any, context: rpc.JobContext) -> Any:
        if request.fate == "fail":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no ink")
        if request.fate == "hold":
            await context.report(message("PrintProgress")(pages=1))
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return message("PrintResponse")(printed=request.text, attempt=context.attempt, printer=self.name)


async def serve(target: Any, prefix: str, works: Works, **options: Any) -> rpc.Server:
    """Start a worker."""
    request = message("PrintRequest")
    methods: Any = {
        "Print": grpc.unary_unary_rpc_method_handler(
            works.print,
            request_deserializer=request.FromString,
            response_serializer=operations_pb2.Operation.SerializeToString,
        )
    }
    handler = grpc.method_handlers_generic_handler(SERVICE, methods)
    server = rpc.Server(target, prefix=prefix, handlers=[handler], **options)
    await server.start()
    return server


async def main(url: str, prefix: str, name: str) -> None:
    server = await serve(url, prefix, Works(name))
    print("up", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
