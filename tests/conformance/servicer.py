"""ConformanceService as an ordinary servicer of grpc.aio: it does what the comments in its service.proto say.

The protos come with the Go module of connectconformance and are compiled where ``CONFORMANCE_CODE`` says.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import connectrpc
import grpc
from google.protobuf.any_pb2 import Any as GoogleAny
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

# The suite's package has the name of the one that the gateway uses.
connectrpc.__path__.append(str(Path(os.environ["CONFORMANCE_CODE"]) / "connectrpc"))

pb: Any = importlib.import_module("connectrpc.conformance.v1.service_pb2")
service_pb2_grpc: Any = importlib.import_module("connectrpc.conformance.v1.service_pb2_grpc")

Context = grpc.aio.ServicerContext[Any, Any]


class ConformanceServicer(service_pb2_grpc.ConformanceServiceServicer):  # type: ignore[misc]
    async def Unary(self, request: Any, context: Context) -> Any:
        return pb.UnaryResponse(payload=await _one(request.response_definition, [request], context))

    async def IdempotentUnary(self, request: Any, context: Context) -> Any:
        return pb.IdempotentUnaryResponse(payload=await _one(request.response_definition, [request], context))

    async def ClientStream(self, requests: AsyncIterator[Any], context: Context) -> Any:
        received = [request async for request in requests]
        definition = received[0].response_definition if received else pb.UnaryResponseDefinition()
        return pb.ClientStreamResponse(payload=await _one(definition, received, context))

    async def ServerStream(self, request: Any, context: Context) -> AsyncIterator[Any]:
        definition = request.response_definition
        await _begin(definition, context)
        info = _request_info([request], context)
        for number, data in enumerate(definition.response_data):
            await asyncio.sleep(definition.response_delay_ms / 1000)
            payload = pb.ConformancePayload(data=data, request_info=None if number else info)
            yield pb.ServerStreamResponse(payload=payload)
        await _end(definition, context, info)

    async def BidiStream(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        definition = pb.StreamResponseDefinition()
        received: list[Any] = []
        sent = 0
        full_duplex = False
        async for request in requests:
            received.append(request)
            if len(received) == 1 and not sent:
                definition, full_duplex = request.response_definition, request.full_duplex
                await _begin(definition, context)
            if full_duplex:
                if sent >= len(definition.response_data):
                    break
                await asyncio.sleep(definition.response_delay_ms / 1000)
                info = _request_info(received, context) if not sent else _only(received)
                yield _bidi(definition.response_data[sent], info)
                sent += 1
                received = []
        for data in definition.response_data[sent:]:
            await asyncio.sleep(definition.response_delay_ms / 1000)
            yield _bidi(data, None if sent else _request_info(received, context))
            sent += 1
        await _end(definition, context, None if sent else _request_info(received, context))


def _bidi(data: bytes, info: Any) -> Any:
    return pb.BidiStreamResponse(payload=pb.ConformancePayload(data=data, request_info=info))


async def _one(definition: Any, requests: list[Any], context: Context) -> Any:
    """Answer with one payload, or with the error."""
    await asyncio.sleep(definition.response_delay_ms / 1000)
    await context.send_initial_metadata(_pairs(definition.response_headers))
    info = _request_info(requests, context)
    if definition.HasField("error"):
        await _fail(definition, context, info)
    context.set_trailing_metadata(_pairs(definition.response_trailers))
    return pb.ConformancePayload(data=definition.response_data, request_info=info)


async def _begin(definition: Any, context: Context) -> None:
    await context.send_initial_metadata(_pairs(definition.response_headers))


async def _end(definition: Any, context: Context, info: Any) -> None:
    if definition.HasField("error"):
        await _fail(definition, context, None if definition.response_data else info)
    context.set_trailing_metadata(_pairs(definition.response_trailers))


async def _fail(definition: Any, context: Context, info: Any) -> None:
    error = definition.error
    status = Status(code=error.code, message=error.message, details=error.details)
    if info is not None:
        status.details.append(_packed(info))
    details = rpc_status.to_status(status)
    await context.abort(
        details.code, details.details, (*details.trailing_metadata, *_pairs(definition.response_trailers))
    )


def _request_info(requests: list[Any], context: Context) -> Any:
    headers: dict[str, list[str]] = {}
    for name, value in context.invocation_metadata() or ():
        headers.setdefault(name, []).append(value if isinstance(value, str) else value.decode("latin-1"))
    remaining = context.time_remaining()
    return pb.ConformancePayload.RequestInfo(
        request_headers=[pb.Header(name=name, value=values) for name, values in headers.items()],
        timeout_ms=None if remaining is None else round(remaining * 1000),
        requests=[_packed(request) for request in requests],
    )


def _only(requests: list[Any]) -> Any:
    return pb.ConformancePayload.RequestInfo(requests=[_packed(request) for request in requests])


def _packed(message: Any) -> GoogleAny:
    packed = GoogleAny()
    packed.Pack(message)
    return packed


def _pairs(headers: Iterable[Any]) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(
        (header.name.lower(), value.encode() if header.name.lower().endswith("-bin") else value)
        for header in headers
        for value in header.value
    )


def add_to_server(server: grpc.aio.Server) -> None:
    """Register the service."""
    service_pb2_grpc.add_ConformanceServiceServicer_to_server(ConformanceServicer(), server)
