"""Calls that fail: how a handler says so, and what the caller sees."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure, pairs, status
from tests.protos.probe_pb2 import Answer, Question


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK], ids=lambda code: code.name)
async def test_abort_with_every_code(mesh: Mesh, code: StatusCode) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        await context.abort(code, f"because {request.text}")

    stub = await mesh.serve(ask)
    assert await status(stub.Ask(Question(text="so"), timeout=TIMEOUT)) == (code, "because so")


@pytest.mark.parametrize(
    "details", ["", "100 %", "Þórbergur 🧊", "two\r\nlines", "tab\tnul\x00", "%41 %", " spaces ", "x" * 4000]
)
async def test_details_arrive_as_they_are(mesh: Mesh, details: str) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        await context.abort(StatusCode.NOT_FOUND, details)

    assert await status((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)) == (StatusCode.NOT_FOUND, details)


async def test_abort_without_details(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        await context.abort(StatusCode.ABORTED)

    assert await status((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)) == (StatusCode.ABORTED, "")


async def test_abort_counts_even_if_its_exception_is_swallowed(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        with suppress(Exception):
            await context.abort(StatusCode.NOT_FOUND, "gone")
        return Answer(text="all is well")

    assert await status((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)) == (StatusCode.NOT_FOUND, "gone")


async def test_the_first_abort_counts(mesh: Mesh) -> None:
    raised: asyncio.Queue[Exception] = asyncio.Queue()

    async def ask(request: Question, context: ServicerContext) -> Answer:
        try:
            await context.abort(StatusCode.NOT_FOUND, "first")
        except grpc.aio.AbortError as error:
            raised.put_nowait(error)
            try:
                await context.abort(StatusCode.INTERNAL, "second")
            except grpc.aio.UsageError as usage:
                raised.put_nowait(usage)
            raise

    assert await status((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)) == (StatusCode.NOT_FOUND, "first")
    assert isinstance(await asyncio.wait_for(raised.get(), TIMEOUT), grpc.aio.AbortError)
    assert "already called" in str(await asyncio.wait_for(raised.get(), TIMEOUT))


async def test_an_exception_after_abort_changes_nothing(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        try:
            await context.abort(StatusCode.NOT_FOUND, "gone")
        finally:
            raise ValueError("cleaning up failed")

    assert await status((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)) == (StatusCode.NOT_FOUND, "gone")


async def test_abort_keeps_details_and_metadata_that_were_set(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        context.set_code(StatusCode.INTERNAL)
        context.set_details("set before")
        context.set_trailing_metadata((("set", "before"),))
        await context.abort(StatusCode.NOT_FOUND)

    error = await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "set before")
    assert pairs(error.trailing_metadata()) == [("set", "before")]


async def test_set_code_and_set_details(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        context.set_code(StatusCode.FAILED_PRECONDITION)
        context.set_details("not yet")
        assert (context.code(), context.details()) == (StatusCode.FAILED_PRECONDITION, "not yet")
        return Answer(text="is not sent")

    error = await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))
    assert (error.code(), error.details()) == (StatusCode.FAILED_PRECONDITION, "not yet")


async def test_set_code_allows_to_return_nothing(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> None:
        context.set_code(StatusCode.NOT_FOUND)

    assert await status((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)) == (StatusCode.NOT_FOUND, "")


async def test_set_code_takes_the_number_too(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        context.set_code(StatusCode.NOT_FOUND.value[0])
        return Answer()

    assert await status((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)) == (StatusCode.NOT_FOUND, "")


async def test_set_code_ok_and_details_alone_are_no_error(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        context.set_code(StatusCode.OK)
        context.set_details("for nobody")
        return Answer(text="fine")

    assert (await (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)).text == "fine"


class OwnError(Exception):
    pass


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("secret"),
        OwnError("secret"),
        grpc.RpcError("secret"),
        ExceptionGroup("secret", [ValueError("secret")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_unexpected_exception_is_unknown(mesh: Mesh, raised: Exception) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        context.set_trailing_metadata((("kept", "yes"),))
        raise raised

    error = await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))
    assert error.code() is StatusCode.UNKNOWN
    assert ("secret" in error.details()) == mesh.shows_exceptions
    assert pairs(error.trailing_metadata()) == [("kept", "yes")]


async def test_an_exception_after_set_code_has_that_code(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        context.set_code(StatusCode.UNAUTHENTICATED)
        raise ValueError("secret")

    error = await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))
    assert error.code() is StatusCode.UNAUTHENTICATED
    assert ("secret" in error.details()) == mesh.shows_exceptions


async def test_the_error_of_a_call_that_the_handler_made_is_not_passed_on(mesh: Mesh) -> None:
    async def other(request: Question, context: ServicerContext) -> Answer:
        await context.abort(StatusCode.NOT_FOUND, "inner")

    async def ask(request: Question, context: ServicerContext) -> Answer:
        return await stub.Other(request, timeout=TIMEOUT)

    stub = await mesh.serve(ask, other=other)
    error = await failure(stub.Ask(Question(), timeout=TIMEOUT))
    assert error.code() is StatusCode.UNKNOWN
    assert ("inner" in error.details()) == mesh.shows_exceptions


@pytest.mark.parametrize("returned", [None, "text", 5, b"bytes"], ids=repr)
async def test_a_handler_that_returns_no_message_is_an_error(mesh: Mesh, returned: Any) -> None:
    async def ask(request: Question, context: ServicerContext) -> Any:
        return returned

    error = await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))
    assert error.code() is StatusCode.UNKNOWN


async def test_a_request_that_is_no_message_is_an_error(mesh: Mesh) -> None:
    called = False

    async def ask(request: Question, context: ServicerContext) -> Answer:
        nonlocal called
        called = True
        return Answer()

    await mesh.start(ask)
    error = await failure(mesh.channel().unary_unary("/probe.v1.Probe/Ask")(b"\xff\xff\xff", timeout=TIMEOUT))
    assert error.code() is StatusCode.UNKNOWN
    assert not called


async def test_a_method_that_is_not_implemented(mesh: Mesh) -> None:
    """Generated servicers set the code and raise NotImplementedError."""
    stub = await mesh.serve()
    assert (await failure(stub.Other(Question(), timeout=TIMEOUT))).code() is StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", ["/probe.v1.Probe/Nope", "/probe.v1.Probe/ask"])
async def test_a_method_that_is_not_there(mesh: Mesh, path: str) -> None:
    await mesh.start()
    code, details = await status(mesh.channel().unary_unary(path)(b"", timeout=TIMEOUT))
    assert code is StatusCode.UNIMPLEMENTED
    assert "not found" in details


async def test_after_a_failed_call_the_next_one_succeeds(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        if request.number % 2:
            raise ValueError
        return Answer(number=request.number)

    stub = await mesh.serve(ask)
    outcomes = await asyncio.gather(
        *(stub.Ask(Question(number=n), timeout=TIMEOUT) for n in range(20)), return_exceptions=True
    )
    assert [isinstance(outcome, Answer) for outcome in outcomes] == [True, False] * 10
