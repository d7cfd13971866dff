"""timeout= and what it does on both sides."""

import asyncio

import pytest
from grpc import StatusCode
from grpc.aio import ServicerContext

from tests.contract.meshes import TIMEOUT, Mesh, failure
from tests.protos.probe_pb2 import Answer, Question


class Stuck:
    """A handler that ends only when it is cancelled."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def ask(self, request: Question, context: ServicerContext) -> Answer:
        self.started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Answer()


async def test_the_caller_gets_deadline_exceeded_and_the_handler_is_cancelled(mesh: Mesh) -> None:
    stuck = Stuck()
    call = (await mesh.serve(stuck.ask)).Ask(Question(), timeout=0.3)
    begin = asyncio.get_running_loop().time()
    error = await failure(call)
    assert 0.2 < asyncio.get_running_loop().time() - begin < 5
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    assert error.details() == "Deadline Exceeded"
    assert await call.code() is StatusCode.DEADLINE_EXCEEDED
    assert call.done()
    assert not call.cancelled()
    assert stuck.started.is_set()
    await asyncio.wait_for(stuck.cancelled.wait(), TIMEOUT)


async def test_a_deadline_in_the_past_fails_without_calling(mesh: Mesh) -> None:
    stuck = Stuck()
    error = await failure((await mesh.serve(stuck.ask)).Ask(Question(), timeout=-1))
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    assert not stuck.started.is_set()


async def test_the_handler_sees_the_time_that_is_left(mesh: Mesh) -> None:
    seen: list[float] = []

    async def ask(request: Question, context: ServicerContext) -> Answer:
        seen.append(context.time_remaining())
        await asyncio.sleep(0.05)
        seen.append(context.time_remaining())
        return Answer()

    await (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    assert TIMEOUT - 5 < seen[1] < seen[0] <= TIMEOUT + 0.1  # grpc.aio rounds up
    assert seen[0] - seen[1] >= 0.04


async def test_the_caller_sees_the_time_that_is_left(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        return Answer()

    call = (await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT)
    assert TIMEOUT - 5 < call.time_remaining() <= TIMEOUT
    await call
    assert 0 <= call.time_remaining() <= TIMEOUT


async def test_what_the_handler_does_after_the_deadline_reaches_nobody(mesh: Mesh) -> None:
    finished = asyncio.Event()

    async def ask(request: Question, context: ServicerContext) -> Answer:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            finished.set()
        return Answer(text="too late")

    stub = await mesh.serve(ask)
    assert (await failure(stub.Ask(Question(), timeout=0.2))).code() is StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(finished.wait(), TIMEOUT)


async def test_a_handler_may_answer_deadline_exceeded_itself(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        await context.abort(StatusCode.DEADLINE_EXCEEDED, "the database's")

    error = await failure((await mesh.serve(ask)).Ask(Question(), timeout=TIMEOUT))
    assert (error.code(), error.details()) == (StatusCode.DEADLINE_EXCEEDED, "the database's")


async def test_a_long_timeout_is_no_problem(mesh: Mesh) -> None:
    async def ask(request: Question, context: ServicerContext) -> Answer:
        return Answer(number=int(context.time_remaining()))

    year = 365 * 24 * 3600
    answer = await (await mesh.serve(ask)).Ask(Question(), timeout=year)
    assert 0.99 * year < answer.number < 1.01 * year  # long ones travel in coarse units


async def test_one_late_call_does_not_disturb_the_others(mesh: Mesh) -> None:
    stuck = Stuck()

    async def other(request: Question, context: ServicerContext) -> Answer:
        return Answer(number=request.number)

    stub = await mesh.serve(stuck.ask, other=other)
    late = asyncio.ensure_future(failure(stub.Ask(Question(), timeout=0.2)))
    answers = await asyncio.gather(*(stub.Other(Question(number=n), timeout=TIMEOUT) for n in range(50)))
    assert [answer.number for answer in answers] == list(range(50))
    assert (await late).code() is StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("timeout", ["soon", b"1"], ids=repr)
async def test_a_timeout_is_a_number(mesh: Mesh, timeout: object) -> None:
    stub = await mesh.serve(Stuck().ask)
    with pytest.raises(TypeError):
        await stub.Ask(Question(), timeout=timeout)


async def test_waiting_with_a_timeout_of_asyncio_cancels_the_call(mesh: Mesh) -> None:
    stuck = Stuck()
    call = (await mesh.serve(stuck.ask)).Ask(Question())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.3)
    assert call.cancelled()
    await asyncio.wait_for(stuck.cancelled.wait(), TIMEOUT)
