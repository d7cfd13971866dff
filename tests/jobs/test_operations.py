"""``google.longrunning.Operations``: Get, List, Wait, Cancel, Delete, and what is asked wrongly."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2 as pb
from google.protobuf import duration_pb2
from grpc import aio

from rpc.jobs.operations import Operations
from tests.jobs.conftest import World
from tests.jobs.lab import lab
from tests.waiting import until

Code = grpc.StatusCode


async def listed(world: World, name: str = "", filter: str = "", size: int = 0) -> tuple[list[Any], int]:  # noqa: A002
    """Return all operations, and how many pages they came in."""
    found: list[Any] = []
    token, pages = "", 0
    while True:
        request = pb.ListOperationsRequest(name=name, filter=filter, page_size=size, page_token=token)
        page = await world.operations.ListOperations(request)
        assert not size or len(page.operations) <= size
        found += page.operations
        token, pages = page.next_page_token, pages + 1
        if not token:
            return found, pages
        assert pages < 100


def whats(operations: list[Any]) -> list[str]:
    return [operation.name.split("/")[2] for operation in operations]


async def test_a_list_in_pages(world: World) -> None:
    assert await listed(world) == ([], 1)
    operations = [await world.stub.Work(lab.request("a")) for _ in range(5)]
    operations += [await world.stub.Many(lab.request("a")) for _ in range(3)]
    names = [operation.name for operation in operations]
    for size in (0, 1, 3, 8, 1000):
        found, _ = await listed(world, size=size)
        assert [operation.name for operation in found] == names
    found, pages = await listed(world, "operations/lab.v1.Lab/Many", size=2)
    assert (whats(found), pages <= 3) == (["Many"] * 3, True)
    assert (await listed(world, "operations/lab.v1.Lab/Wor"))[0] == []
    assert (await listed(world, "operations/lab.v1.La"))[0] == []
    await world.serve(lab.worker())
    for operation in operations:
        await world.done(operation)
    later = await world.stub.Work(lab.request("a"), metadata=(("natsmesh-run-at", "2030-01-01T00:00:00Z"),))
    found, _ = await listed(world, "operations/lab.v1.Lab", size=3)
    assert sorted(operation.name for operation in found) == sorted([*names, later.name])
    assert [operation.done for operation in found] == [False] + [True] * 8


async def test_filters(world: World) -> None:
    async def bad(_request: Any, context: Any) -> None:
        await context.abort(Code.INVALID_ARGUMENT, "never")

    async def later(_request: Any, context: Any) -> None:
        await context.retry_later(3600)

    ended = [await world.stub.Work(lab.request(what)) for what in ("good", "bad", "bad")]
    waiting = await world.stub.Work(lab.request("later"))
    await world.serve(lab.worker(bad=bad, later=later))
    for operation in ended:
        await world.wait(operation)
    await until(lambda: _in_state(world, waiting, "RETRYING"))
    for text, count in (
        ("done=true", 3),
        ("done = false", 1),
        ("done != true", 1),
        ("state=FAILED", 2),
        ("state = STATE_SUCCEEDED", 1),
        ('state="RETRYING"', 1),
        ("state=QUEUED", 0),
        ("done=true AND state!=FAILED", 1),
        ("service=lab.v1.Lab AND method=Work", 4),
        ("method=Other", 0),
        ("done=true AND done=false", 0),
        ("done=true AND state=RETRYING", 0),
        ("done=false AND state!=RETRYING", 0),
        ("state!=FAILED", 2),
    ):
        for size in (0, 1):
            assert len((await listed(world, filter=text, size=size))[0]) == count, text


async def _in_state(world: World, operation: Any, state: str) -> bool:
    return await world.state(operation) == state


async def test_a_token_of_a_queue_that_is_gone(world: World) -> None:
    operations = [await world.stub.Work(lab.request("a")) for _ in range(2)]
    for filter_ in ("", "done=false", "state=QUEUED"):
        request = pb.ListOperationsRequest(page_size=1, filter=filter_)
        page = await world.operations.ListOperations(request)
        assert [each.name for each in page.operations] == [operations[0].name]
        gone = base64.urlsafe_b64encode(b"zzz-JOBS-gone 7").decode()
        page = await world.operations.ListOperations(pb.ListOperationsRequest(filter=filter_, page_token=gone))
        assert (list(page.operations), page.next_page_token) == ([], "")


@pytest.mark.parametrize(
    "request_",
    [
        pb.ListOperationsRequest(filter="done"),
        pb.ListOperationsRequest(filter="done=maybe"),
        pb.ListOperationsRequest(filter="state=NOWHERE"),
        pb.ListOperationsRequest(filter="done=true OR done=false"),
        pb.ListOperationsRequest(filter="x" * 100_000),
        pb.ListOperationsRequest(page_size=-1),
        pb.ListOperationsRequest(page_token="???"),
        pb.ListOperationsRequest(page_token=base64.urlsafe_b64encode(b"STREAM nonsense").decode()),
        pb.ListOperationsRequest(name="things"),
        pb.ListOperationsRequest(name="operations/a b"),
        pb.ListOperationsRequest(name="operations/a.>"),
        pb.ListOperationsRequest(name="operations/a.B/*"),
        pb.ListOperationsRequest(name="operations/a.B/C/d/e"),
    ],
)
async def test_a_list_that_is_asked_wrongly(world: World, request_: Any) -> None:
    with pytest.raises(aio.AioRpcError) as failure:
        await world.operations.ListOperations(request_)
    assert failure.value.code() is Code.INVALID_ARGUMENT
    assert len(failure.value.details() or "") < 400


@pytest.mark.parametrize(
    "token", [b"KV_other 5", b"X -5", f"X {10**60}".encode(), b"JOBS-x 99999999999999999999999"], ids=repr
)
async def test_a_token_of_somebody_else_does_no_harm(world: World, token: bytes) -> None:
    operation = await world.stub.Work(lab.request("a"))
    request = pb.ListOperationsRequest(page_token=base64.urlsafe_b64encode(token).decode())
    page = await world.operations.ListOperations(request)
    assert [each.name for each in page.operations] in ([operation.name], [])


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("operations/lab.v1.Lab/Work/0123", Code.NOT_FOUND),
        ("operations/lab.v1.Lab/Work/cron-99999999999999999999999999999999", Code.NOT_FOUND),
        ("operations/lab.v1.Lab/Work/cron-1", Code.NOT_FOUND),
        ("operations/nowhere.v1.X/Y/z", Code.NOT_FOUND),
        ("", Code.INVALID_ARGUMENT),
        ("operations", Code.INVALID_ARGUMENT),
        ("operations/lab.v1.Lab/Work/*", Code.INVALID_ARGUMENT),
        ("operations/lab.v1.Lab/Work/a.b", Code.INVALID_ARGUMENT),
        ("operations/lab.v1.Lab/Work/a\r\nPUB x", Code.INVALID_ARGUMENT),
        ("operations/lab.v1.Lab/Work/" + "x" * 65, Code.INVALID_ARGUMENT),
        ("operations/lab.v1..Lab/Work/x", Code.INVALID_ARGUMENT),
        ("x" * 100_000, Code.INVALID_ARGUMENT),
    ],
)
async def test_names_of_nothing(world: World, name: str, code: grpc.StatusCode) -> None:
    await world.stub.Work(lab.request("a"))
    for call, kind in (
        (world.operations.GetOperation, pb.GetOperationRequest),
        (world.operations.WaitOperation, pb.WaitOperationRequest),
        (world.operations.CancelOperation, pb.CancelOperationRequest),
        (world.operations.DeleteOperation, pb.DeleteOperationRequest),
    ):
        with pytest.raises(aio.AioRpcError) as failure:
            await call(kind(name=name))
        assert failure.value.code() is code
        assert len(failure.value.details() or "") < 300


async def test_wait_returns_what_is_known_when_its_time_is_over(world: World) -> None:
    operation = await world.stub.Work(lab.request("a"))
    started = time.monotonic()
    assert not (await world.wait(operation, 0.2)).done
    assert 0.2 <= time.monotonic() - started < 2
    # The deadline of the call counts as well, and the answer comes before it.
    request = pb.WaitOperationRequest(name=operation.name, timeout=duration_pb2.Duration(seconds=3600))
    assert not (await world.operations.WaitOperation(request, timeout=0.5)).done
    with pytest.raises(asyncio.CancelledError):  # the caller hangs up
        await _cancelled(world.operations.WaitOperation(request))


async def _cancelled(call: Any) -> None:
    task = asyncio.ensure_future(_result(call))
    await asyncio.sleep(0.05)
    task.cancel()
    await task


async def _result(call: Any) -> Any:
    return await call


async def test_many_wait_and_hear_of_it_at_once(world: World) -> None:
    operation = await world.stub.Work(lab.request("a"))
    waiting = [asyncio.ensure_future(_result(world.wait(operation))) for _ in range(20)]
    await asyncio.sleep(0.05)
    await world.serve(lab.worker())
    started = time.monotonic()
    assert all(ended.done for ended in await asyncio.gather(*waiting))
    assert time.monotonic() - started < 2


# --------------------------------------------------------------------------------------------------------- cancel


async def test_cancelled_before_it_began(world: World) -> None:
    operation = await world.stub.Work(lab.request("a"))
    await world.cancel(operation)
    error = await world.failed(operation)
    assert error.code == Code.CANCELLED.value[0]
    assert await world.queued() == 0
    worker = lab.worker()
    await world.serve(worker)
    await world.done(await world.stub.Work(lab.request("b")))
    assert [what for what, *_ in worker.attempts] == ["b"]
    await world.cancel(operation)  # again: nothing to do
    assert (await world.get(operation)).error == error


async def test_cancelled_while_it_runs(world: World) -> None:
    ended = []

    async def slow(_request: Any, _context: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(True)
            raise

    worker = lab.worker(slow=slow)
    await world.serve(worker)
    operation = await world.stub.Work(lab.request("slow"))
    await until(lambda: worker.running)
    await world.cancel(operation)
    assert (await world.failed(operation)).code == Code.CANCELLED.value[0]
    await until(lambda: ended and not worker.running)
    assert await world.queued() == 0
    assert await world.dead_letters() == []
    await world.done(await world.stub.Work(lab.request("next")))
    assert len(worker.attempts) == 2


async def test_cancelled_while_it_waits_for_another_attempt(world: World) -> None:
    async def later(_request: Any, context: Any) -> None:
        await context.retry_later(0.3)

    worker = lab.worker(later=later)
    await world.serve(worker)
    operation = await world.stub.Work(lab.request("later"))
    await until(lambda: _in_state(world, operation, "RETRYING"))
    await world.cancel(operation)
    assert (await world.failed(operation)).code == Code.CANCELLED.value[0]
    assert (await world.queued(), await world.unsettled()) == (0, 0)
    assert len(worker.attempts) == 1


async def test_cancelled_before_its_time(world: World) -> None:
    operation = await world.stub.Work(lab.request("a"), metadata=(("natsmesh-run-at", "2030-01-01T00:00:00Z"),))
    await world.cancel(operation)
    assert (await world.failed(operation)).code == Code.CANCELLED.value[0]
    assert await world.queued() == 0


async def test_a_cancellation_that_failed_in_the_middle_is_done_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = await world.stub.Work(lab.request("a"), metadata=(("natsmesh-run-at", "2030-01-01T00:00:00Z"),))

    async def fail(_operations: Operations, _name: Any) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(Operations, "_remove_request", fail)
        with pytest.raises(aio.AioRpcError, match="gone"):
            await world.cancel(operation)
    assert await world.queued() == 1
    await world.cancel(operation)
    assert await world.queued() == 0
    assert (await world.failed(operation)).code == Code.CANCELLED.value[0]


async def test_cancelled_while_it_waits_in_a_worker(world: World) -> None:
    """Short jobs are fetched ahead: what is cancelled there does not run any more."""
    go_on = asyncio.Event()

    async def wait(_request: Any, _context: Any) -> None:
        await go_on.wait()

    worker = lab.worker(wait=wait)
    await world.serve(worker)
    for _ in range(50):  # it learns that they are short
        await world.stub.Work(lab.request("short"))
    await until(lambda: len(worker.attempts) == 50)
    blocking = await world.stub.Work(lab.request("wait"))
    operations = [await world.stub.Work(lab.request("fetched")) for _ in range(10)]

    async def are_fetched() -> bool:
        return await world.unsettled() == 11

    await until(are_fetched)
    for operation in operations[::2]:
        await world.cancel(operation)
    await world.connection.flush()
    go_on.set()
    for operation in (blocking, *operations[1::2]):
        await world.done(operation)
    assert [what for what, *_ in worker.attempts].count("fetched") == 5
    for operation in operations[::2]:
        assert (await world.failed(operation)).code == Code.CANCELLED.value[0]


# --------------------------------------------------------------------------------------------------------- delete


async def test_delete_is_for_what_has_ended(world: World) -> None:
    operation = await world.stub.Work(lab.request("a"))
    request = pb.DeleteOperationRequest(name=operation.name)
    with pytest.raises(aio.AioRpcError, match="cancel it first") as failure:
        await world.operations.DeleteOperation(request)
    assert failure.value.code() is Code.FAILED_PRECONDITION
    await world.serve(lab.worker())
    await world.done(operation)
    await world.operations.DeleteOperation(request)
    for call in (world.operations.DeleteOperation, world.operations.GetOperation):
        with pytest.raises(aio.AioRpcError, match="there is no operation"):
            await call(
                request if call is world.operations.DeleteOperation else pb.GetOperationRequest(name=operation.name)
            )
