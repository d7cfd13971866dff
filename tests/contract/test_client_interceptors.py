"""grpc.aio.UnaryUnaryClientInterceptor, as users have written them."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import ClientCallDetails, Metadata, ServicerContext, UnaryUnaryClientInterceptor

from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs
from tests.protos.probe_pb2 import Answer, Question


async def echo(request: Question, context: ServicerContext) -> Answer:
    if request.text == "refuse":
        await context.send_initial_metadata((("begin", "1"),))
        await context.abort(StatusCode.NOT_FOUND, "gone", (("end", "2"),))
    context.set_trailing_metadata((("end", "2"),))
    sent = ",".join(f"{key}={value}" for key, value in pairs(context.invocation_metadata()))
    return Answer(text=f"{request.text}[{sent}]", number=round(context.time_remaining() or -1))


class By(UnaryUnaryClientInterceptor):
    """An interceptor made of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._function(continuation, client_call_details, request)


async def passing(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
    return await continuation(details, request)


async def test_one_that_changes_nothing(mesh: Mesh) -> None:
    await mesh.start(echo)
    call = mesh.stub([By(passing)]).Ask(Question(text="x"), timeout=TIMEOUT)
    assert isinstance(call, grpc.aio.UnaryUnaryCall)
    assert (await call).text == "x[]"
    assert await call.code() is StatusCode.OK
    assert await call.details() == ""
    assert pairs(await call.trailing_metadata()) == [("end", "2")]
    assert call.done()
    assert not call.cancelled()
    assert not call.cancel()


async def test_what_the_details_are(mesh: Mesh) -> None:
    seen: list[ClientCallDetails] = []

    async def look(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
        seen.append(details)
        return await continuation(details, request)

    await mesh.start(echo)
    await mesh.stub([By(look)]).Ask(
        Question(), timeout=TIMEOUT, metadata=Metadata(("key", "value")), wait_for_ready=True
    )
    (details,) = seen
    assert isinstance(details, ClientCallDetails)
    assert details.method == b"/probe.v1.Probe/Ask"
    assert details.timeout == TIMEOUT
    assert isinstance(details.metadata, Metadata)
    assert list(details.metadata) == [("key", "value")]
    assert details.credentials is None
    assert details.wait_for_ready is True


@pytest.mark.parametrize("given", [None, (("key", "value"),), [("key", "value")]], ids=["none", "tuple", "list"])
async def test_metadata_is_always_of_the_class(mesh: Mesh, given: Any) -> None:
    """So that interceptors may add to it."""

    async def add(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
        details.metadata.add("added", "here")
        return await continuation(details, request)

    await mesh.start(echo)
    answer = await mesh.stub([By(add)]).Ask(Question(), timeout=TIMEOUT, metadata=given)
    assert answer.text == ("[added=here]" if given is None else "[key=value,added=here]")


async def test_one_may_change_metadata_timeout_and_request(mesh: Mesh) -> None:
    async def change(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
        changed = ClientCallDetails(
            details.method, 77.0, Metadata(("new", "1")), details.credentials, details.wait_for_ready
        )
        return await continuation(changed, Question(text=request.text.upper()))

    await mesh.start(echo)
    answer = await mesh.stub([By(change)]).Ask(Question(text="x"), timeout=TIMEOUT, metadata=(("old", "1"),))
    assert answer == Answer(text="X[new=1]", number=77)


async def test_one_may_replace_fields(mesh: Mesh) -> None:
    async def change(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
        return await continuation(details._replace(metadata=(("a", "tuple"),), timeout=55), request)

    await mesh.start(echo)
    assert await mesh.stub([By(change)]).Ask(Question()) == Answer(text="[a=tuple]", number=55)


async def test_one_may_call_another_method(mesh: Mesh) -> None:
    async def other(request: Question, context: ServicerContext) -> Answer:
        return Answer(text="other")

    async def redirect(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
        return await continuation(details._replace(method=b"/probe.v1.Probe/Other"), request)

    await mesh.start(echo, other)
    assert (await mesh.stub([By(redirect)]).Ask(Question(), timeout=TIMEOUT)).text == "other"


async def test_several_run_in_the_order_they_are_given(mesh: Mesh) -> None:
    log: list[str] = []

    def named(name: str) -> By:
        async def function(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
            log.append(f"{name} before")
            details.metadata.add("by", name)
            call = await continuation(details, request)
            await call
            log.append(f"{name} after")
            return call

        return By(function)

    await mesh.start(echo)
    answer = await mesh.stub([named("outer"), named("inner")]).Ask(Question(), timeout=TIMEOUT)
    assert answer.text == "[by=outer,by=inner]"
    assert log == ["outer before", "inner before", "inner after", "outer after"]


async def test_one_may_answer_itself(mesh: Mesh) -> None:
    async def cached(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
        return Answer(text="cached")

    call = mesh.stub([By(passing), By(cached)]).Ask(Question(), timeout=TIMEOUT)
    assert (await call).text == "cached"
    assert await call.code() is StatusCode.OK
    assert await call.details() == ""
    assert call.done()
    assert not call.cancelled()
    assert not call.cancel()


async def test_one_may_change_the_response(mesh: Mesh) -> None:
    async def change(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
        answer = await (await continuation(details, request))
        return Answer(text=answer.text + "!")

    await mesh.start(echo)
    assert (await mesh.stub([By(change)]).Ask(Question(text="x"), timeout=TIMEOUT)).text == "x[]!"


async def test_one_may_try_again(mesh: Mesh) -> None:
    tries = 0

    async def ask(request: Question, context: ServicerContext) -> Answer:
        nonlocal tries
        tries += 1
        if tries < 3:
            await context.abort(StatusCode.ABORTED, "try again")
        return Answer(number=tries)

    async def retry(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
        for _ in range(5):
            call = await continuation(details, request)
            if await call.code() is not StatusCode.ABORTED:
                break
        return call

    await mesh.start(ask)
    assert (await mesh.stub([By(retry)]).Ask(Question(), timeout=TIMEOUT)).number == 3


async def test_an_error_passes_through(mesh: Mesh) -> None:
    await mesh.start(echo)
    call = mesh.stub([By(passing), By(passing)]).Ask(Question(text="refuse"), timeout=TIMEOUT)
    error = await failure(call)
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "gone")
    assert await call.code() is StatusCode.NOT_FOUND
    assert await call.details() == "gone"
    assert pairs(await call.initial_metadata()) == pairs(error.initial_metadata()) == [("begin", "1")]
    assert pairs(await call.trailing_metadata()) == pairs(error.trailing_metadata()) == [("end", "2")]


async def test_an_error_raised_inside_an_interceptor(mesh: Mesh) -> None:
    async def awaiting(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
        return await (await continuation(details, request))

    await mesh.start(echo)
    call = mesh.stub([By(awaiting)]).Ask(Question(text="refuse"), timeout=TIMEOUT)
    assert (await failure(call)).code() is StatusCode.NOT_FOUND
    assert call.done()
    assert not call.cancelled()
    assert await call.code() is StatusCode.NOT_FOUND
    assert await call.details() == "gone"
    assert pairs(await call.trailing_metadata()) == [("end", "2")]


async def test_another_exception_of_an_interceptor_reaches_the_caller(mesh: Mesh) -> None:
    async def broken(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
        raise ValueError("in the interceptor")

    call = mesh.stub([By(broken)]).Ask(Question(), timeout=TIMEOUT)
    with pytest.raises(ValueError, match="in the interceptor"):
        await call
    assert call.done()
    assert not call.cancel()


async def test_done_callbacks_get_the_outer_call(mesh: Mesh) -> None:
    called: asyncio.Queue[Any] = asyncio.Queue()
    await mesh.start(echo)
    call = mesh.stub([By(passing)]).Ask(Question(), timeout=TIMEOUT)
    call.add_done_callback(called.put_nowait)
    await call
    assert await asyncio.wait_for(called.get(), TIMEOUT) is call
    call.add_done_callback(called.put_nowait)
    assert await asyncio.wait_for(called.get(), TIMEOUT) is call


async def test_cancel_while_the_call_is_under_way(mesh: Mesh) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def ask(request: Question, context: ServicerContext) -> Answer:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    await mesh.start(ask)
    call = mesh.stub([By(passing)]).Ask(Question())
    await asyncio.wait_for(started.wait(), TIMEOUT)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()
    assert call.done()
    assert await call.code() is StatusCode.CANCELLED
    await asyncio.wait_for(cancelled.wait(), TIMEOUT)


async def test_cancel_while_an_interceptor_runs(mesh: Mesh) -> None:
    running = asyncio.Event()

    async def slow(continuation: Any, details: ClientCallDetails, request: Question) -> Any:
        running.set()
        await asyncio.sleep(60)

    call = mesh.stub([By(slow)]).Ask(Question())
    await asyncio.wait_for(running.wait(), TIMEOUT)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()
    assert await call.code() is StatusCode.CANCELLED
    assert await call.details() == "Locally cancelled by application!"


async def test_what_is_no_interceptor_is_refused(mesh: Mesh) -> None:
    with pytest.raises((ValueError, TypeError)):
        mesh.channel([object()])
