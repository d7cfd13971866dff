"""Fake time: what is promised to users of rpc.testing.FakeClock."""

import asyncio
import contextvars
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest
import uvloop

import rpc
from rpc.testing import FakeClock, MemoryMesh


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine in a loop of either kind, and fails when that takes real time."""

    def run(work: Coroutine[Any, Any, None]) -> None:
        started = time.monotonic()
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(work)
        assert time.monotonic() - started < 10  # not the hour that is waited for; the machine may be busy

    return run


def test_time_stands_still_until_it_is_let_pass(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with FakeClock() as clock:
            begin = loop.time()
            sleeping = asyncio.create_task(asyncio.sleep(3600))
            await asyncio.sleep(0)
            assert loop.time() == begin == clock.time()
            await clock.advance(3599)
            assert not sleeping.done()
            await clock.advance(1)
            assert sleeping.done()
            assert loop.time() == begin + 3600

    run(main())


def test_what_is_due_happens_in_order_at_its_own_time(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with FakeClock() as clock:
            begin = clock.time()
            seen: list[tuple[str, float]] = []

            async def tick(name: str, period: float) -> None:
                while True:
                    await asyncio.sleep(period)
                    seen.append((name, round(loop.time() - begin, 6)))

            ticks = [asyncio.create_task(tick("a", 1)), asyncio.create_task(tick("b", 1.5))]
            loop.call_later(2, seen.append, ("called", 2))
            await clock.advance(3)
            assert seen[:2] == [("a", 1), ("b", 1.5)]
            assert sorted(seen[2:4]) == [("a", 2), ("called", 2)]
            assert sorted(seen[4:]) == [("a", 3), ("b", 3)]
            for task in ticks:
                task.cancel()

    run(main())


def test_timers_of_the_same_moment_fire_in_the_order_they_were_made(run: Any) -> None:
    async def main() -> None:
        seen: list[int] = []
        async with FakeClock() as clock:
            for number in range(20):
                asyncio.get_running_loop().call_later(1, seen.append, number)
            await clock.advance(1)
        assert seen == list(range(20))

    run(main())


def test_a_cancelled_timer_does_not_fire(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        async with FakeClock() as clock:
            late = loop.call_later(1, seen.append, "late")
            overdue = loop.call_at(clock.time() - 1, seen.append, "overdue")
            late.cancel()
            overdue.cancel()
            assert late.cancelled()
            await clock.advance(5)
            loop.call_at(clock.time(), seen.append, "now")
            await clock.advance(0)
        assert seen == ["now"]

    run(main())


def test_timeouts_of_asyncio_work(run: Any) -> None:
    async def main() -> None:
        async with FakeClock() as clock:
            with pytest.raises(TimeoutError):
                await clock.run(asyncio.wait_for(asyncio.Event().wait(), 60))

            async def inside() -> str:
                async with asyncio.timeout(10):
                    await asyncio.sleep(9)
                return "in time"

            assert await clock.run(inside()) == "in time"

    run(main())


def test_timers_keep_the_context_in_which_they_were_made(run: Any) -> None:
    async def main() -> None:
        variable = contextvars.ContextVar("variable", default="outside")
        seen: list[str] = []
        async with FakeClock() as clock:
            token = variable.set("inside")
            asyncio.get_running_loop().call_later(1, lambda: seen.append(variable.get()))
            variable.reset(token)
            await clock.advance(1)
        assert seen == ["inside"]

    run(main())


def test_waiting_for_what_never_comes_is_told_at_once(run: Any) -> None:
    async def main() -> None:
        async with FakeClock() as clock:
            with pytest.raises(RuntimeError, match="none of them for time"):
                await clock.run(asyncio.Event().wait())

            async def restless() -> None:
                while True:
                    await asyncio.sleep(0)

            task = asyncio.create_task(restless())
            with pytest.raises(RuntimeError, match="never comes to rest"):
                await clock.advance(1)
            task.cancel()

    run(main())


def test_real_time_is_back_afterwards(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with FakeClock() as clock:
            pending = asyncio.create_task(asyncio.sleep(100.02))
            await clock.advance(100)
            assert not pending.done()
        assert abs(loop.time() - time.monotonic()) < 1 or loop.time() < clock.time()
        await asyncio.wait_for(pending, 1)
        async with FakeClock() as other:
            await other.advance(1)

    run(main())


def test_misuse_is_told(run: Any) -> None:
    async def main() -> None:
        clock = FakeClock()
        with pytest.raises(RuntimeError, match="not in use"):
            await clock.advance(1)
        async with clock:
            with pytest.raises(RuntimeError, match="in use already"):
                await clock.__aenter__()
            with pytest.raises(ValueError, match="does not go back"):
                await clock.advance(-1)

    run(main())


async def test_deadlines_of_calls_need_no_waiting(memory_mesh: MemoryMesh) -> None:
    async def never(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        await asyncio.Event().wait()
        return request

    server = rpc.Server(memory_mesh.connection())
    handler = grpc.unary_unary_rpc_method_handler(never)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.v1.Never", {"Return": handler})])
    async with FakeClock() as clock:
        await server.start()
        async with rpc.Channel(memory_mesh.connection()) as channel:
            call = channel.unary_unary("/test.v1.Never/Return")(b"", timeout=600)
            await clock.advance(599.9)
            assert not call.done()
            remaining = call.time_remaining()
            assert remaining is not None
            assert 0.05 < remaining < 0.15
            await clock.advance(0.2)
            assert call.done()
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await server.stop(None)
    gc.collect()
