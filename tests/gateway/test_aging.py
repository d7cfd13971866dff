"""What happens to requests that last: on fake time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.aging import Aging
from gateway.body import SLOWEST, BodyReader, ClientGone
from gateway.errors import HttpError
from gateway.hangup import INTERVAL, HangupWatch
from rpc import Call, MethodInfo, StatusCode
from rpc.testing import FakeClock

INFO = MethodInfo("a.B", "C")


@pytest.fixture
async def clock() -> AsyncIterator[FakeClock]:
    async with FakeClock() as clock:
        yield clock


class Body:
    """A request body that comes piece by piece when the test says so."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def piece(self, data: bytes, *, more: bool = True) -> None:
        self.queue.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def hang_up(self) -> None:
        self.queue.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> dict[str, Any]:
        return await self.queue.get()


async def test_entries_are_handed_over_once_when_they_are_old(clock: FakeClock) -> None:
    old: list[str] = []
    aging: Aging[str, str] = Aging(1.0, lambda key, value: old.append(key + value))
    aging.add("a", "1")
    await clock.advance(0.9)
    aging.add("b", "2")
    await clock.advance(0.9)
    assert old == []
    assert len(aging) == 2
    await clock.advance(0.3)
    assert old == ["a1", "b2"]
    await clock.advance(1)
    assert old == ["a1", "b2"]
    assert len(aging) == 0
    assert aging.remove("a") is False


async def test_removed_entries_are_not_handed_over(clock: FakeClock) -> None:
    old: list[str] = []
    aging: Aging[str, str] = Aging(1.0, lambda key, value: old.append(key))
    aging.add("a", "1")
    aging.add("b", "2")
    assert aging.remove("a") is True
    await clock.advance(1.5)
    assert aging.remove("b") is True
    await clock.advance(5)
    assert old == []


async def test_no_timer_runs_while_there_is_nothing(clock: FakeClock) -> None:
    aging: Aging[str, str] = Aging(1.0, lambda key, value: None)
    aging.add("a", "1")
    aging.remove("a")
    await clock.advance(5)
    assert aging._timer is None
    aging.add("a", "1")
    assert aging._timer is not None
    aging.close()
    assert aging._timer is None


async def test_a_client_that_hangs_up_cancels_its_call(clock: FakeClock) -> None:
    watch = HangupWatch()
    body = Body()
    call = Call(INFO)
    watch.add(call, body.receive)
    body.hang_up()
    await clock.advance(INTERVAL * 0.9)
    assert call.cancelled is None
    await clock.advance(INTERVAL * 1.2)
    assert call.cancelled is not None
    assert call.cancelled.code is StatusCode.CANCELLED
    watch.remove(call)
    assert len(watch) == 0


async def test_a_body_that_nobody_asked_for_is_passed_over(clock: FakeClock) -> None:
    watch = HangupWatch()
    body = Body()
    call = Call(INFO)
    watch.add(call, body.receive)
    await clock.advance(INTERVAL * 3)
    body.piece(b"x")
    body.piece(b"y", more=False)
    await clock.advance(1)
    assert call.cancelled is None
    body.hang_up()
    await clock.advance(0)
    assert call.cancelled is not None


async def test_a_call_that_ends_is_watched_no_more(clock: FakeClock) -> None:
    watch = HangupWatch()
    for age in (0.0, INTERVAL * 1.5, INTERVAL * 3):
        body = Body()
        call = Call(INFO)
        watch.add(call, body.receive)
        await clock.advance(age)
        assert len(watch) == 1
        watch.remove(call)
        assert len(watch) == 0
        body.hang_up()
        await clock.advance(1)
        assert call.cancelled is None
    await watch.close()


async def test_closing_stops_the_watchers(clock: FakeClock) -> None:
    watch = HangupWatch()
    body = Body()
    call = Call(INFO)
    watch.add(call, body.receive)
    await clock.advance(INTERVAL * 3)
    await watch.close()
    body.hang_up()
    await clock.advance(1)
    assert call.cancelled is None


async def test_a_body_in_pieces(clock: FakeClock) -> None:
    body = Body()
    reader = BodyReader(10_000, 5, 10_000)
    enough = SLOWEST * 5
    task = asyncio.create_task(reader.read(body.receive, 0))
    for piece in (b"a" * enough, b"", b"b" * enough):
        body.piece(piece)
        await clock.advance(4)
    body.piece(b"g", more=False)
    assert await clock.run(task) == b"a" * enough + b"b" * enough + b"g"


async def test_a_body_in_too_small_pieces(clock: FakeClock) -> None:
    """They keep coming, and would for days."""
    body = Body()
    task = asyncio.create_task(BodyReader(10_000, 5, 10_000).read(body.receive, 0))
    for _ in range(11):
        body.piece(b"a")
        await clock.advance(1)
    with pytest.raises(HttpError, match="less than 1200 bytes came in 5 seconds"):
        await clock.run(task)


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 5, b"x" * 6], [b"x" * 10, b"x"]])
async def test_a_body_over_the_limit_is_refused_at_once(pieces: list[bytes]) -> None:
    body = Body()
    for piece in pieces:
        body.piece(piece)  # More would come, but nobody waits for it.
    with pytest.raises(HttpError) as caught:
        await BodyReader(10, 5, 100).read(body.receive, 0)
    assert caught.value.status == 413
    assert "10 bytes" in caught.value.message


async def test_a_body_that_is_announced_too_large_is_not_read() -> None:
    body = Body()
    body.piece(b"x", more=False)
    with pytest.raises(HttpError) as caught:
        await BodyReader(10, 5, 100).read(body.receive, 11)
    assert caught.value.status == 413
    assert body.queue.qsize() == 1


async def test_a_body_at_the_limit_is_read() -> None:
    body = Body()
    body.piece(b"x" * 10, more=False)
    assert await BodyReader(10, 5, 100).read(body.receive, 10) == b"x" * 10


@pytest.mark.parametrize("pieces", [[], [b"abc"], [b"abc", b"def"]])
async def test_a_body_that_does_not_go_on_is_given_up(clock: FakeClock, pieces: list[bytes]) -> None:
    body = Body()
    task = asyncio.create_task(BodyReader(10, 5, 100).read(body.receive, 0))
    for piece in pieces:
        await clock.advance(4)
        body.piece(piece)
    await clock.advance(11)
    assert task.done()
    with pytest.raises(HttpError) as caught:
        await task
    assert caught.value.status == 408
    assert task.cancelling() == 0


async def test_a_cancellation_from_elsewhere_stays_one(clock: FakeClock) -> None:
    body = Body()
    task = asyncio.create_task(BodyReader(10, 5, 100).read(body.receive, 0))
    await clock.advance(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("pieces", [[], [b"abc"]])
async def test_a_client_that_hangs_up_within_the_body(pieces: list[bytes]) -> None:
    body = Body()
    for piece in pieces:
        body.piece(piece)
    body.hang_up()
    with pytest.raises(ClientGone):
        await BodyReader(10, 5, 100).read(body.receive, 0)


async def test_bodies_hold_no_more_than_allowed_together(clock: FakeClock) -> None:
    reader = BodyReader(10, 5, 16)
    first, second = Body(), Body()
    done = asyncio.Event()

    async def request(body: Body) -> bytes:
        try:
            data = await reader.read(body.receive, 0)
            await done.wait()
            return data
        finally:
            reader.release()

    tasks = [asyncio.create_task(request(body)) for body in (first, second)]
    first.piece(b"x" * 9)
    first.piece(b"x", more=False)
    second.piece(b"y" * 7)
    await clock.advance(0)
    assert tasks[1].done()
    with pytest.raises(HttpError) as caught:
        await tasks[1]
    assert caught.value.status == 503

    # The first one holds its body until its request ends.
    third = Body()
    third.piece(b"z" * 6)
    third.piece(b"", more=False)
    tasks.append(asyncio.create_task(request(third)))
    await clock.advance(0)
    assert not tasks[0].done()
    assert not tasks[2].done()
    assert sum(reader.held_by.values()) == 16
    done.set()
    assert [await clock.run(tasks[number]) for number in (0, 2)] == [b"x" * 10, b"z" * 6]
    assert reader.held_by == {}
    assert reader._held == 0
