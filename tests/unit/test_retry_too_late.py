"""A caller whose deadline ends the repeating of a call learns why it was repeated."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from rpc import Call, IdempotencyLevel, MethodInfo, Refusal, StatusCode, StatusError
from rpc.policy.retry import Retry
from rpc.testing import FakeClock


@pytest.fixture
async def clock() -> AsyncIterator[FakeClock]:
    async with FakeClock() as clock:
        yield clock


REFUSED = Refusal("the back-end is busy", "queue-full")
FAILED = StatusError(StatusCode.UNAVAILABLE, "it died")


@pytest.mark.parametrize(
    ("outcomes", "level", "told"),
    [
        ([REFUSED], IdempotencyLevel.UNKNOWN, r"too late \(refused \d+ times: the back-end is busy\)"),
        ([REFUSED, None], IdempotencyLevel.UNKNOWN, r"too late \(refused once: the back-end is busy\)"),
        ([FAILED, REFUSED], IdempotencyLevel.IDEMPOTENT, r"too late \(refused \d+ times: the back-end is busy\)"),
        ([FAILED, None], IdempotencyLevel.IDEMPOTENT, r"too late \(failed once: it died\)"),
        ([None], IdempotencyLevel.UNKNOWN, r"too late"),
    ],
)
async def test_the_details_say_it(
    clock: FakeClock, outcomes: list[StatusError | None], level: IdempotencyLevel, told: str
) -> None:
    """The outcomes of the attempts, the last one again and again; None is an attempt that takes too long."""

    async def attempt(call: Call) -> None:
        outcome = outcomes[min(call.attempt, len(outcomes)) - 1]
        if outcome is not None:
            raise outcome
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        call.on_cancel(over.set_exception)
        await over

    call = Call(MethodInfo("test.v1.Test", "Do", idempotency=level))
    asyncio.get_running_loop().call_later(1.0, call.cancel, StatusCode.DEADLINE_EXCEEDED, "too late")
    with pytest.raises(StatusError) as error:
        await clock.run(Retry()(call, attempt))
    assert error.value.code is StatusCode.DEADLINE_EXCEEDED
    assert re.fullmatch(told, error.value.details)


async def test_a_cancellation_is_nothing_but_one(clock: FakeClock) -> None:
    async def refuse(call: Call) -> None:
        raise REFUSED

    call = Call(MethodInfo("test.v1.Test", "Do"))
    asyncio.get_running_loop().call_later(1.0, call.cancel)
    with pytest.raises(StatusError) as error:
        await clock.run(Retry()(call, refuse))
    assert (error.value.code, error.value.details) == (StatusCode.CANCELLED, "the caller cancelled the call")
