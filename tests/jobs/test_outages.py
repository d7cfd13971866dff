"""Workers that are killed or stopped, brokers that restart, JetStream that is not there: no job is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from rpc.embedded import Broker
from rpc.jetstream.streams import ensure_stream
from tests.jobs.conftest import World, opened
from tests.jobs.lab import lab
from tests.waiting import until

ROOT = Path(__file__).parents[2]


class Processes:
    """Workers as processes, and their common journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = ""
        self.running: list[subprocess.Popen[bytes]] = []

    async def start(self, world: World) -> subprocess.Popen[bytes]:
        self.prefix = world.prefix
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.lab_process", world.url, world.prefix, str(self.folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"},
        )
        self.running.append(process)
        await until(lambda: [process.pid, "ready"] in self.journal() or process.poll() is not None)
        return process

    def journal(self) -> list[list[Any]]:
        """Lines: process id, what, request id, attempt."""
        file = self.folder / f"journal-{self.prefix}"
        lines = file.read_text().splitlines() if file.exists() else []
        return [[int(pid), *rest] for pid, *rest in map(str.split, lines)]

    def begun(self, request_id: str) -> list[tuple[int, int]]:
        """Process id and attempt of each begin."""
        return [(line[0], int(line[3])) for line in self.journal() if line[1:3] == ["begun", request_id]]

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture
def processes(lab_code: Path) -> Iterator[Processes]:
    processes = Processes(lab_code)
    yield processes
    processes.close()


async def test_a_worker_is_killed_and_another_takes_over(world: World, processes: Processes) -> None:
    first = await processes.start(world)
    operation = await world.stub.Work(lab.request("hang", request_id="h"))
    await until(lambda: _in_state(world, operation, "RUNNING"))
    second = await processes.start(world)
    first.kill()
    response = await world.done(operation)
    assert response.attempt == 2
    assert processes.begun("h") == [(first.pid, 1), (second.pid, 2)]
    (attempt,) = (await world.record(operation)).history
    assert (attempt.number, attempt.error.code) == (1, grpc.StatusCode.UNAVAILABLE.value[0])
    assert "died or fell silent" in attempt.error.message
    assert attempt.worker


async def _in_state(world: World, operation: Any, state: str) -> bool:
    return await world.state(operation) == state


async def test_a_job_that_kills_its_workers_ends_in_the_dead_letters(world: World, processes: Processes) -> None:
    async def keep_one_running() -> None:
        while True:
            process = await processes.start(world)
            while process.poll() is None:
                await asyncio.sleep(0.01)

    operation = await world.stub.Work(lab.request("die", request_id="e"))
    keeping = asyncio.create_task(keep_one_running())
    error = await world.failed(await _patiently(world, operation))
    keeping.cancel()
    assert error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert "died or fell silent" in error.message
    assert [attempt for _, attempt in processes.begun("e")] == [1, 2, 3, 4]
    (letter,) = await world.dead_letters()
    assert letter.headers["natsmesh-attempts"] == "4"
    assert [each.number for each in (await world.record(operation)).history] == [1, 2, 3, 4]


async def _patiently(world: World, operation: Any) -> Any:
    await world.wait(operation, 20)
    return operation


async def test_a_long_handler_runs_once(world: World) -> None:
    """Longer than ``ack_wait``, a second: its worker gives signs of life."""

    async def slow(_request: Any, _context: Any) -> None:
        await asyncio.sleep(2.3)

    first, second = lab.worker(slow=slow), lab.worker(slow=slow)
    await world.serve(first)
    await world.serve(second)
    assert (await world.done(await world.stub.Work(lab.request("slow")))).attempt == 1
    assert len(first.attempts) + len(second.attempts) == 1


async def test_a_stop_gives_back_what_it_does_not_finish(world: World) -> None:
    """And that is no attempt; what was fetched ahead goes back, too."""

    async def slow(_request: Any, _context: Any) -> None:
        await asyncio.sleep(3600)

    first = lab.worker(slow=slow)
    server = await world.serve(first)
    for _ in range(30):  # it learns that they are short, and fetches ahead
        await world.stub.Work(lab.request("short"))
    await until(lambda: len(first.attempts) == 30)
    running = await world.stub.Work(lab.request("slow"))
    waiting = [await world.stub.Work(lab.request("fetched")) for _ in range(5)]
    await until(lambda: first.running)
    started = time.monotonic()
    await server.stop(0.2)
    assert time.monotonic() - started < 2
    assert await world.queued() == 6
    assert await world.state(running) == "QUEUED"
    second = lab.worker()
    await world.serve(second)
    for operation in (running, *waiting):
        assert (await world.done(operation)).attempt == 1
    assert await world.queued() == 0


async def test_a_stop_lets_the_last_one_end(world: World) -> None:
    async def slow(_request: Any, _context: Any) -> None:
        await asyncio.sleep(0.3)

    worker = lab.worker(slow=slow)
    server = await world.serve(worker)
    operation = await world.stub.Work(lab.request("slow"))
    await until(lambda: worker.running)
    await server.stop(5)
    assert (await world.get(operation)).done
    assert await world.queued() == 0


async def test_workers_come_and_go_and_nothing_is_lost(world: World) -> None:
    """Stopped in the middle, again and again: each job is done once, at its first attempt."""

    async def short(_request: Any, _context: Any) -> None:
        await asyncio.sleep(0.005)

    workers = [lab.worker(**{str(number): short for number in range(300)}) for _ in range(6)]
    operations = [await world.stub.Many(lab.request(str(number))) for number in range(300)]
    for worker in workers:
        server = await world.serve(worker)
        await until(lambda worker=worker: len(worker.attempts) >= 20)
        await server.stop(5)
    await world.serve(lab.worker())
    for operation in operations:
        assert (await world.done(operation)).attempt == 1
    numbers = [what for worker in workers for what, *_ in worker.attempts]
    assert len(numbers) == len(set(numbers))


# --------------------------------------------------------------------------------------------------------- brokers


async def test_operations_survive_a_broker_that_is_killed(lab_code: Path, tmp_path: Path) -> None:
    with Broker(port=0, store_dir=tmp_path) as broker:
        async with opened(broker.url) as world:
            finish = asyncio.Event()

            async def slow(_request: Any, context: Any) -> None:
                await context.report(lab.pb.Progress(percent=50))
                await finish.wait()

            worker = lab.worker(slow=slow)
            await world.serve(worker)
            done = await world.stub.Work(lab.request("done"))
            await world.done(done)
            running = await world.stub.Work(lab.request("slow"))
            waiting = await world.stub.Work(lab.request("waiting"))
            await until(lambda: worker.running)
            await asyncio.to_thread(broker.kill)
            finish.set()  # its end cannot be written down now
            with pytest.raises(aio.AioRpcError) as failure:
                await world.operations.GetOperation(_named(done), timeout=1)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
            await asyncio.to_thread(broker.start)
            await world.connection.wait_connected()
            await world.channel.channel_ready()
            assert (await world.get(done)).done
            for operation in (running, waiting):
                await world.done(operation)
            assert [what for what, *_ in worker.attempts if what != "slow"] == ["done", "waiting"]
            await world.done(await world.stub.Work(lab.request("next")))


def _named(operation: Any) -> Any:
    from google.longrunning import operations_pb2

    return operations_pb2.GetOperationRequest(name=operation.name)


async def test_a_stop_while_the_broker_is_away(lab_code: Path, tmp_path: Path) -> None:
    """It comes to its end, and the job is there when the broker is."""
    with Broker(port=0, store_dir=tmp_path) as broker:
        async with opened(broker.url) as world:

            async def slow(_request: Any, _context: Any) -> None:
                await asyncio.sleep(3600)

            worker = lab.worker(slow=slow)
            server = await world.serve(worker)
            operation = await world.stub.Work(lab.request("slow"))
            await until(lambda: worker.running)
            await asyncio.to_thread(broker.kill)
            started = time.monotonic()
            await server.stop(0)
            assert time.monotonic() - started < 10
            await asyncio.to_thread(broker.start)
            await world.channel.channel_ready()
            await world.connection.wait_connected()
            await world.serve(lab.worker())
            await world.done(operation)


async def test_without_jetstream(lab_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Broker(port=0, config="jetstream: disabled") as broker:
        async with opened(broker.url) as world:
            monkeypatch.setitem(ensure_stream.__kwdefaults__, "timeout", 0.5)  # 10 s
            with pytest.raises(ConnectionError, match=r"JetStream is off .*`natsmesh broker`"):
                await world.serve(lab.worker())
            for call in (
                world.stub.Work(lab.request("a"), timeout=0.5),
                world.operations.GetOperation(_named(_Named("operations/lab.v1.Lab/Work/x")), timeout=0.5),
            ):
                with pytest.raises(aio.AioRpcError, match="JetStream") as failure:
                    await call
                assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


async def test_a_server_that_cannot_start_takes_no_jobs(world: World) -> None:
    """The first of its jobs could be served, the second could not: no handler runs, nothing goes on."""
    await world.stub.Work(lab.request("a"))
    operation = await world.stub.Many(lab.request("a"))
    stream = world.subjects.jetstream("JOBS", "lab.v1.Lab")
    config = {
        "name": "Many",
        "durable_name": "Many",
        "ack_policy": "explicit",
        "headers_only": True,
        "filter_subject": world.subjects.jobs_of("lab.v1.Lab", "Many"),
    }
    body = {"stream_name": stream, "config": config, "action": "create"}
    await world.js.request(f"CONSUMER.CREATE.{stream}.Many", body)
    worker = lab.worker()
    server = world.server(worker, world.connection)
    with pytest.raises(Exception, match="headers without their messages"):
        await server.start()
    later = [await world.stub.Work(lab.request("b")) for _ in range(3)]
    await world.connection.flush()
    await asyncio.sleep(0.1)
    begun = len(worker.attempts)
    assert begun <= 1
    assert {await world.state(each) for each in (*later, operation)} <= {"", "QUEUED"}
    assert await world.unsettled() == 0
