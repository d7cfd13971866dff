"""What tests of client interceptors share: handlers that tell what they are sent, interceptors made of functions."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import (
    ClientCallDetails,
    ServicerContext,
    StreamStreamClientInterceptor,
    StreamUnaryClientInterceptor,
    UnaryStreamClientInterceptor,
)

from tests.contract.meshes import TIMEOUT, pairs
from tests.protos.probe_pb2 import Answer, Question

METHODS = ["Tell", "Gather", "Talk"]
EVERY = pytest.mark.parametrize("method", METHODS)


def described(context: ServicerContext, text: str) -> Answer:
    sent = ",".join(f"{key}={value}" for key, value in pairs(context.invocation_metadata()))
    return Answer(text=f"{text}[{sent}]", number=round(context.time_remaining() or -1))


async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
    await context.send_initial_metadata((("begin", "1"),))
    context.set_trailing_metadata((("end", "2"),))
    if request.text == "refuse":
        await context.abort(StatusCode.NOT_FOUND, "gone")
    for letter in request.text:
        yield described(context, letter)


async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
    text = "".join([request.text async for request in requests])
    answers = [answer async for answer in tell(Question(text=text), context)]
    return described(context, text) if answers else Answer()


async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
    text = "".join([request.text async for request in requests])
    async for answer in tell(Question(text=text), context):
        yield answer


HANDLERS = {"tell": tell, "gather": gather, "talk": talk}

Function = Callable[[Any, ClientCallDetails, Any], Any]


class OnTell(UnaryStreamClientInterceptor):
    def __init__(self, function: Function) -> None:
        self._function = function

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._function(continuation, client_call_details, request)


class OnGather(StreamUnaryClientInterceptor):
    def __init__(self, function: Function) -> None:
        self._function = function

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._function(continuation, client_call_details, request_iterator)


class OnTalk(StreamStreamClientInterceptor):
    def __init__(self, function: Function) -> None:
        self._function = function

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._function(continuation, client_call_details, request_iterator)


def intercepting(method: str, *functions: Function) -> list[Any]:
    kind = {"Tell": OnTell, "Gather": OnGather, "Talk": OnTalk}[method]
    return [kind(function) for function in functions]


async def passing(continuation: Any, details: ClientCallDetails, request: Any) -> Any:
    return await continuation(details, request)


def begin(stub: Any, method: str, text: str, **options: Any) -> Any:
    options.setdefault("timeout", TIMEOUT)
    if method == "Tell":
        return stub.Tell(Question(text=text), **options)
    return getattr(stub, method)([Question(text=letter) for letter in text], **options)


async def texts(call: Any, method: str) -> list[str]:
    answers = [await call] if method == "Gather" else [answer async for answer in call]
    return [answer.text for answer in answers]


def said(method: str, *letters: str, sent: str = "") -> list[str]:
    """What the handlers answer to these letters."""
    return [f"{letter}[{sent}]" for letter in (["".join(letters)] if method == "Gather" else letters)]
