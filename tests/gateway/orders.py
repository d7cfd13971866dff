"""The orders of orders.proto: a back-end for what people read and try."""

from __future__ import annotations

import asyncio
import importlib
import io
import re
import shutil
import sys
import sysconfig
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from google.api import httpbody_pb2
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc
from PIL import Image

import rpc
from rpc import Connection

SERVICE = "orders.v1.Orders"


def _generate() -> Any:
    """Generate code as a project does, with the descriptor set that has the comments, and import it."""
    folder = tempfile.TemporaryDirectory(prefix="natsmesh-orders-")
    root = Path(folder.name)
    source = root / "proto" / "orders" / "v1" / "orders.proto"
    source.parent.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("orders.proto"), source)
    generated = root / "gen"
    generated.mkdir()
    includes = [root / "proto", sysconfig.get_path("purelib"), Path(protoc.__file__).parent / "_proto"]
    arguments = [*(f"-I{include}" for include in includes), f"--python_out={generated}", "orders/v1/orders.proto"]
    arguments += ["--include_source_info", f"--descriptor_set_out={generated / 'descriptors.binpb'}"]
    assert protoc.main(["protoc", *arguments]) == 0
    sys.path.insert(0, str(generated))
    module = importlib.import_module("orders.v1.orders_pb2")
    return module, folder


# The folder lasts as long as the process: servers look for the comments when they start.
pb, _folder = _generate()
DESCRIPTOR = pb.DESCRIPTOR.services_by_name["Orders"]
Context = grpc.aio.ServicerContext[Any, Any]


class Orders:
    """Answers what fits the contract, whatever it is asked."""

    async def get_order(self, request: Any, context: Context) -> Any:
        if request.name.endswith("/0"):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no order {request.name!r}")
        return pb.Order(name=request.name, items=[pb.Item(article="tea", count=2)], state=2, totals={"EUR": 1290})

    async def list_orders(self, request: Any, context: Context) -> Any:
        wanted = min(max(request.page_size, 0), 5) or 3
        orders = [pb.Order(name=f"{request.parent}/orders/{number}") for number in range(wanted)]
        return pb.ListOrdersResponse(orders=orders)

    async def create_order(self, request: Any, context: Context) -> Any:
        request.order.name = f"{request.parent}/orders/17"
        return request.order

    async def cancel_order(self, request: Any, context: Context) -> Any:
        return pb.Order(name=request.name)

    async def watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        for number in range(min(request.count, 3)):
            yield pb.OrderEvent(number=number + 1, state=1)
        if request.name == "broken":
            await context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")
        if request.name == "endless":
            await asyncio.Event().wait()

    async def picture(self, request: Any, context: Context) -> httpbody_pb2.HttpBody:
        data = io.BytesIO()
        Image.new("RGB", (32, 12), "teal").save(data, "PNG")
        return httpbody_pb2.HttpBody(content_type="image/png", data=data.getvalue())

    async def attach(self, request: Any, context: Context) -> Any:
        return pb.Total(count=len(request.file.data))

    async def upload(self, requests: AsyncIterator[Any], context: Context) -> Any:
        return pb.Total(count=sum([len(request.file.data) async for request in requests]))

    async def check(self, request: Any, context: Context) -> Any:
        if not all(re.fullmatch(r"[a-z0-9_.]*", path) for path in request.mask.paths):
            request.ClearField("mask")  # JSON has no form for it.
        return request

    async def count(self, request: Any, context: Context) -> Any:
        return pb.Total(count=request.count)

    async def sum(self, items: AsyncIterator[Any], context: Context) -> Any:
        return pb.Total(count=sum([item.count async for item in items]))

    async def chat(self, items: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for item in items:
            yield pb.Total(count=item.count)


def _handlers() -> dict[str, Any]:
    orders, handlers = Orders(), {}
    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    for method in DESCRIPTOR.methods:
        name = "".join(f"_{each.lower()}" if each.isupper() else each for each in method.name).removeprefix("_")
        handlers[method.name] = makers[method.client_streaming, method.server_streaming](
            getattr(orders, name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
    return handlers


async def serve(connection: Connection | str, prefix: str) -> rpc.Server:
    """Start the service."""
    server = rpc.Server(connection, prefix=prefix)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, _handlers())])
    await server.start()
    return server


class OrdersThread:
    """The service on a thread of its own, for tests that wait for other things."""

    def __init__(self, nats_url: str, prefix: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        up = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run(nats_url, prefix, up)))
        self._thread.start()
        assert up.wait(10)

    async def _run(self, nats_url: str, prefix: str, up: threading.Event) -> None:
        server = await serve(nats_url, prefix)
        up.set()
        await self._stop.wait()
        await server.stop(0)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()
