"""What docs/durability.md says that accounts must allow is enough for our commands, and for the gateway's /metrics."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

import rpc
from natsmesh.jobs.reach import Reach
from rpc.embedded import Broker
from rpc.events.groups import event_types, replay
from rpc.jobs import metrics
from rpc.jobs.names import parse_name
from rpc.jobs.numbers import queues
from tests.jobs.lab import lab
from tests.waiting import until

DOCS = Path(__file__).parents[2] / "docs/durability.md"


def url(broker: Broker, user: str) -> str:
    return f"nats://{user}:secret@127.0.0.1:{broker.port}"


async def test_what_the_docs_allow_is_enough(lab_code: Path, tmp_path: Path) -> None:
    (config,) = re.findall(r"```text\n(authorization.*?)```", DOCS.read_text(), re.DOTALL)
    with (tmp_path / "log").open("wb") as log, Broker(port=0, config=config, output=log) as broker:
        await _work(broker)
    log_text = (tmp_path / "log").read_text()
    assert "Violation" not in log_text, log_text


async def _work(broker: Broker) -> None:
    async def bad(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "never")

    class Shop(lab.grpc.ShopServicer):
        async def OnDone(self, request: Any, context: Any) -> Any:
            await bad(request, context)

    server = rpc.Server(url(broker, "server"))
    lab.grpc.add_LabServicer_to_server(lab.worker(bad=bad), server)
    lab.grpc.add_ShopServicer_to_server(Shop(), server)
    await server.start()
    async with rpc.Channel(url(broker, "caller")) as channel, rpc.Publisher(url(broker, "caller")) as publisher:
        stub = lab.grpc.LabStub(channel)
        name = parse_name((await stub.Work(lab.request("bad"))).name)
        later = await stub.Work(lab.request("later"), metadata=(("natsmesh-run-at", "2030-01-01T00:00:00Z"),))
        await publisher.publish(lab.pb.Done(what="a"))
    caller, connection = await rpc.connect(url(broker, "caller")), await rpc.connect(url(broker, "operator"))
    reach = Reach(connection, "")
    await reach.js.start()

    async def are_dead() -> bool:
        return await reach.letters.count() == 2

    await until(are_dead)
    for letter in [letter async for letter in reach.letters.read()]:
        assert await reach.letters.revive(letter)
    await until(are_dead)
    assert (await reach.operations.wait(name, 5)).is_final
    assert (await reach.operations.cancel(parse_name(later.name))).is_final
    jobs, _ = await reach.operations.listing.page("", "", 0, "")
    assert len(jobs) == 2
    assert ("lab.v1.Lab", "Work") in await queues(reach.js, reach.subjects)
    (kind,) = [each for each in await event_types(reach.js, reach.subjects) if each.event == "lab.v1.Done"]
    (group,) = [each for each in kind.groups if each.method == "OnDone"]
    assert await replay(reach.js, kind, group, datetime(1970, 1, 1, tzinfo=UTC)) == 2
    assert await reach.schema("lab.v1.Lab") is not None
    assert await reach.schema("lab.v1.Shop") is not None
    assert await reach.letters.purge("lab.v1.Lab") == 1
    assert b"natsmesh_job_queue_jobs" in await rpc.QueueMetrics(caller).text()
    await server.stop(1)
    await reach.js.close()
    await connection.close()
    await caller.close()


async def test_who_may_not_ask_for_queues_is_not_held_up_again_and_again(
    lab_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "TIMEOUT", 0.2)
    permissions = '{publish: {deny: ["$JS.API.STREAM.LIST"]}}'
    config = f"authorization {{ users: [{{user: u, password: secret, permissions: {permissions}}}] }}"
    with Broker(port=0, config=config) as broker:
        connection = await rpc.connect(url(broker, "u"))
        queue_metrics = rpc.QueueMetrics(connection)
        started = time.monotonic()
        for _ in range(5):
            assert await queue_metrics.text() == b""
        assert time.monotonic() - started < 0.6
        await connection.close()
