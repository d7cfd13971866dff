"""A caller that goes away, by whatever way, ends the handler."""

import asyncio
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh
from tests.protos.probe_pb2 import Answer, Question


class Stuck:
    """A handler that ends only when it is cancelled, and tells how it went."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.done = asyncio.Event()

    async def ask(self, request: Question, context: ServicerContext) -> Answer:
        context.add_done_callback(lambda _context: self.done.set())
        assert not context.done()
        assert not context.cancelled()
        self.started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Answer()


async def wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), TIMEOUT)


async def test_cancel_reaches_the_handler(mesh: Mesh) -> None:
    stuck = Stuck()
    call = (await mesh.serve(stuck.ask)).Ask(Question())
    await wait(stuck.started)
    assert call.cancel()
    await wait(stuck.cancelled)
    await wait(stuck.done)


async def test_what_a_cancelled_call_looks_like(mesh: Mesh) -> None:
    stuck = Stuck()
    call = (await mesh.serve(stuck.ask)).Ask(Question())
    await wait(stuck.started)
    assert not call.done()
    assert not call.cancelled()
    assert call.cancel()
    assert call.done()
    assert call.cancelled()
    assert not call.cancel()  # the second one changes nothing
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await call.code() is StatusCode.CANCELLED
    assert await call.details() == "Locally cancelled by application!"
    assert len(await call.initial_metadata()) == len(await call.trailing_metadata()) == 0


async def test_cancel_at_once_never_calls(mesh: Mesh) -> None:
    stuck = Stuck()
    call = (await mesh.serve(stuck.ask)).Ask(Question())
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await call.code() is StatusCode.CANCELLED
    assert not stuck.started.is_set()


async def test_cancelling_the_task_that_awaits_cancels_the_call(mesh: Mesh) -> None:
    stuck = Stuck()
    call = (await mesh.serve(stuck.ask)).Ask(Question())

    async def user() -> Answer:
        return await call

    task = asyncio.ensure_future(user())
    await wait(stuck.started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.cancelled()
    await wait(stuck.cancelled)


async def test_cancel_after_the_end_does_nothing(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        return Answer(text="done")

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    await call
    assert not call.cancel()
    assert not call.cancelled()
    assert (await call).text == "done"


async def test_closing_the_channel_cancels_its_calls(mesh: Mesh) -> None:
    stuck = Stuck()
    await mesh.start(stuck.ask)
    channel = mesh.channel()
    call = channel.unary_unary("/probe.v1.Probe/Ask")(b"")
    await wait(stuck.started)
    await channel.close()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await call.code() is StatusCode.CANCELLED
    await wait(stuck.cancelled)


async def test_one_cancelled_call_does_not_disturb_the_others(mesh: Mesh) -> None:
    stuck = Stuck()
    gate = asyncio.Event()

    async def other(request: Question, context: ServicerContext) -> Answer:
        await gate.wait()
        return Answer(text="whole")

    stub = await mesh.serve(stuck.ask, other=other)
    neighbour = stub.Other(Question(), timeout=TIMEOUT)
    call = stub.Ask(Question())
    await wait(stuck.started)
    call.cancel()
    await wait(stuck.cancelled)
    gate.set()
    assert (await neighbour).text == "whole"


async def test_a_cancel_reaches_the_call_that_the_handler_makes(mesh: Mesh) -> None:
    stuck = Stuck()

    async def ask(request: Question, context: ServicerContext) -> Answer:
        return await stub.Other(request)

    stub = await mesh.serve(ask, other=stuck.ask)
    call = stub.Ask(Question())
    await wait(stuck.started)
    call.cancel()
    await wait(stuck.cancelled)


@pytest.mark.parametrize("end", ["answer", "abort", "raise"])
async def test_done_callbacks_of_the_context_run_at_every_end(mesh: Mesh, end: str) -> None:
    seen: list[Any] = []
    done = asyncio.Event()

    async def ask(request: Question, context: ServicerContext) -> Answer:
        def ended(ended_context: ServicerContext) -> None:
            seen.append(
                (ended_context is context, ended_context.done(), ended_context.cancelled(), ended_context.code())
            )
            done.set()

        context.add_done_callback(ended)
        if end == "abort":
            await context.abort(StatusCode.NOT_FOUND, "gone")
        if end == "raise":
            raise ValueError
        assert seen == []
        return Answer()

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    await call.code()
    await wait(done)
    assert seen == [(True, True, False, StatusCode.NOT_FOUND if end == "abort" else None)]
