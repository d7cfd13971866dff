"""How calls, interceptors and stacks fit together; and the deadline policy."""

import asyncio

import pytest

from rpc import Call, Handler, Interceptor, MethodInfo, Refusal, StatusCode, StatusError
from rpc.call import compose
from rpc.policy import client_stack, server_stack
from rpc.policy.deadline import Deadlines
from rpc.policy.limits import ConcurrencyLimit
from rpc.policy.retry import Retry
from rpc.testing import FakeClock

INFO = MethodInfo("test.v1.Test", "Do")


def noting(name: str, seen: list[str]) -> Interceptor:
    async def interceptor(call: Call, handler: Handler) -> None:
        seen.append(f"{name} in")
        try:
            await handler(call)
        finally:
            seen.append(f"{name} out")

    return interceptor


async def test_the_first_interceptor_is_the_outermost() -> None:
    seen: list[str] = []

    async def handler(_call: Call) -> None:
        seen.append("handler")

    await compose([noting("a", seen), noting("b", seen)], handler)(Call(INFO))
    assert seen == ["a in", "b in", "handler", "b out", "a out"]
    assert compose([], handler) is handler


async def test_a_refusal_is_retried_inside_what_is_measured_and_traced() -> None:
    seen: list[str] = []

    async def transport(call: Call) -> None:
        seen.append(f"attempt {call.attempt}")
        if call.attempt < 3:
            raise Refusal("busy", "queue-full")

    stack = client_stack(
        transport,
        measure=noting("measure", seen),
        trace=noting("trace", seen),
        deadlines=Deadlines(),
        retry=Retry(),
    )
    await stack(Call(INFO))
    assert seen == ["measure in", "trace in", "attempt 1", "attempt 2", "attempt 3", "trace out", "measure out"]


async def test_what_is_refused_is_neither_measured_nor_traced() -> None:
    seen: list[str] = []
    release = asyncio.Event()

    async def handler(_call: Call) -> None:
        await release.wait()

    limit = ConcurrencyLimit(1, 0)
    stack = server_stack(
        handler,
        measure=noting("measure", seen),
        trace=noting("trace", seen),
        deadlines=Deadlines(),
        limit=limit,
    )
    first = asyncio.create_task(stack(Call(INFO)))
    await asyncio.sleep(0)
    with pytest.raises(Refusal):
        await stack(Call(INFO))
    release.set()
    await first
    assert seen == ["measure in", "trace in", "trace out", "measure out"]


async def test_what_expires_while_it_waits_for_its_turn_is_not_run() -> None:
    ran: list[Call] = []

    async def handler(call: Call) -> None:
        ran.append(call)
        await asyncio.sleep(10)

    stack = server_stack(handler, measure=None, trace=None, deadlines=Deadlines(), limit=ConcurrencyLimit(1, 10))
    async with FakeClock() as clock:
        first, second = Call(INFO), Call(INFO, deadline=clock.time() + 5)
        running, waiting = asyncio.create_task(stack(first)), asyncio.create_task(stack(second))
        await clock.advance(20)
        await running
        with pytest.raises(StatusError) as error:
            await waiting
    assert error.value.code is StatusCode.DEADLINE_EXCEEDED
    assert ran == [first]


async def test_what_is_over_is_not_begun() -> None:
    async def handler(_call: Call) -> None:
        pytest.fail("it must not run")

    deadline = asyncio.get_running_loop().time()
    with pytest.raises(StatusError) as error:
        await Deadlines()(Call(INFO, deadline=deadline), handler)
    assert error.value.code is StatusCode.DEADLINE_EXCEEDED


async def test_at_its_deadline_a_call_is_cancelled_where_it_is() -> None:
    async def handler(call: Call) -> None:
        stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        call.on_cancel(stopped.set_exception)
        await stopped

    async with FakeClock() as clock:
        call = Call(INFO, deadline=clock.time() + 3)
        task = asyncio.create_task(Deadlines()(call, handler))
        await clock.advance(2.9)
        assert not task.done()
        await clock.advance(0.1)
        with pytest.raises(StatusError) as error:
            await task
    assert error.value.code is StatusCode.DEADLINE_EXCEEDED
    assert call.cancelled is not None


async def test_a_call_that_ended_in_time_is_left_alone() -> None:
    async def handler(_call: Call) -> None:
        await asyncio.sleep(1)

    async with FakeClock() as clock:
        call = Call(INFO, deadline=clock.time() + 3)
        await clock.run(Deadlines()(call, handler))
        await clock.advance(10)
    assert call.cancelled is None


async def test_the_longest_deadlines_are_no_problem() -> None:
    loop = asyncio.get_running_loop()

    async def handler(_call: Call) -> None:
        await asyncio.sleep(0)

    await Deadlines()(Call(INFO, deadline=loop.time() + 99999999 * 3600), handler)


def test_the_first_reason_of_a_cancellation_stays() -> None:
    call = Call(INFO)
    seen: list[StatusError] = []
    call.on_cancel(seen.append)
    assert call.cancel(StatusCode.DEADLINE_EXCEEDED, "late")
    assert not call.cancel()
    assert [error.code for error in seen] == [StatusCode.DEADLINE_EXCEEDED]
    with pytest.raises(StatusError, match="late"):
        call.on_cancel(seen.append)
    call.on_cancel(None)


async def test_calls_that_have_ended_are_not_kept() -> None:
    """The deadlines of all calls of a stack are in one place: it must not grow with the calls that are over."""
    deadlines = Deadlines()
    loop = asyncio.get_running_loop()
    gate = asyncio.Event()

    async def wait(_call: Call) -> None:
        await gate.wait()

    async def return_at_once(_call: Call) -> None:
        return

    long = asyncio.ensure_future(deadlines(Call(INFO, deadline=loop.time() + 1), wait))
    await asyncio.sleep(0)
    for _ in range(10_000):
        await deadlines(Call(INFO, deadline=loop.time() + 30), return_at_once)
    assert len(deadlines._heap) < 2000
    gate.set()
    await long


async def test_each_call_ends_at_its_own_deadline() -> None:
    async with FakeClock() as clock:
        await each_ends_at_its_own_deadline(clock)


async def each_ends_at_its_own_deadline(clock: FakeClock) -> None:
    deadlines = Deadlines()
    begin = clock.time()
    ended: list[tuple[int, float]] = []

    async def until_cancelled(call: Call) -> None:
        over = asyncio.get_running_loop().create_future()
        call.on_cancel(over.set_exception)
        await over

    async def run(seconds: int) -> None:
        with pytest.raises(StatusError, match="Deadline Exceeded"):
            await deadlines(Call(INFO, deadline=begin + seconds), until_cancelled)
        ended.append((seconds, asyncio.get_running_loop().time() - begin))

    tasks = [asyncio.ensure_future(run(seconds)) for seconds in (3, 1, 2, 5, 4)]
    await clock.advance(10)
    assert [task.done() for task in tasks] == [True] * 5
    assert [seconds for seconds, _ in ended] == [1, 2, 3, 4, 5]
    assert all(at == pytest.approx(seconds) for seconds, at in ended)
