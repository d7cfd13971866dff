"""The back-end of a gateway under attack: ``backend.py NATS_URL PREFIX``. It echoes, and ends when it is told to."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "gen")]

import grpc  # noqa: E402 - the paths come first
from google.api import httpbody_pb2  # noqa: E402
from google.protobuf import (  # noqa: E402, F401 - importing them makes the files known that the contract imports
    any_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.message_factory import GetMessageClass  # noqa: E402

import rpc  # noqa: E402
from tests.gateway import streaming  # noqa: E402
from tests.gateway.contracts import library, register  # noqa: E402

LIBRARY = "library.v1.Library"


def library_handlers() -> dict[str, Any]:
    """All unary methods: they answer with what they were asked if that is of the right type, else with nothing."""
    register(library())
    service = descriptor_pool.Default().FindServiceByName(LIBRARY)
    handlers: dict[str, Any] = {}
    for method in service.methods:
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        if method.server_streaming:
            make, answer = grpc.unary_stream_rpc_method_handler, _twice(response)
        else:
            make, answer = grpc.unary_unary_rpc_method_handler, _once(request, response)
        handlers[method.name] = make(
            answer, request_deserializer=request.FromString, response_serializer=response.SerializeToString
        )
    return handlers


def _once(request: Any, response: Any) -> Callable[..., Any]:
    async def answer(asked: Any, context: streaming.Context) -> Any:
        return asked if request is response else response()

    return answer


def _twice(response: Any) -> Callable[..., Any]:
    async def answer(asked: Any, context: streaming.Context) -> AsyncIterator[Any]:
        yield response()
        yield response()

    return answer


async def ask(item: Any, context: streaming.Context) -> Any:
    return item


async def tell(item: Any, context: streaming.Context) -> AsyncIterator[Any]:
    yield item
    yield item


async def gather(items: streaming.Items, context: streaming.Context) -> Any:
    number = 0
    async for _ in items:
        number += 1
    return streaming.Item(number=number)


async def talk(items: streaming.Items, context: streaming.Context) -> AsyncIterator[Any]:
    async for item in items:
        yield item


async def download(item: Any, context: streaming.Context) -> AsyncIterator[Any]:
    yield httpbody_pb2.HttpBody(content_type="text/plain", data=item.data or b"abc")


async def main(url: str, prefix: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    streams = await streaming.serve(url, prefix, ask=ask, tell=tell, gather=gather, talk=talk, download=download)
    server = rpc.Server(url, prefix=prefix)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(LIBRARY, library_handlers())])
    await server.start()
    await stop.wait()
    await server.stop(0)
    await streams.stop(0)


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # It is told much that is no message.
    asyncio.run(main(sys.argv[1], sys.argv[2]))
