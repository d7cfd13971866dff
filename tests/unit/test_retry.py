"""The retry policy: what was never started is sent again, what may have run only if repeating is safe."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from rpc import Call, IdempotencyLevel, MethodInfo, Refusal, StatusCode, StatusError
from rpc.policy import retry as retry_module
from rpc.policy.deadline import Deadlines
from rpc.policy.retry import MAX_ATTEMPTS, MAX_REFUSED_SECONDS, Retry
from rpc.testing import FakeClock

INFO = MethodInfo("test.v1.Test", "Do")
REPEATABLE = [IdempotencyLevel.IDEMPOTENT, IdempotencyLevel.NO_SIDE_EFFECTS]


@pytest.fixture
async def clock() -> AsyncIterator[FakeClock]:
    async with FakeClock() as clock:
        yield clock


class Backend:
    """Answers each attempt with the next of these outcomes, and with the last one from then on; None is OK."""

    def __init__(self, *outcomes: StatusError | None) -> None:
        self.outcomes = list(outcomes)
        self.attempts: list[int] = []

    async def __call__(self, call: Call) -> None:
        self.attempts.append(call.attempt)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if outcome is not None:
            raise outcome


def refused(reason: str = "queue-full") -> Refusal:
    return Refusal("go elsewhere", reason)


def unavailable() -> StatusError:
    return StatusError(StatusCode.UNAVAILABLE, "it died")


@pytest.mark.parametrize("reason", ["queue-full", "draining"])
async def test_a_refusal_is_sent_again_whatever_the_method_promises(clock: FakeClock, reason: str) -> None:
    backend = Backend(refused(reason), refused(reason), refused(reason), None)
    await clock.run(Retry()(Call(INFO), backend))
    assert backend.attempts == [1, 2, 3, 4]


async def test_the_first_repetition_comes_at_once(clock: FakeClock) -> None:
    begin = clock.time()
    await clock.run(Retry()(Call(INFO), Backend(refused(), None)))
    assert clock.time() == begin


@pytest.mark.parametrize("reason", ["no-responders", "not-connected"])
async def test_where_nobody_is_the_call_ends_at_once(clock: FakeClock, reason: str) -> None:
    backend = Backend(refused(reason))
    with pytest.raises(Refusal):
        await clock.run(Retry()(Call(INFO), backend))
    assert backend.attempts == [1]


@pytest.mark.parametrize("reason", ["no-responders", "not-connected"])
async def test_unless_the_caller_waits_for_ready(clock: FakeClock, reason: str) -> None:
    backend = Backend(refused(reason))
    call = asyncio.create_task(Retry()(Call(INFO, wait_for_ready=True), backend))
    await clock.advance(3600)
    assert not call.done()
    assert len(backend.attempts) < 5 * 3600 * 4  # with pauses, not in a circle
    backend.outcomes = [None]
    await clock.advance(1)
    assert call.done()
    await call


@pytest.mark.parametrize("level", REPEATABLE)
async def test_unavailable_is_repeated_where_repeating_is_safe(clock: FakeClock, level: IdempotencyLevel) -> None:
    backend = Backend(unavailable(), unavailable(), None)
    await clock.run(Retry()(Call(MethodInfo("test.v1.Test", "Do", idempotency=level)), backend))
    assert backend.attempts == [1, 2, 3]


@pytest.mark.parametrize("level", REPEATABLE)
async def test_but_only_so_often(clock: FakeClock, level: IdempotencyLevel) -> None:
    backend = Backend(unavailable())
    with pytest.raises(StatusError, match="it died"):
        await clock.run(Retry()(Call(MethodInfo("test.v1.Test", "Do", idempotency=level)), backend))
    assert len(backend.attempts) == MAX_ATTEMPTS


async def test_unavailable_of_an_ordinary_method_is_the_answer(clock: FakeClock) -> None:
    backend = Backend(unavailable())
    with pytest.raises(StatusError, match="it died"):
        await clock.run(Retry()(Call(INFO), backend))
    assert backend.attempts == [1]


@pytest.mark.parametrize("code", [code for code in StatusCode if code not in (StatusCode.OK, StatusCode.UNAVAILABLE)])
async def test_every_other_status_is_the_answer(clock: FakeClock, code: StatusCode) -> None:
    backend = Backend(StatusError(code, "no"))
    info = MethodInfo("test.v1.Test", "Do", idempotency=IdempotencyLevel.IDEMPOTENT)
    with pytest.raises(StatusError):
        await clock.run(Retry()(Call(info), backend))
    assert backend.attempts == [1]


async def test_a_status_of_a_later_attempt_is_the_answer(clock: FakeClock) -> None:
    backend = Backend(refused(), StatusError(StatusCode.NOT_FOUND, "no such thing"))
    with pytest.raises(StatusError, match="no such thing"):
        await clock.run(Retry()(Call(INFO), backend))
    assert backend.attempts == [1, 2]


async def test_the_deadline_bounds_all_attempts_and_pauses(clock: FakeClock) -> None:
    retry, backend = Retry(), Backend(refused())
    begin = clock.time()
    with pytest.raises(StatusError) as error:
        await clock.run(Deadlines()(Call(INFO, deadline=begin + 2), lambda call: retry(call, backend)))
    assert error.value.code is StatusCode.DEADLINE_EXCEEDED
    assert clock.time() == pytest.approx(begin + 2)
    assert 5 < len(backend.attempts) < 100


async def test_without_a_deadline_a_refused_call_is_offered_for_some_seconds(clock: FakeClock) -> None:
    begin = clock.time()
    with pytest.raises(Refusal):
        await clock.run(Retry()(Call(INFO), Backend(refused())))
    assert MAX_REFUSED_SECONDS <= clock.time() - begin < MAX_REFUSED_SECONDS + 1


async def test_a_cancelled_call_is_not_sent_again(clock: FakeClock) -> None:
    backend, call = Backend(refused()), Call(INFO)
    task = asyncio.create_task(Retry()(call, backend))
    await clock.advance(0.5)
    call.cancel()
    await clock.advance(0)
    with pytest.raises(StatusError) as error:
        await task
    assert error.value.code is StatusCode.CANCELLED
    sent = len(backend.attempts)
    await clock.advance(10)
    assert len(backend.attempts) == sent


async def test_a_cancelled_task_is_not_held_up(clock: FakeClock) -> None:
    backend = Backend(refused())
    task = asyncio.create_task(Retry()(Call(INFO), backend))
    await clock.advance(0.5)
    task.cancel()
    await clock.advance(0)
    assert task.cancelled()


async def test_the_budget_of_a_channel_bounds_repetitions(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_module, "BUDGET_LIMIT", 10.0)
    monkeypatch.setattr(retry_module, "BUDGET_RATIO", 0.5)
    retry, backend = Retry(), Backend(refused())
    for _ in range(5):
        with pytest.raises(Refusal):
            await clock.run(retry(Call(INFO), backend))
    # Ten were saved up; then each call earns half a repetition.
    assert 5 + 10 <= len(backend.attempts) <= 5 + 10 + 5
    backend.outcomes = [None]
    for _ in range(50):
        await clock.run(retry(Call(INFO), backend))
    before = len(backend.attempts)
    backend.outcomes = [refused(), refused(), None]
    await clock.run(retry(Call(INFO), backend))
    assert len(backend.attempts) == before + 3


async def test_a_stream_that_has_begun_is_never_sent_again() -> None:
    class Begun(Backend):
        async def __call__(self, call: Call) -> None:
            call.stream = object()  # type: ignore[assignment]  # a back-end has accepted
            await super().__call__(call)

    backend = Begun(StatusError(StatusCode.UNAVAILABLE, "the back-end died"))
    info = MethodInfo("test.v1.Test", "Do", server_streaming=True, idempotency=IdempotencyLevel.IDEMPOTENT)
    with pytest.raises(StatusError):
        await Retry()(Call(info), backend)
    assert backend.attempts == [1]
