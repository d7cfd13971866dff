"""What others put into the streams: it does no harm, and nobody sends it on."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from mesh.v1 import job_pb2
from rpc.durable.dead_letters import ensure_dead_letters
from rpc.durable.letters import DeadLetters
from tests.jobs.conftest import World
from tests.jobs.lab import lab
from tests.waiting import until


async def listed(world: World, **values: Any) -> list[str]:
    page = await world.operations.ListOperations(operations_pb2.ListOperationsRequest(**values))
    return [operation.name for operation in page.operations]


async def test_requests_that_nobody_asked_for(world: World) -> None:
    operation = await world.stub.Work(lab.request("a"))
    for odd in ("we!rd", "x" * 65, "ü"):
        await world.js.publish(f"{world.prefix}.jobs.lab.v1.Lab.Work.{odd}", b"", {})
    await world.js.publish(f"{world.prefix}.later.lab.v1.Lab.Work.we!rd", b"", {})
    assert await listed(world) == [operation.name]
    worker = lab.worker()
    await world.serve(worker)
    await world.done(operation)

    async def is_thrown_away() -> bool:
        return await world.queued() == 1  # the one for later is nobody's

    await until(is_thrown_away)
    assert [what for what, *_ in worker.attempts] == ["a"]
    assert await world.dead_letters() == []


@pytest.mark.parametrize("name", ["", "nonsense", "operations/a", "operations/a b/C/d", "operations/a.B/C/d/e"])
async def test_records_that_are_none(world: World, name: str) -> None:
    await world.records.ensure()
    job = job_pb2.Job(name=name, state=job_pb2.Job.STATE_SUCCEEDED)
    await world.js.publish(world.subjects.record("a.B", "C", "d"), job.SerializeToString(), {})
    await world.js.publish(world.subjects.record("a.B", "C", "e"), b"\xff\xff", {})
    for filter_ in ("", "service=a.B", "method=C", "done=true"):
        assert await listed(world, filter=filter_) == []


@pytest.mark.parametrize(
    "origin",
    [
        "$JS.API.STREAM.DELETE.KV_operations",
        "{prefix}.jobs.lab.v1.Lab.Work.other",
        "{prefix}.jobs.lab.v1.Other.Work.id",
        "other.jobs.lab.v1.Lab.Work.id",
        "{prefix}.jobs.lab.v1.Lab.Work.>",
        "",
    ],
)
async def test_a_dead_letter_that_wants_to_be_sent_elsewhere(world: World, origin: str) -> None:
    """Whoever retries it may be allowed to do more than whoever wrote it."""
    await ensure_dead_letters(world.js, world.subjects)
    headers = {"natsmesh-subject": origin.format(prefix=world.prefix)} if origin else {}
    for kind, name in (("jobs", "id"), ("events", "1")):
        await world.js.publish(world.subjects.dead_letter(kind, "lab.v1.Lab", "Work", name), b"{}", headers)
    letters = DeadLetters(world.js, world.subjects, world.records)
    assert [letter async for letter in letters.read()] == []
    assert await letters.find("jobs", "lab.v1.Lab", "Work", "id") is None


@pytest.mark.parametrize(
    ("origin", "is_good"),
    [
        ("events.lab.v1.Done", True),
        ("events.lab.v1.Moved.3", True),
        ("retry.lab_v1_Done.lab_v1_Shop.OnDone.0", True),
        ("retry.lab_v1_Done.lab_v1_Audit.OnDone.0", False),
        ("retry.lab_v1_Done.lab_v1_Shop.OnDone.*", False),
        ("events.*", False),
        ("events", False),
    ],
)
async def test_where_dead_events_may_go(world: World, origin: str, is_good: bool) -> None:
    await ensure_dead_letters(world.js, world.subjects)
    subject = world.subjects.dead_letter("events", "lab.v1.Shop", "OnDone", "1")
    await world.js.publish(subject, b"", {"natsmesh-subject": f"{world.prefix}.{origin}"})
    letters = DeadLetters(world.js, world.subjects, world.records)
    assert len([letter async for letter in letters.read()]) == is_good


async def test_a_delay_beyond_all_bounds(world: World) -> None:
    async def later(_request: Any, context: Any) -> None:
        status = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="not in this life")
        wait = duration_pb2.Duration(seconds=10**11)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=wait))
        await context.abort_with_status(rpc_status.to_status(status))

    await world.serve(lab.worker(later=later))
    operation = await world.stub.Work(lab.request("later"))

    async def is_retrying() -> bool:
        return await world.state(operation) == "RETRYING"

    await until(is_retrying)
    record = await world.record(operation)
    assert record.next_attempt_time.ToDatetime().year < 2100
    assert await listed(world, filter="state=RETRYING") == [operation.name]
