"""What is delivered twice, or to two at once; and queues that somebody removes: jobs end once, and go on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from rpc.jobs import worker as job_worker
from tests.jobs.conftest import World
from tests.jobs.lab import lab
from tests.jobs.test_outages import Processes
from tests.waiting import until


@pytest.fixture
def processes(lab_code: Path) -> Iterator[Processes]:
    processes = Processes(lab_code)
    yield processes
    processes.close()


async def test_a_worker_that_fell_silent_and_comes_back(world: World, processes: Processes) -> None:
    """It finds that another one has done its job, and its handler is cancelled; what the other one said stays."""
    first = await processes.start(world)
    operation = await world.stub.Work(lab.request("report", request_id="s"))
    await until(lambda: processes.begun("s"))
    first.send_signal(signal.SIGSTOP)
    second = await processes.start(world)
    assert (await world.done(operation)).attempt == 2
    first.send_signal(signal.SIGCONT)
    await until(lambda: [first.pid, "cancelled", "s", "1"] in processes.journal())
    await world.done(await world.stub.Work(lab.request("a")))
    await until(lambda: _is_empty(world))
    assert processes.begun("s") == [(first.pid, 1), (second.pid, 2)]
    assert (await world.done(operation)).attempt == 2
    assert await world.dead_letters() == []


async def _is_empty(world: World) -> bool:
    return await world.queued() == 0


async def test_the_word_of_a_done_job_gets_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is delivered again, and not done again."""
    settle, lost = job_worker.settle, []

    async def lose(connection: Any, message: Any) -> None:
        if not lost:
            lost.append(message)
        else:
            await settle(connection, message)

    monkeypatch.setattr(job_worker, "settle", lose)
    worker = lab.worker()
    await world.serve(worker)
    operation = await world.stub.Work(lab.request("a"))
    await world.done(operation)
    await until(lambda: _is_empty(world))
    assert (len(lost), len(worker.attempts)) == (1, 1)


async def test_a_handler_that_will_not_be_cancelled(world: World) -> None:
    """Its job is cancelled nevertheless, and what it returns is of no account."""

    async def stubborn(_request: Any, _context: Any) -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return lab.pb.WorkResponse(done="all the same")

    worker = lab.worker(stubborn=stubborn)
    await world.serve(worker)
    operation = await world.stub.Work(lab.request("stubborn"))
    await until(lambda: worker.running)
    await world.cancel(operation)
    assert (await world.failed(operation)).code == 1
    await until(lambda: _is_empty(world))
    assert (await world.failed(operation)).code == 1
    await world.done(await world.stub.Work(lab.request("next")))


@pytest.mark.parametrize("what", ["STREAM.DELETE.{stream}", "CONSUMER.DELETE.{stream}.Work"])
async def test_a_queue_that_somebody_removes_is_made_anew(world: World, what: str) -> None:
    worker = lab.worker()
    await world.serve(worker)
    await world.done(await world.stub.Work(lab.request("a")))
    stream = world.subjects.jetstream("JOBS", "lab.v1.Lab")
    await world.js.request(what.format(stream=stream))

    async def accepted() -> Any:
        # nats-server 2.15.1 now and then swallows what is published while a stream of the same name is made anew.
        try:
            return await world.stub.Work(lab.request("b", request_id="b"), timeout=3)
        except aio.AioRpcError:
            return None

    await world.done(await until(accepted, 30))
    assert [what for what, *_ in worker.attempts] == ["a", "b"]


async def test_records_that_somebody_removes_are_written_anew(world: World) -> None:
    go_on = asyncio.Event()

    async def wait(_request: Any, context: Any) -> None:
        await context.report(lab.pb.Progress(percent=1))
        await go_on.wait()

    worker = lab.worker(wait=wait)
    await world.serve(worker)
    operation = await world.stub.Work(lab.request("wait"))
    await until(lambda: worker.running)
    await world.js.request(f"STREAM.DELETE.{world.records.stream}")
    go_on.set()

    async def is_done() -> bool:
        return bool((await world.get(operation)).done)

    await until(is_done, 30)
    await until(lambda: _is_empty(world))


async def test_a_request_that_cannot_be_read_is_a_dead_letter(world: World) -> None:
    """As anybody may publish one."""
    await world.stub.Work(lab.request("a"))
    subject = world.subjects.job("lab.v1.Lab", "Work", "made-by-hand")
    await world.js.publish(subject, b"\xff\xff no protobuf", {})
    worker = lab.worker()
    await world.serve(worker)

    async def letters() -> Any:
        return await world.dead_letters()

    (letter,) = await until(letters)
    assert (letter.data, letter.headers["natsmesh-error-code"]) == (b"\xff\xff no protobuf", "INVALID_ARGUMENT")
    assert len(worker.attempts) == 1
    await until(lambda: _is_empty(world))
