"""Jobs that are accepted, done, reported on; requests that are the same; handlers of all kinds."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2 as pb
from grpc import aio

import rpc
from rpc.jobs.caller import IDEMPOTENCY_KEY
from rpc.transport.stream import HEADER_ROOM
from tests.jobs.conftest import World
from tests.jobs.lab import lab
from tests.waiting import until


async def test_accepted_without_a_worker_and_done_by_one_that_comes_later(world: World) -> None:
    operation = await world.stub.Work(lab.request("a"))
    assert operation.name.startswith("operations/lab.v1.Lab/Work/")
    assert not operation.done
    queued = await world.get(operation)
    assert (queued.name, queued.done) == (operation.name, False)
    worker = lab.worker()
    await world.serve(worker)
    assert await world.done(operation) == lab.pb.WorkResponse(done="a", attempt=1)
    assert worker.attempts == [("a", 1, operation.name.rpartition("/")[2])]
    await until(lambda: _is_empty(world))


async def _is_empty(world: World) -> bool:
    return await world.queued() == 0


async def test_what_the_handler_sees(world: World) -> None:
    seen: dict[str, Any] = {}

    async def look(_request: Any, context: Any) -> None:
        assert isinstance(context, rpc.JobContext)
        seen.update(
            operation=context.operation,
            id=context.job_id,
            metadata=dict(context.invocation_metadata()),
            left=context.time_remaining(),
            connection=rpc.current_connection().is_connected,
        )

    await world.serve(lab.worker(look=look))
    operation = await world.stub.Work(lab.request("look"), metadata=(("a-key", "a value"), ("b-bin", b"\x00\x01")))
    await world.done(operation)
    assert seen["operation"] == operation.name == f"operations/lab.v1.Lab/Work/{seen['id']}"
    assert (seen["metadata"]["a-key"], seen["metadata"]["b-bin"]) == ("a value", b"\x00\x01")
    assert (seen["left"], seen["connection"]) == (None, True)


async def test_progress_is_seen_while_it_runs_and_stays(world: World) -> None:
    go_on = asyncio.Event()

    async def slow(_request: Any, context: Any) -> None:
        for percent in (10, 20, 30):  # faster than they are written: the last one counts
            await context.report(lab.pb.Progress(percent=percent))
        await go_on.wait()

    await world.serve(lab.worker(slow=slow))
    operation = await world.stub.Work(lab.request("slow"))

    async def percent() -> int:
        progress = lab.pb.Progress()
        (await world.get(operation)).metadata.Unpack(progress)
        return int(progress.percent)

    await until(lambda: _equals(percent(), 30))
    go_on.set()
    await world.done(operation)
    assert await percent() == 30


async def _equals(value: Any, expected: Any) -> bool:
    return bool(await value == expected)


async def test_progress_that_is_too_large_is_the_handlers_error(world: World) -> None:
    errors = []

    async def chatty(_request: Any, context: Any) -> None:
        try:
            await context.report(lab.pb.Progress(data=bytes(1024 * 1024)))
        except ValueError as error:
            errors.append(str(error))

    await world.serve(lab.worker(chatty=chatty))
    operation = await world.stub.Work(lab.request("chatty"))
    await world.done(operation)
    assert "progress" in errors[0]
    assert not (await world.get(operation)).HasField("metadata")


async def test_plain_functions_run_on_threads(world: World) -> None:
    class Worker(lab.grpc.LabServicer):
        def Work(self, request: Any, context: Any) -> Any:
            context.report(lab.pb.Progress(percent=7))
            if request.what == "later" and context.attempt == 1:
                context.retry_later(0.01, "not yet")
            if request.what == "bad":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "never")
            return lab.pb.WorkResponse(done=context.operation, attempt=context.attempt)

    with ThreadPoolExecutor(2) as pool:
        await world.serve(Worker(), migration_thread_pool=pool)
        operation = await world.stub.Work(lab.request("later"))
        response = await world.done(operation)
        assert (response.done, response.attempt) == (operation.name, 2)
        error = await world.failed(await world.stub.Work(lab.request("bad")))
        assert (error.code, error.message) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "never")
        await world.servers.pop().stop(1)


async def test_interceptors_see_jobs(world: World) -> None:
    seen = []

    class Interceptor(aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
            seen.append(details.method)
            return await continuation(details)

    await world.serve(lab.worker(), interceptors=[Interceptor()])
    await world.done(await world.stub.Work(lab.request("a")))
    assert seen == ["/lab.v1.Lab/Work"]


async def test_a_result_of_another_type_is_an_error(world: World) -> None:
    async def wrong(_request: Any, _context: Any) -> Any:
        return lab.pb.Progress(percent=1)

    await world.serve(lab.worker(wrong=wrong))
    error = await world.failed(await world.stub.Hasty(lab.request("wrong")))
    assert error.code != 0
    (letter,) = await world.dead_letters()
    assert letter.headers["natsmesh-error-code"] in {"UNKNOWN", "INTERNAL"}


async def test_methods_that_are_no_jobs_are_served_as_ever(world: World) -> None:
    await world.serve(lab.worker())
    assert await world.stub.Price(lab.request("x")) == lab.pb.WorkResponse(done="x")


async def test_two_servers_on_one_connection(world: World) -> None:
    first, second = lab.worker(), lab.worker()
    servers = [await world.serve(worker, world.connection) for worker in (first, second)]
    operations = [await world.stub.Work(lab.request(str(number))) for number in range(40)]
    for operation in operations:
        await world.done(operation)
    assert sorted(int(what) for what, *_ in first.attempts + second.attempts) == list(range(40))
    await servers[0].stop(1)
    assert world.connection.is_connected
    await world.done(await world.stub.Work(lab.request("last")))
    assert second.attempts[-1][0] == "last"


async def test_a_prefix_separates(world: World) -> None:
    worker = lab.worker()
    await world.serve(worker)
    other = World(world.url)
    await other.start()
    operation = await other.stub.Work(lab.request("other"))
    await world.done(await world.stub.Work(lab.request("own")))
    assert [what for what, *_ in worker.attempts] == ["own"]
    with pytest.raises(aio.AioRpcError, match="there is no operation"):
        await world.get(operation)
    assert not (await other.get(operation)).done
    await other.close()


async def test_so_many_at_once_and_no_more(world: World) -> None:
    go_on = asyncio.Event()

    async def wait(_request: Any, _context: Any) -> None:
        await go_on.wait()

    one, four = lab.worker(wait=wait), lab.worker(wait=wait)
    operations = [await world.stub.Many(lab.request("wait")) for _ in range(8)]
    operations += [await world.stub.Work(lab.request("wait")) for _ in range(3)]

    class Worker(lab.grpc.LabServicer):
        Work, Many, Hasty = one.Work, four.Many, four.Hasty

    await world.serve(Worker())
    await until(lambda: four.running == 4 and one.running == 1)
    # What does not run is left to others.
    assert (await world.unsettled("Many"), await world.unsettled("Work")) == (4, 1)
    go_on.set()
    for operation in operations:
        await world.done(operation)
    assert (four.most, one.most) == (4, 1)


async def test_short_jobs_do_not_wait_behind_a_long_one_while_somebody_is_idle(world: World) -> None:
    """A worker fetches short ones ahead; when a long one comes it gives them back, and that is no attempt."""
    go_on = asyncio.Event()

    async def wait(_request: Any, _context: Any) -> None:
        await go_on.wait()

    first = lab.worker(wait=wait)
    await world.serve(first)
    for _ in range(50):  # it learns that they are short
        await world.stub.Work(lab.request("short"))
    await until(lambda: len(first.attempts) == 50)
    long = await world.stub.Work(lab.request("wait"))
    short = [await world.stub.Work(lab.request("short")) for _ in range(10)]

    async def are_fetched() -> bool:
        return await world.unsettled() == 11

    await until(are_fetched)
    second = lab.worker()
    await world.serve(second)
    for operation in short:
        assert (await world.done(operation)).attempt == 1
    assert (len(second.attempts), first.running) == (10, 1)
    go_on.set()
    await world.done(long)


# ------------------------------------------------------------------------------------------------ requests twice


async def test_a_request_id_is_enqueued_once(world: World) -> None:
    worker = lab.worker()
    first = await world.stub.Work(lab.request("a", request_id="r1"))
    assert (await world.stub.Work(lab.request("a", request_id="r1"))).name == first.name
    await world.serve(worker)
    await world.done(first)
    again = await world.stub.Work(lab.request("a", request_id="r1"))
    assert (again.name, again.done) == (first.name, True)
    assert again.response == (await world.get(first)).response
    assert len(worker.attempts) == 1
    other = await world.stub.Work(lab.request("a", request_id="r2"))
    assert other.name != first.name
    # The same id for another method is another request.
    assert (await world.stub.Many(lab.request("a", request_id="r1"))).name != first.name


async def test_a_request_id_whose_operation_was_deleted_just_now(world: World) -> None:
    await world.serve(lab.worker())
    operation = await world.stub.Work(lab.request("a", request_id="r1"))
    await world.done(operation)
    await world.operations.DeleteOperation(pb.DeleteOperationRequest(name=operation.name))
    with pytest.raises(aio.AioRpcError, match="was deleted") as failure:
        await world.stub.Work(lab.request("a", request_id="r1"))
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_an_idempotency_key_is_a_request_id(world: World) -> None:
    key = ((IDEMPOTENCY_KEY, "k1"),)
    first = await world.stub.Work(lab.request("a"), metadata=key)
    assert (await world.stub.Work(lab.request("b"), metadata=key)).name == first.name
    # What the request says itself comes first.
    own = await world.stub.Work(lab.request("a", request_id="own"), metadata=key)
    assert own.name != first.name
    assert await world.queued() == 2


async def test_the_same_request_from_everywhere_at_once(world: World) -> None:
    worker = lab.worker()
    await world.serve(worker)
    async with rpc.Channel(world.url, prefix=world.prefix) as other:
        stubs = [world.stub, lab.grpc.LabStub(other)] * 10
        operations = await asyncio.gather(*(stub.Work(lab.request("a", request_id="same")) for stub in stubs))
    assert len({operation.name for operation in operations}) == 1
    await world.done(operations[0])
    await until(lambda: _is_empty(world))
    assert len(worker.attempts) == 1


@pytest.mark.parametrize("length", [256, 257])
async def test_the_length_of_a_request_id(world: World, length: int) -> None:
    request = lab.request("a", request_id="x" * length)
    if length == 256:
        await world.stub.Work(request)
    else:
        with pytest.raises(aio.AioRpcError, match="256 characters") as failure:
            await world.stub.Work(request)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# ---------------------------------------------------------------------------------------------------- what is large


async def test_a_request_that_is_too_large(world: World) -> None:
    await world.connection.flush()
    with pytest.raises(aio.AioRpcError, match="put what is large into an object store") as failure:
        await world.stub.Work(lab.request("a", data=bytes(world.connection.max_payload)))
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_response_that_is_too_large_is_a_dead_letter(world: World) -> None:
    async def large(_request: Any, _context: Any) -> Any:
        return lab.pb.WorkResponse(data=bytes(world.connection.max_payload))

    await world.serve(lab.worker(large=large))
    error = await world.failed(await world.stub.Work(lab.request("large")))
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert "the response cannot be kept" in error.message
    assert len(await world.dead_letters()) == 1


async def test_the_largest_request_that_is_taken_can_become_a_dead_letter(world: World) -> None:
    """With the largest metadata, and the longest error."""

    async def bad(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "é" * 100_000)

    await world.serve(lab.worker(bad=bad))
    metadata = tuple((f"key-{number}", "v" * 1000) for number in range(15))
    size = world.connection.max_payload - HEADER_ROOM - 16
    operation = await world.stub.Work(lab.request("bad", data=bytes(size)), metadata=metadata)
    started = time.monotonic()
    error = await world.failed(operation)
    assert time.monotonic() - started < 5
    assert error.message.startswith("ééé")
    (letter,) = await world.dead_letters()
    assert letter.headers["natsmesh-error-message"].startswith("ééé")
