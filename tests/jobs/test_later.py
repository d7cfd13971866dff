"""Jobs that wait for their time, and jobs that the broker makes by a schedule."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from grpc import aio

import rpc
from rpc.jobs.caller import RUN_AT
from rpc.jobs.listing import Listing
from tests.jobs.conftest import World
from tests.jobs.lab import lab
from tests.waiting import until


def at(moment: datetime) -> tuple[tuple[str, str], ...]:
    return ((RUN_AT, moment.isoformat()),)


async def test_a_job_for_later_waits_for_its_time(world: World) -> None:
    times: list[float] = []

    async def note(_request: Any, context: Any) -> None:
        times.append(time.time())
        assert RUN_AT not in dict(context.invocation_metadata())

    worker = lab.worker(later=note)
    await world.serve(worker)
    due = datetime.now(UTC) + timedelta(seconds=1.2)
    operation = await world.stub.Work(lab.request("later"), metadata=at(due))
    now = await world.stub.Work(lab.request("now"))
    assert not (await world.get(operation)).done
    await world.done(now)
    response = await world.done(operation)
    assert (response.done, response.attempt) == ("later", 1)
    assert 0 <= times[0] - due.timestamp() < 2.5
    assert await world.queued() == 0


@pytest.mark.parametrize("moment", ["2001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
async def test_a_time_that_is_past_is_now(world: World, moment: str) -> None:
    await world.serve(lab.worker())
    await world.done(await world.stub.Work(lab.request("a"), metadata=((RUN_AT, moment),)))


@pytest.mark.parametrize(
    "moment",
    [
        "tomorrow",
        "",
        "2030-01-01T00:00:00",
        "2030-13-01T00:00:00Z",
        "9999-12-31T23:59:59-14:00",
        "2300-01-01T00:00:00Z",
    ],
)
async def test_times_that_are_refused(world: World, moment: str) -> None:
    with pytest.raises(aio.AioRpcError, match=RUN_AT) as failure:
        await world.stub.Work(lab.request("a"), metadata=((RUN_AT, moment),))
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_request_for_later_is_enqueued_once(world: World) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    first = await world.stub.Work(lab.request("a", request_id="r"), metadata=at(due))
    again = await world.stub.Work(lab.request("a", request_id="r"), metadata=at(due + timedelta(hours=1)))
    now = await world.stub.Work(lab.request("a", request_id="r"))
    assert first.name == again.name == now.name
    assert await world.queued() == 1


class Ticks:
    """Servers of ``Clock``, whose job is made once a second."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ids: list[str] = []
        self.channel = rpc.Channel(world.url, prefix=world.prefix)
        self.stub: Any = lab.grpc.ClockStub(self.channel)

    async def serve(self) -> rpc.Server:
        ids = self.ids

        class Clock(lab.grpc.ClockServicer):
            async def Tick(self, request: Any, context: Any) -> Any:
                ids.append(context.job_id)
                return lab.pb.WorkResponse(done=request.what, attempt=context.attempt)

        server = rpc.Server(self.world.url, prefix=self.world.prefix)
        lab.grpc.add_ClockServicer_to_server(Clock(), server)
        self.world.servers.append(server)
        await server.start()
        return server


@pytest.fixture
async def ticks(world: World) -> AsyncIterator[Ticks]:
    ticks = Ticks(world)
    yield ticks
    await ticks.channel.close()


async def test_a_schedule_makes_jobs(world: World, ticks: Ticks) -> None:
    started = time.time()
    await ticks.serve()
    await ticks.serve()  # a second worker is not a second schedule
    await until(lambda: len(ticks.ids) >= 3)
    assert time.time() - started > 1.5
    assert len(set(ticks.ids)) == len(ticks.ids)
    assert all(each.startswith("cron-") for each in ticks.ids)
    ended = await world.get(Named(ticks.ids[0]))
    assert ended.done
    assert ended.HasField("response")


class Named:
    """An operation of which only the name is known."""

    def __init__(self, job_id: str) -> None:
        self.name = f"operations/lab.v1.Clock/Tick/{job_id}"


async def test_jobs_of_a_schedule_wait_for_a_worker(world: World, ticks: Ticks) -> None:
    """And can be seen, and cancelled, like all others."""
    server = await ticks.serve()
    await until(lambda: ticks.ids)
    await server.stop(1)
    done = len(ticks.ids)

    async def waiting() -> list[Any]:
        jobs, _ = await _listing(world).page("operations/lab.v1.Clock", "state=QUEUED", 0, "")
        return jobs

    jobs = await until(waiting)
    await world.cancel(jobs[0])
    assert (await world.failed(jobs[0])).code == grpc.StatusCode.CANCELLED.value[0]
    await until(waiting)
    await ticks.serve()
    await until(lambda: len(ticks.ids) >= done + 2)
    assert jobs[0].name.rpartition("/")[2] not in ticks.ids


def _listing(world: World) -> Any:
    return Listing(world.js, world.subjects, world.records)


async def test_a_job_with_a_schedule_can_be_called_as_well(world: World, ticks: Ticks) -> None:
    await ticks.serve()
    operation = await ticks.stub.Tick(lab.request("by hand"))
    assert (await world.done(operation)).done == "by hand"
