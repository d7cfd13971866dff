"""Server interceptors that wrap the handlers of calls with streams, as users have written them."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import EOF, ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs
from tests.protos.probe_pb2 import Answer, Question

EVERY = pytest.mark.parametrize("method", ["Tell", "Gather", "Talk"])

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]]


async def tell(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
    for letter in request.text:
        yield Answer(text=letter)


async def gather(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
    return Answer(text="".join([request.text async for request in requests]))


async def talk(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
    async for request in requests:
        yield Answer(text=request.text)


HANDLERS = {"tell": tell, "gather": gather, "talk": talk}


def begin(stub: Any, method: str, text: str, **options: Any) -> Any:
    if method == "Tell":
        return stub.Tell(Question(text=text), timeout=TIMEOUT, **options)
    return getattr(stub, method)([Question(text=letter) for letter in text], timeout=TIMEOUT, **options)


def begin_silently(stub: Any, method: str) -> Any:
    """Begins a call and sends nothing: a client of grpc.aio that is still writing may miss why its call failed."""
    return stub.Tell(Question(), timeout=TIMEOUT) if method == "Tell" else getattr(stub, method)(timeout=TIMEOUT)


async def texts(call: Any, method: str) -> list[str]:
    answers = [await call] if method == "Gather" else [answer async for answer in call]
    return [answer.text for answer in answers]


def replaced(handler: grpc.RpcMethodHandler, behavior: Any) -> grpc.RpcMethodHandler:
    """The handler with another behavior, made with grpc's own functions."""
    if handler.request_streaming and handler.response_streaming:
        make = grpc.stream_stream_rpc_method_handler
    elif handler.request_streaming:
        make = grpc.stream_unary_rpc_method_handler
    else:
        make = grpc.unary_stream_rpc_method_handler
    return make(behavior, handler.request_deserializer, handler.response_serializer)


class Wrapping(grpc.aio.ServerInterceptor):
    """Puts a name around requests and responses of whatever kind the handler is."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def _requests(self, requests: AsyncIterator[Question]) -> AsyncIterator[Question]:
        async for request in requests:
            yield Question(text=f"{self.name}<{request.text}")

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)

        async def stream_unary(requests: AsyncIterator[Question], context: ServicerContext) -> Answer:
            answer = await handler.stream_unary(self._requests(requests), context)
            return Answer(text=f"{answer.text}>{self.name}")

        async def stream_stream(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
            async for answer in handler.stream_stream(self._requests(requests), context):
                yield Answer(text=f"{answer.text}>{self.name}")

        async def unary_stream(request: Question, context: ServicerContext) -> AsyncIterator[Answer]:
            async for answer in handler.unary_stream(request, context):
                yield Answer(text=f"{answer.text}>{self.name}")

        if handler.stream_unary:
            return replaced(handler, stream_unary)
        return replaced(handler, stream_stream if handler.stream_stream else unary_stream)


async def test_they_wrap_in_the_order_they_are_given(mesh: Mesh) -> None:
    await mesh.start(**HANDLERS, interceptors=[Wrapping("out"), Wrapping("in")])
    stub = mesh.stub()
    assert await texts(begin(stub, "Tell", "ab"), "Tell") == ["a>in>out", "b>in>out"]
    assert await texts(begin(stub, "Gather", "ab"), "Gather") == ["in<out<ain<out<b>in>out"]
    assert await texts(begin(stub, "Talk", "ab"), "Talk") == ["in<out<a>in>out", "in<out<b>in>out"]


@EVERY
async def test_the_details_name_the_method_and_hold_the_metadata(mesh: Mesh, method: str) -> None:
    seen: list[Any] = []

    class Looking(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            seen.append((details.method, pairs(details.invocation_metadata)))
            return await continuation(details)

    await mesh.start(**HANDLERS, interceptors=[Looking()])
    await texts(begin(mesh.stub(), method, "a", metadata=(("key", "value"), ("raw-bin", b"\xff"))), method)
    assert seen == [(f"/probe.v1.Probe/{method}", [("key", "value"), ("raw-bin", b"\xff")])]


class Rejecting(grpc.aio.ServerInterceptor):
    """Authentication: another handler of the same kind is returned, which aborts."""

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if ("authorization", "Bearer good") in [tuple(pair) for pair in details.invocation_metadata]:
            return handler

        async def reject(request: Any, context: ServicerContext) -> Answer:
            if handler.request_streaming:
                while await context.read() is not EOF:
                    pass
            await context.abort(StatusCode.UNAUTHENTICATED, "who are you?", (("realm", "books"),))

        async def reject_stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
            yield await reject(request, context)

        return replaced(handler, reject_stream if handler.response_streaming else reject)


@EVERY
async def test_one_may_reject(mesh: Mesh, method: str) -> None:
    await mesh.start(**HANDLERS, interceptors=[Rejecting()])
    stub = mesh.stub()
    error = await failure(texts(begin(stub, method, "a"), method))
    assert (error.code(), error.details()) == (StatusCode.UNAUTHENTICATED, "who are you?")
    assert pairs(error.trailing_metadata()) == [("realm", "books")]
    assert await texts(begin(stub, method, "a", metadata=(("authorization", "Bearer good"),)), method) == ["a"]


@pytest.mark.parametrize("method", ["Tell", "Talk"])
async def test_one_may_reject_with_a_handler_of_one_response(mesh: Mesh, method: str) -> None:
    class Refusing(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            async def refuse(request: Any, context: ServicerContext) -> Answer:
                await context.abort(StatusCode.PERMISSION_DENIED, "not you")

            if method == "Tell":
                return grpc.unary_unary_rpc_method_handler(refuse)
            return grpc.stream_unary_rpc_method_handler(refuse)

    await mesh.start(**HANDLERS, interceptors=[Refusing()])
    call = begin(mesh.stub(), method, "a") if method == "Tell" else mesh.stub().Talk(timeout=TIMEOUT)
    error = await failure(call.read())
    assert (error.code(), error.details()) == (StatusCode.PERMISSION_DENIED, "not you")


@EVERY
async def test_no_handler_is_unimplemented(mesh: Mesh, method: str) -> None:
    class Hiding(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            return None

    await mesh.start(**HANDLERS, interceptors=[Hiding()])
    call = begin_silently(mesh.stub(), method)
    error = await failure(call if method == "Gather" else call.read())
    assert error.code() is StatusCode.UNIMPLEMENTED


@EVERY
async def test_an_exception_of_an_interceptor(mesh: Mesh, method: str) -> None:
    class Broken(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            raise ValueError("secret")

    await mesh.start(**HANDLERS, interceptors=[Broken()])
    call = begin_silently(mesh.stub(), method)
    error = await failure(call if method == "Gather" else call.read())
    assert error.code() is StatusCode.UNKNOWN
    assert ("secret" in error.details()) == mesh.shows_exceptions


@EVERY
async def test_context_variables_reach_the_handler(mesh: Mesh, method: str) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    class Setting(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            user.set(dict(pairs(details.invocation_metadata))["user"])
            return await continuation(details)

    async def stream(request: Any, context: ServicerContext) -> AsyncIterator[Answer]:
        yield Answer(text=user.get())
        await asyncio.sleep(0)
        yield Answer(text=user.get())

    async def gathering(requests: Any, context: ServicerContext) -> Answer:
        return Answer(text=user.get())

    await mesh.start(tell=stream, gather=gathering, talk=stream, interceptors=[Setting()])
    stub = mesh.stub()
    names = [f"user-{number}" for number in range(5)]
    calls = [texts(begin(stub, method, "", metadata=(("user", name),)), method) for name in names]
    expected = [[name] if method == "Gather" else [name, name] for name in names]
    assert await asyncio.gather(*calls) == expected
    assert user.get() == "nobody"


async def test_one_may_watch_how_streams_end(mesh: Mesh) -> None:
    seen: asyncio.Queue[Any] = asyncio.Queue()

    class Measuring(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            handler = await continuation(details)

            async def method(requests: Any, context: ServicerContext) -> AsyncIterator[Answer]:
                number, ended = 0, "cancelled"
                try:
                    async for answer in handler.stream_stream(requests, context):
                        yield answer
                        number += 1
                    ended = "well"
                except grpc.aio.AbortError:
                    ended = "aborted"
                    raise
                finally:
                    seen.put_nowait((number, ended))

            return replaced(handler, method)

    async def counting(requests: AsyncIterator[Question], context: ServicerContext) -> AsyncIterator[Answer]:
        async for request in requests:
            if request.text == "abort":
                await context.abort(StatusCode.ABORTED, "as you wish")
            yield Answer()

    await mesh.start(talk=counting, interceptors=[Measuring()])
    stub = mesh.stub()
    for how in ("well", "aborted", "cancelled"):
        call = stub.Talk(timeout=TIMEOUT)
        await call.write(Question())
        await call.read()
        if how == "well":
            await call.done_writing()
        elif how == "aborted":
            await call.write(Question(text="abort"))
        else:
            call.cancel()
        number, ended = await asyncio.wait_for(seen.get(), TIMEOUT)
        assert number == 1
        assert ended == how or (how, ended) == ("cancelled", "well")  # grpc.aio may end the requests before it cancels


async def test_one_may_be_built_on_sync_handlers(mesh: Mesh, threads: ThreadPoolExecutor) -> None:
    class Shouting(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            handler = await continuation(details)

            def method(requests: Iterator[Question], context: grpc.ServicerContext) -> Iterator[Answer]:
                for answer in handler.stream_stream(requests, context):
                    yield Answer(text=answer.text + "!")

            return replaced(handler, method)

    def talking(requests: Iterator[Question], context: grpc.ServicerContext) -> Iterator[Answer]:
        for request in requests:
            yield Answer(text=request.text)

    await mesh.start(talk=talking, interceptors=[Shouting()], migration_thread_pool=threads)
    assert await texts(begin(mesh.stub(), "Talk", "ab"), "Talk") == ["a!", "b!"]
