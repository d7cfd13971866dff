"""The concurrency limit: so many at once, first come first served, and no place is ever lost."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpc import Call, MethodInfo, Refusal
from rpc.policy.limits import ConcurrencyLimit

INFO = MethodInfo("test.v1.Test", "Do")


class Work:
    """A handler whose calls end when they are told to."""

    def __init__(self) -> None:
        self.started: list[Call] = []
        self.running = 0
        self.most = 0
        self._ends: dict[Call, asyncio.Event] = {}

    async def __call__(self, call: Call) -> None:
        self.started.append(call)
        self.running += 1
        self.most = max(self.most, self.running)
        self._ends[call] = asyncio.Event()
        try:
            await self._ends[call].wait()
        finally:
            self.running -= 1

    def end(self, call: Call) -> None:
        self._ends[call].set()


async def rest() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_beyond_the_limit_calls_wait_and_beyond_the_queue_they_are_refused() -> None:
    limit, work = ConcurrencyLimit(2, 1), Work()
    calls = [Call(INFO) for _ in range(4)]
    tasks = [asyncio.create_task(limit(call, work)) for call in calls]
    await rest()
    assert work.started == calls[:2]
    assert (limit.running, limit.waiting) == (2, 1)
    with pytest.raises(Refusal, match="busy") as refused:
        await tasks[3]
    assert refused.value.reason == "queue-full"
    work.end(calls[1])
    await rest()
    assert work.started == calls[:3]
    for call in (calls[0], calls[2]):
        work.end(call)
    await asyncio.gather(*tasks[:3])
    assert (limit.running, limit.waiting) == (0, 0)


async def test_turns_come_in_the_order_of_arrival_and_nobody_jumps_the_queue() -> None:
    limit, work = ConcurrencyLimit(1, 100), Work()
    calls = [Call(INFO) for _ in range(20)]
    tasks = [asyncio.create_task(limit(call, work)) for call in calls[:10]]
    await rest()
    for number, call in enumerate(calls[:10]):
        work.end(call)
        # A newcomer at the very moment when a place is handed over.
        tasks.append(asyncio.create_task(limit(calls[10 + number], work)))
        await rest()
    for call in calls[10:]:
        work.end(call)
        await rest()
    await asyncio.gather(*tasks)
    assert work.started == calls
    assert work.most == 1


async def test_without_a_queue_the_next_one_is_refused_at_once() -> None:
    limit, work = ConcurrencyLimit(1, 0), Work()
    first = Call(INFO)
    task = asyncio.create_task(limit(first, work))
    await rest()
    with pytest.raises(Refusal):
        await limit(Call(INFO), work)
    work.end(first)
    await task


async def test_cancelled_while_it_waits_a_call_gives_its_turn_to_the_next() -> None:
    limit, work = ConcurrencyLimit(1, 10), Work()
    calls = [Call(INFO) for _ in range(3)]
    tasks = [asyncio.create_task(limit(call, work)) for call in calls]
    await rest()
    tasks[1].cancel()
    await rest()
    assert limit.waiting == 1
    work.end(calls[0])
    await rest()
    assert work.started == [calls[0], calls[2]]
    work.end(calls[2])
    await tasks[2]
    assert (limit.running, limit.waiting) == (0, 0)


async def test_cancelled_in_the_moment_of_its_turn_a_call_hands_it_on() -> None:
    limit, work = ConcurrencyLimit(1, 10), Work()
    calls = [Call(INFO) for _ in range(3)]
    tasks = [asyncio.create_task(limit(call, work)) for call in calls]
    await rest()
    work.end(calls[0])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks[1].cancel()  # before or after it took its turn: both must end well
    await rest()
    assert calls[2] in work.started
    work.end(calls[2])
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (limit.running, limit.waiting) == (0, 0)


async def test_a_handler_that_fails_frees_its_place() -> None:
    limit = ConcurrencyLimit(1, 0)

    async def fail(_call: Call) -> None:
        raise RuntimeError("broken")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="broken"):
            await limit(Call(INFO), fail)
    assert limit.running == 0


@pytest.mark.parametrize(("limit", "queue"), [(0, 1), (-1, 1), (1, -1)])
def test_senseless_limits_are_refused(limit: int, queue: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        ConcurrencyLimit(limit, queue)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), st.integers(0, 4), st.integers(1, 25), st.integers())
def test_no_place_is_ever_lost(limit: int, queue: int, count: int, seed: int) -> None:
    """Calls arrive, end, fail and are cancelled at random moments; in the end all places are free."""
    chance = random.Random(seed)

    async def main() -> None:
        policy = ConcurrencyLimit(limit, queue)
        most = 0

        async def work(_call: Call) -> None:
            nonlocal most
            most = max(most, policy.running)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if chance.random() < 0.2:
                raise RuntimeError

        tasks = []
        for _ in range(count):
            tasks.append(asyncio.create_task(policy(Call(INFO), work)))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            if chance.random() < 0.4:
                chance.choice(tasks).cancel()
            assert policy.running <= limit
            assert policy.waiting <= queue
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= limit
        assert (policy.running, policy.waiting) == (0, 0)

    asyncio.run(main())
