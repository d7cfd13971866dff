"""grpc.aio.ServerInterceptor, as users have written them."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs, status
from tests.protos.probe_pb2 import Answer, Question

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]]


async def echo(request: Question, context: ServicerContext) -> Answer:
    return Answer(text=request.text)


def replaced(handler: grpc.RpcMethodHandler, method: Callable[..., Any]) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(method, handler.request_deserializer, handler.response_serializer)


class Wrapping(grpc.aio.ServerInterceptor):
    """Runs code before and after the handler."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        self.log.append(f"{self.name} chooses")
        handler = await continuation(details)

        async def method(request: Question, context: ServicerContext) -> Answer:
            self.log.append(f"{self.name} before")
            answer = await handler.unary_unary(request, context)
            self.log.append(f"{self.name} after")
            return Answer(text=f"{self.name}({answer.text})")

        return replaced(handler, method)


async def test_they_wrap_in_the_order_they_are_given(mesh: Mesh) -> None:
    log: list[str] = []
    stub = await mesh.serve(echo, interceptors=[Wrapping("outer", log), Wrapping("inner", log)])
    assert (await stub.Ask(Question(text="x"), timeout=TIMEOUT)).text == "outer(inner(x))"
    assert log == [
        "outer chooses",
        "inner chooses",
        "outer before",
        "inner before",
        "inner after",
        "outer after",
    ]


async def test_the_details_name_the_method_and_hold_the_metadata(mesh: Mesh) -> None:
    seen: list[Any] = []

    class Looking(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            seen.append((details.method, pairs(details.invocation_metadata)))
            return await continuation(details)

    stub = await mesh.serve(echo, interceptors=[Looking()])
    await stub.Ask(Question(), timeout=TIMEOUT, metadata=(("key", "value"), ("raw-bin", b"\xff")))
    assert seen == [("/probe.v1.Probe/Ask", [("key", "value"), ("raw-bin", b"\xff")])]


class Rejecting(grpc.aio.ServerInterceptor):
    """Authentication as in grpc's own examples: another handler is returned, which aborts."""

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        if ("authorization", "Bearer good") in [tuple(pair) for pair in details.invocation_metadata]:
            return await continuation(details)

        async def deny(request: bytes, context: ServicerContext) -> Any:
            await context.abort(StatusCode.UNAUTHENTICATED, "who are you?", (("hint", "send a token"),))

        return grpc.unary_unary_rpc_method_handler(deny)


async def test_one_may_reject(mesh: Mesh) -> None:
    stub = await mesh.serve(echo, interceptors=[Rejecting()])
    error = await failure(stub.Ask(Question(), timeout=TIMEOUT))
    assert (error.code(), error.details()) == (StatusCode.UNAUTHENTICATED, "who are you?")
    assert pairs(error.trailing_metadata()) == [("hint", "send a token")]
    answer = await stub.Ask(Question(text="in"), timeout=TIMEOUT, metadata=(("authorization", "Bearer good"),))
    assert answer.text == "in"


async def test_one_that_chooses_none(mesh: Mesh) -> None:
    class Nothing(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            return None

    stub = await mesh.serve(echo, interceptors=[Nothing()])
    assert (await status(stub.Ask(Question(), timeout=TIMEOUT)))[0] is StatusCode.UNIMPLEMENTED


async def test_the_continuation_gives_none_for_a_method_that_is_not_there(mesh: Mesh) -> None:
    seen: list[Any] = []

    class Looking(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            seen.append(await continuation(details))
            return seen[-1]

    await mesh.start(echo, interceptors=[Looking()])
    error = await failure(mesh.channel().unary_unary("/probe.v1.Probe/Nope")(b"", timeout=TIMEOUT))
    assert error.code() is StatusCode.UNIMPLEMENTED
    assert seen == [None]


async def test_one_that_raises(mesh: Mesh) -> None:
    class Broken(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            raise ValueError("secret")

    stub = await mesh.serve(echo, interceptors=[Broken()])
    error = await failure(stub.Ask(Question(), timeout=TIMEOUT))
    assert error.code() is StatusCode.UNKNOWN
    assert ("secret" in error.details()) == mesh.shows_exceptions


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_context_variables_reach_the_handler(mesh: Mesh) -> None:
    class Setting(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            variable.set(dict(details.invocation_metadata)["user"])
            return await continuation(details)

    async def ask(request: Question, context: ServicerContext) -> Answer:
        await asyncio.sleep(0.01)
        return Answer(text=variable.get())

    stub = await mesh.serve(ask, interceptors=[Setting()])
    calls = [stub.Ask(Question(), timeout=TIMEOUT, metadata=(("user", str(n)),)) for n in range(10)]
    assert [answer.text for answer in await asyncio.gather(*calls)] == [str(n) for n in range(10)]
    assert variable.get() == "unset"


async def test_one_may_translate_exceptions(mesh: Mesh) -> None:
    class Translating(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            handler = await continuation(details)

            async def method(request: Question, context: ServicerContext) -> Answer:
                try:
                    return await handler.unary_unary(request, context)
                except KeyError as error:
                    await context.abort(StatusCode.NOT_FOUND, f"no {error.args[0]}")

            return replaced(handler, method)

    async def ask(request: Question, context: ServicerContext) -> Answer:
        raise KeyError("book")

    stub = await mesh.serve(ask, interceptors=[Translating()])
    assert await status(stub.Ask(Question(), timeout=TIMEOUT)) == (StatusCode.NOT_FOUND, "no book")


async def test_one_sees_what_the_handler_ends_with(mesh: Mesh) -> None:
    seen: asyncio.Queue[Any] = asyncio.Queue()

    class Measuring(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            handler = await continuation(details)

            async def method(request: Question, context: ServicerContext) -> Answer:
                try:
                    return await handler.unary_unary(request, context)
                except grpc.aio.AbortError:
                    seen.put_nowait(("aborted", context.code(), context.details()))
                    raise

            return replaced(handler, method)

    async def ask(request: Question, context: ServicerContext) -> Answer:
        await context.abort(StatusCode.NOT_FOUND, "gone")

    stub = await mesh.serve(ask, interceptors=[Measuring()])
    assert await status(stub.Ask(Question(), timeout=TIMEOUT)) == (StatusCode.NOT_FOUND, "gone")
    assert await asyncio.wait_for(seen.get(), TIMEOUT) == ("aborted", StatusCode.NOT_FOUND, "gone")


async def test_one_may_be_built_on_a_sync_handler(mesh: Mesh) -> None:
    class Wrapping(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
            handler = await continuation(details)

            def method(request: Question, context: grpc.ServicerContext) -> Answer:
                return Answer(text=handler.unary_unary(request, context).text + "!")

            return replaced(handler, method)

    def ask(request: Question, context: grpc.ServicerContext) -> Answer:
        return Answer(text="sync")

    stub = await mesh.serve(ask, interceptors=[Wrapping()])
    assert (await stub.Ask(Question(), timeout=TIMEOUT)).text == "sync!"


async def test_a_cancel_passes_through(mesh: Mesh) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def ask(request: Question, context: ServicerContext) -> Answer:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    call = (await mesh.serve(ask, interceptors=[Wrapping("x", [])])).Ask(Question())
    await asyncio.wait_for(started.wait(), TIMEOUT)
    call.cancel()
    await asyncio.wait_for(cancelled.wait(), TIMEOUT)


async def test_what_is_no_interceptor_is_refused(mesh: Mesh) -> None:
    with pytest.raises((ValueError, TypeError)):
        mesh.server(interceptors=[object()])
