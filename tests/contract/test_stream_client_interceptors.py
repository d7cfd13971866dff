"""Client interceptors of the three kinds with streams, as users have written them."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import ClientCallDetails, Metadata

from tests.contract.interceptors import EVERY, HANDLERS, METHODS, Function, begin, intercepting, passing, said, texts
from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs
from tests.protos.probe_pb2 import Answer, Question


@EVERY
async def test_one_that_changes_nothing(mesh: Mesh, method: str) -> None:
    kinds = {"Tell": grpc.aio.UnaryStreamCall, "Gather": grpc.aio.StreamUnaryCall, "Talk": grpc.aio.StreamStreamCall}
    await mesh.start(**HANDLERS)
    call = begin(mesh.stub(intercepting(method, passing)), method, "ab")
    assert isinstance(call, kinds[method])
    assert await texts(call, method) == said(method, "a", "b")
    assert await call.code() is StatusCode.OK
    assert await call.details() == ""
    assert pairs(await call.initial_metadata()) == [("begin", "1")]
    assert pairs(await call.trailing_metadata()) == [("end", "2")]
    assert call.done()
    assert not call.cancelled()
    assert not call.cancel()


@EVERY
async def test_each_is_for_its_kind(mesh: Mesh, method: str) -> None:
    async def never(continuation: Any, details: ClientCallDetails, request: Any) -> Any:
        raise AssertionError

    others = [intercepting(other, never)[0] for other in METHODS if other != method]
    await mesh.start(**HANDLERS)
    assert await texts(begin(mesh.stub(others), method, "a"), method) == said(method, "a")


@EVERY
async def test_what_the_details_are(mesh: Mesh, method: str) -> None:
    seen: list[ClientCallDetails] = []

    async def look(continuation: Any, details: ClientCallDetails, request: Any) -> Any:
        seen.append(details)
        return await continuation(details, request)

    await mesh.start(**HANDLERS)
    stub = mesh.stub(intercepting(method, look))
    await texts(begin(stub, method, "a", metadata=(("key", "value"),), wait_for_ready=True), method)
    (details,) = seen
    assert isinstance(details, ClientCallDetails)
    assert details.method == f"/probe.v1.Probe/{method}".encode()
    assert details.timeout == TIMEOUT
    assert isinstance(details.metadata, Metadata)
    assert list(details.metadata) == [("key", "value")]
    assert details.credentials is None
    assert details.wait_for_ready is True


@EVERY
async def test_one_may_change_metadata_and_timeout(mesh: Mesh, method: str) -> None:
    async def change(continuation: Any, details: ClientCallDetails, request: Any) -> Any:
        assert details.metadata is not None
        details.metadata.add("added", "here")
        return await continuation(details._replace(timeout=77.0), request)

    await mesh.start(**HANDLERS)
    call = begin(mesh.stub(intercepting(method, change)), method, "a", metadata=(("old", "1"),))
    answer = (await call) if method == "Gather" else await call.read()
    assert answer == Answer(text="a[old=1,added=here]", number=77)


@EVERY
async def test_one_may_change_the_requests(mesh: Mesh, method: str) -> None:
    async def change(continuation: Any, details: ClientCallDetails, request: Any) -> Any:
        if method == "Tell":
            return await continuation(details, Question(text=request.text.upper()))

        async def loud() -> AsyncIterator[Question]:
            if isinstance(request, AsyncIterable):
                async for one in request:
                    yield Question(text=one.text.upper())
            else:
                for one in request:
                    yield Question(text=one.text.upper())

        return await continuation(details, loud())

    await mesh.start(**HANDLERS)
    stub = mesh.stub(intercepting(method, change))
    assert await texts(begin(stub, method, "ab"), method) == said(method, "A", "B")
    if method != "Tell":
        call = getattr(stub, method)(timeout=TIMEOUT)
        for letter in "ab":
            await call.write(Question(text=letter))
        await call.done_writing()
        assert await texts(call, method) == said(method, "A", "B")


@EVERY
async def test_several_run_in_the_order_they_are_given(mesh: Mesh, method: str) -> None:
    log: list[str] = []

    def named(name: str) -> Function:
        async def function(continuation: Any, details: ClientCallDetails, request: Any) -> Any:
            log.append(f"{name} before")
            assert details.metadata is not None
            details.metadata.add("by", name)
            call = await continuation(details, request)
            log.append(f"{name} after")
            return call

        return function

    await mesh.start(**HANDLERS)
    call = begin(mesh.stub(intercepting(method, named("outer"), named("inner"))), method, "a")
    assert await texts(call, method) == said(method, "a", sent="by=outer,by=inner")
    assert log == ["outer before", "inner before", "inner after", "outer after"]


@EVERY
async def test_an_error_passes_through(mesh: Mesh, method: str) -> None:
    await mesh.start(**HANDLERS)
    call = begin(mesh.stub(intercepting(method, passing, passing)), method, "refuse")
    error = await failure(texts(call, method))
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "gone")
    assert await call.code() is StatusCode.NOT_FOUND
    assert await call.details() == "gone"
    assert pairs(await call.initial_metadata()) == pairs(error.initial_metadata()) == [("begin", "1")]
    assert pairs(await call.trailing_metadata()) == pairs(error.trailing_metadata()) == [("end", "2")]
    assert call.done()
    assert not call.cancelled()


@EVERY
async def test_another_exception_of_an_interceptor_reaches_the_caller(mesh: Mesh, method: str) -> None:
    async def broken(continuation: Any, details: ClientCallDetails, request: Any) -> Any:
        raise ValueError("in the interceptor")

    call = begin(mesh.stub(intercepting(method, broken)), method, "a")
    with pytest.raises(ValueError, match="in the interceptor"):
        await texts(call, method)
    assert call.done()


@EVERY
async def test_one_may_call_another_method(mesh: Mesh, method: str) -> None:
    handlers = {"Tell": grpc.unary_stream_rpc_method_handler, "Gather": grpc.stream_unary_rpc_method_handler}
    make = handlers.get(method, grpc.stream_stream_rpc_method_handler)
    server = mesh.server()
    handler = make(HANDLERS[method.lower()], Question.FromString, Answer.SerializeToString)
    server.add_registered_method_handlers("another.v1.Service", {"Do": handler})
    await server.start()

    async def redirect(continuation: Any, details: ClientCallDetails, request: Any) -> Any:
        return await continuation(details._replace(method=b"/another.v1.Service/Do"), request)

    assert await texts(begin(mesh.stub(intercepting(method, redirect)), method, "a"), method) == said(method, "a")
