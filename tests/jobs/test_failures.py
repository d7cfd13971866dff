"""Handlers that fail: what is tried again and when, what is not, and what the dead letters tell."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from mesh.v1 import job_pb2
from tests.jobs.conftest import World
from tests.jobs.lab import Act, lab
from tests.waiting import until

Code = grpc.StatusCode


def failing(code: grpc.StatusCode, details: str = "no", times: int = 1000) -> Act:
    """An act that fails so many times."""

    async def fail(_request: Any, context: Any) -> None:
        if context.attempt <= times:
            await context.abort(code, details)

    return fail


async def test_tried_again_later_and_later(world: World) -> None:
    operation = await world.stub.Work(lab.request("flaky"))
    versions, subscription = await world.history(operation)
    worker = lab.worker(flaky=failing(Code.UNAVAILABLE, "not yet", times=3))
    await world.serve(worker)
    assert (await world.done(operation)).attempt == 4
    await subscription.unsubscribe()
    waits = [
        (job.next_attempt_time.ToNanoseconds() - job.history[-1].end_time.ToNanoseconds()) / 1e9
        for job in versions
        if job.state == job_pb2.Job.STATE_RETRYING
    ]
    assert waits == pytest.approx([0.05, 0.1, 0.2], abs=0.005)
    starts = [job.start_time.ToNanoseconds() / 1e9 for job in versions]
    for (before, after), wait in zip(itertools.pairwise(starts), waits, strict=True):
        assert after - before >= wait
    record = await world.record(operation)
    assert [(each.number, each.error.code, each.error.message) for each in record.history] == [
        (number, 14, "not yet") for number in (1, 2, 3)
    ]
    assert {each.worker for each in record.history} == {world.servers[0].instance}
    assert not record.HasField("error")
    assert await world.dead_letters() == []


async def test_the_handler_says_when(world: World) -> None:
    async def later(_request: Any, context: Any) -> None:
        if context.attempt == 1:
            await context.retry_later(0.3, "the other side is busy")
        if context.attempt == 2:
            wait = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=100_000_000))
            status = status_pb2.Status(code=8, message="full")
            status.details.add().Pack(wait)
            await context.abort_with_status(rpc_status.to_status(status))

    operation = await world.stub.Work(lab.request("later"))
    versions, subscription = await world.history(operation)
    await world.serve(lab.worker(later=later))
    assert (await world.done(operation)).attempt == 3
    await subscription.unsubscribe()
    waiting = [job for job in versions if job.state == job_pb2.Job.STATE_RETRYING]
    waits = [
        (job.next_attempt_time.ToNanoseconds() - job.history[-1].end_time.ToNanoseconds()) / 1e9 for job in waiting
    ]
    assert waits == pytest.approx([0.3, 0.1], abs=0.005)
    assert [job.error.message for job in waiting] == ["the other side is busy", "full"]


@pytest.mark.parametrize(
    "code",
    [
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.UNIMPLEMENTED,
        Code.DATA_LOSS,
        Code.UNAUTHENTICATED,
        Code.CANCELLED,
    ],
)
async def test_what_cannot_get_better_is_a_dead_letter_at_once(world: World, code: grpc.StatusCode) -> None:
    worker = lab.worker(bad=failing(code, "line one\nünd zwei"))
    await world.serve(worker)
    request = lab.request("bad", data=b"\x00\xff")
    operation = await world.stub.Work(request, metadata=(("who", "me"), ("a-bin", b"\x01")))
    error = await world.failed(operation)
    assert (error.code, error.message) == (code.value[0], "line one\nünd zwei")
    assert len(worker.attempts) == 1
    (letter,) = await world.dead_letters()
    job_id = operation.name.rpartition("/")[2]
    assert letter.subject == f"{world.prefix}.dead.jobs.lab.v1.Lab.Work.{job_id}"
    assert lab.pb.WorkRequest.FromString(letter.data) == request
    own = {name: value for name, value in letter.headers.items() if name.startswith("natsmesh-")}
    assert own == {
        "natsmesh-error-code": code.name,
        "natsmesh-error-message": "line one ünd zwei",
        "natsmesh-attempts": "1",
        "natsmesh-subject": f"{world.prefix}.jobs.lab.v1.Lab.Work.{job_id}",
        "natsmesh-id": job_id,
    }
    assert (letter.headers["who"], letter.headers["a-bin"]) == ("me", "AQ==")
    assert (await world.record(operation)).state == job_pb2.Job.STATE_FAILED
    await until(lambda: _is_empty(world))


async def _is_empty(world: World) -> bool:
    return await world.queued() == 0


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.INTERNAL, Code.UNKNOWN])
async def test_the_last_attempt_is_a_dead_letter(world: World, code: grpc.StatusCode) -> None:
    worker = lab.worker(bad=failing(code, "still not"))
    await world.serve(worker)
    operation = await world.stub.Work(lab.request("bad"))
    error = await world.failed(operation)
    assert (error.code, error.message) == (code.value[0], "still not")
    assert [attempt for _, attempt, _ in worker.attempts] == [1, 2, 3, 4]
    (letter,) = await world.dead_letters()
    assert letter.headers["natsmesh-attempts"] == "4"
    assert [each.number for each in (await world.record(operation)).history] == [1, 2, 3, 4]


async def test_an_unexpected_exception_is_unknown_and_tried_again(world: World) -> None:
    async def broken(_request: Any, context: Any) -> None:
        if context.attempt == 1:
            raise KeyError("secret")

    await world.serve(lab.worker(broken=broken))
    operation = await world.stub.Work(lab.request("broken"))
    assert (await world.done(operation)).attempt == 2
    (attempt,) = (await world.record(operation)).history
    assert attempt.error.code == 2


async def test_rich_details_are_kept(world: World) -> None:
    async def rich(_request: Any, context: Any) -> None:
        status = status_pb2.Status(code=9, message="no")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="TIME_TRAVEL"))
        await context.abort_with_status(rpc_status.to_status(status))

    await world.serve(lab.worker(rich=rich))
    error = await world.failed(await world.stub.Work(lab.request("rich")))
    info = error_details_pb2.ErrorInfo()
    assert error.details[0].Unpack(info)
    assert (error.code, error.message, info.reason) == (9, "no", "TIME_TRAVEL")


async def test_a_timeout_ends_the_attempt(world: World) -> None:
    cancelled = []

    async def slow(_request: Any, _context: Any) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    worker = lab.worker(slow=slow)
    await world.serve(worker)
    error = await world.failed(await world.stub.Hasty(lab.request("slow")))
    assert error.code == Code.DEADLINE_EXCEEDED.value[0]
    assert ([attempt for _, attempt, _ in worker.attempts], len(cancelled)) == ([1, 2], 2)


async def test_a_job_that_waits_does_not_block_the_others(world: World) -> None:
    async def later(_request: Any, context: Any) -> None:
        await context.retry_later(3600)

    worker = lab.worker(later=later)
    waiting = [await world.stub.Work(lab.request("later")) for _ in range(20)]
    others = [await world.stub.Work(lab.request("now")) for _ in range(20)]
    await world.serve(worker)
    for operation in others:
        await world.done(operation)
    for operation in waiting:
        assert await world.state(operation) == "RETRYING"
    assert (await world.queued(), await world.unsettled()) == (20, 20)


async def test_the_outcome_ends_in_time(world: World) -> None:
    """``result_ttl``: a second here."""
    await world.serve(lab.worker())
    operation = await world.stub.Hasty(lab.request("a"))
    await world.done(operation)

    async def is_gone() -> bool:
        return await world.record(operation) is None

    await until(is_gone)


async def test_errors_of_any_length_are_kept(world: World) -> None:
    """Each is cut off; all together fit into one record."""
    await world.serve(lab.worker(bad=failing(Code.UNAVAILABLE, "x" * 9_000_000)))
    operation = await world.stub.Work(lab.request("bad"))
    error = await world.failed(operation)
    assert error.message == "x" * 2048
    assert len((await world.record(operation)).history) == 4
