"""The watcher of services, on a memory mesh and in fake time."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import rpc
from greeter.v1 import greeter_pb2_grpc
from rpc.discovery import watcher as watcher_module
from rpc.discovery.schema import digest_of
from rpc.testing import FakeClock, MemoryConnection, MemoryMesh
from rpc.transport.base import Message
from services.greeter import Greeter

SERVICE = "greeter.v1.Greeter"
SCHEMA_TIMEOUT = 2.0
"""Seconds that an answer with the right schema may take."""

ROUND = 5.0
ANSWERS = 0.5
"""Seconds after the question by which a round is over."""


@pytest.fixture
async def clock() -> AsyncIterator[FakeClock]:
    async with FakeClock() as clock:
        yield clock


class Watched:
    """A watcher, and all it told."""

    def __init__(self, connection: MemoryConnection) -> None:
        self.changes: list[rpc.ServiceView] = []
        self.watcher = rpc.ServiceWatcher(connection, self.changes.append, interval=ROUND)

    def __getitem__(self, service: str) -> rpc.ServiceView:
        return self.watcher.services[service]


@pytest.fixture
async def watched(clock: FakeClock, memory_mesh: MemoryMesh) -> AsyncIterator[Watched]:
    connection = memory_mesh.connection()
    await connection.connect()
    watched = Watched(connection)
    await watched.watcher.start()
    yield watched
    await watched.watcher.close()


async def serve(mesh: MemoryMesh, version: str = "1.0.0") -> rpc.Server:
    server = rpc.Server(mesh.connection(), version=version)
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    return server


class Foreigner:
    """An instance made of nothing but messages."""

    def __init__(self, connection: MemoryConnection) -> None:
        self.connection = connection
        self.answers: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self.connection.connect()
        await self.connection.subscribe("$SRV.INFO", self._answer)

    def _answer(self, message: Message) -> None:
        async def answer() -> None:
            for reply in self.answers:
                await self.connection.publish(message.reply, json.dumps(reply).encode())

        self._tasks.add(asyncio.create_task(answer()))

    async def announce(self, event: str, reply: Any) -> None:
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        await self.connection.publish(f"mesh.announce.{event}", data)

    async def lives(self, instance: str) -> None:
        await self.connection.subscribe(f"inst.{instance}.>", lambda message: None)

    async def serves(self, digest: str, respond: Callable[[str], bytes | None]) -> None:
        def receive(message: Message) -> None:
            data = respond(message.subject)
            if data is not None:
                self._tasks.add(asyncio.create_task(self.connection.publish(message.reply, data)))

        await self.connection.subscribe(f"schema.{digest}", receive)


@pytest.fixture
async def foreigner(memory_mesh: MemoryMesh) -> Foreigner:
    foreigner = Foreigner(memory_mesh.connection())
    await foreigner.start()
    return foreigner


def info(
    service: str, instance: str = "f1", version: str = "1.0.0", digest: str = "", **changes: Any
) -> dict[str, Any]:
    metadata = {"mesh-service": service, "mesh-schema": digest, "mesh-wire": "1"}
    reply = {"type": "io.nats.micro.v1.info_response", "name": service.replace(".", "_"), "id": instance}
    return {**reply, "version": version, "metadata": metadata, "description": "", "endpoints": [], **changes}


async def test_what_is_there_already_is_found(memory_mesh: MemoryMesh, clock: FakeClock) -> None:
    server = await serve(memory_mesh, "1.2.0")
    connection = memory_mesh.connection()
    await connection.connect()
    watched = Watched(connection)
    await watched.watcher.start()
    await clock.advance(ANSWERS)
    assert watched.watcher.ready.is_set()
    view = watched[SERVICE]
    assert (view.name, view.version, view.instances) == (SERVICE, "1.2.0", {server.instance})
    assert digest_of(view.schema) == view.digest
    assert watched.changes == [view]
    await watched.watcher.close()
    await server.stop(None)


async def test_without_anybody_it_is_ready_too(watched: Watched, clock: FakeClock) -> None:
    await clock.advance(ANSWERS)
    assert watched.watcher.ready.is_set()
    assert watched.watcher.services == {}


async def test_a_new_service_is_known_at_once(memory_mesh: MemoryMesh, watched: Watched, clock: FakeClock) -> None:
    await clock.advance(ANSWERS)
    server = await serve(memory_mesh)
    await clock.advance(0)
    assert watched[SERVICE].instances == {server.instance}
    assert watched[SERVICE].schema
    await server.stop(None)


async def test_one_that_goes_stays_listed_without_instances(
    memory_mesh: MemoryMesh, watched: Watched, clock: FakeClock
) -> None:
    await clock.advance(ANSWERS)
    first, second = await serve(memory_mesh), await serve(memory_mesh)
    await clock.advance(0)
    assert watched[SERVICE].instances == {first.instance, second.instance}
    await first.stop(None)
    await clock.advance(0)
    assert watched[SERVICE].instances == {second.instance}
    await second.stop(None)
    await clock.advance(0)
    assert watched[SERVICE].instances == frozenset()
    assert watched[SERVICE].schema
    await clock.advance(10 * ROUND)
    assert watched[SERVICE].instances == frozenset()
    third = await serve(memory_mesh)
    await clock.advance(0)
    assert watched[SERVICE].instances == {third.instance}
    await third.stop(None)


async def test_one_that_starts_while_a_round_is_under_way_is_not_forgotten_at_its_end(
    memory_mesh: MemoryMesh, watched: Watched, clock: FakeClock
) -> None:
    await clock.advance(ANSWERS)
    old = await serve(memory_mesh)
    await clock.advance(ROUND - ANSWERS + 0.1)  # The question has been asked, its answers are being collected.
    new = await serve(memory_mesh)
    await old.stop(None)
    await clock.advance(0)
    for _ in range(8):
        assert watched[SERVICE].instances == {new.instance}
        await clock.advance(0.1)
    await new.stop(None)


async def test_a_slow_answer_does_not_make_an_instance_disappear(
    memory_mesh: MemoryMesh, watched: Watched, clock: FakeClock
) -> None:
    server = await serve(memory_mesh)
    await clock.advance(ANSWERS)
    memory_mesh.fault = lambda message: 0 if message.subject.startswith("$SRV.INFO") else 1
    for _ in range(30):
        await clock.advance(1)
        assert watched[SERVICE].instances == {server.instance}
    memory_mesh.fault = None
    await server.stop(None)


async def test_one_that_dies_without_a_word_is_gone_after_a_round(
    watched: Watched, foreigner: Foreigner, clock: FakeClock
) -> None:
    await clock.advance(ANSWERS)
    foreigner.answers = [info("a.B")]
    await foreigner.lives("f1")
    await foreigner.announce("up", info("a.B"))
    await clock.advance(0)
    assert watched["a.B"].instances == {"f1"}
    await clock.advance(3 * ROUND)
    assert watched["a.B"].instances == {"f1"}
    await foreigner.connection.close()
    await clock.advance(ROUND + 2 * ANSWERS)
    assert watched["a.B"].instances == frozenset()


async def test_the_newest_schema_wins_and_an_older_one_is_better_than_none(
    watched: Watched, foreigner: Foreigner, clock: FakeClock
) -> None:
    await clock.advance(ANSWERS)
    schemas = {digest_of(text): text for text in (b"old", b"new")}
    old, new = schemas
    for digest in schemas:
        await foreigner.serves(digest, lambda subject: schemas[subject.rpartition(".")[2]])
    for number, (version, digest) in enumerate([("1.9.0", old), ("1.10.0", new), ("1.10.1", "0" * 64), ("1.2.0", old)]):
        await foreigner.announce("up", info("a.B", f"f{number}", version, digest))
        await clock.advance(0)
    view = watched["a.B"]
    assert (view.version, view.schema) == ("1.10.0", b"new")
    assert view.instances == {"f0", "f1", "f2", "f3"}
    await foreigner.announce("up", info("a.B", "f4", "1.11.0", old))
    await clock.advance(0)
    assert (watched["a.B"].version, watched["a.B"].schema) == ("1.11.0", b"old")
    for instance in ("f1", "f2", "f4"):
        await foreigner.announce("down", info("a.B", instance))
    await clock.advance(0)
    assert (watched["a.B"].version, watched["a.B"].schema) == ("1.9.0", b"old")


async def test_a_new_version_is_told(memory_mesh: MemoryMesh, watched: Watched, clock: FakeClock) -> None:
    await clock.advance(ANSWERS)
    one = await serve(memory_mesh, "1.0.0")
    await clock.advance(0)
    two = await serve(memory_mesh, "1.1.0-rc.1")
    await clock.advance(0)
    assert [view.version for view in watched.changes] == ["1.0.0", "1.1.0-rc.1"]
    await two.stop(None)
    await clock.advance(0)
    assert watched[SERVICE].version == "1.0.0"
    await one.stop(None)


async def test_three_hundred_instances_whose_schema_cannot_be_had_hold_nobody_up(
    memory_mesh: MemoryMesh, watched: Watched, foreigner: Foreigner, clock: FakeClock
) -> None:
    await clock.advance(ANSWERS)
    await foreigner.serves("*", lambda subject: b"false" if subject.endswith("1" * 64) else None)
    for number in range(300):
        await foreigner.announce("up", info("a.B", f"f{number}", digest="0" * 64))
        await foreigner.announce("up", info("c.D", f"f{number}", digest=f"{number:064x}"))
    server = await serve(memory_mesh)
    await clock.advance(20)
    assert watched[SERVICE].instances == {server.instance}
    assert watched[SERVICE].schema
    await server.stop(None)


async def test_a_schema_that_could_not_be_had_is_asked_for_again(
    watched: Watched, foreigner: Foreigner, clock: FakeClock
) -> None:
    await clock.advance(ANSWERS)
    digest = digest_of(b"schema")
    foreigner.answers = [info("a.B", digest=digest)]
    await foreigner.lives("f1")
    await foreigner.announce("up", info("a.B", digest=digest))
    await clock.advance(0)
    assert watched["a.B"].schema == b""
    await foreigner.serves(digest, lambda _subject: b"schema")
    await clock.advance(3 * ROUND)
    assert watched["a.B"].schema == b"schema"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\xff",
        b"{}",
        b"[" * 50_000,
        info("a b"),
        info("a.*"),
        info("a.B", "x.y"),
        info("a.B", "x y"),
        info("a.B", ""),
        info("a.B", version="one"),
        info("a.B", version="9" * 5000 + ".0.0"),
        info("a.B", digest="abc"),
        info("a.B", digest="0" * 64 + "\n"),
        info("a.B", digest="A" * 64),
        info("a.B", metadata={}),
        info("a.B", metadata={"mesh-service": 5}),
        info("a.B", metadata={"mesh-service": "a.B", "mesh-schema": None}),
        info("a.B", metadata={"mesh-service": "a.B", "mesh-schema": ["0" * 64]}),
        info("a.B", type="io.nats.micro.v1.stats_response"),
    ],
    ids=range(19),
)
async def test_hostile_announcements_and_answers_change_nothing(
    memory_mesh: MemoryMesh, watched: Watched, foreigner: Foreigner, clock: FakeClock, reply: Any
) -> None:
    server = await serve(memory_mesh)
    if isinstance(reply, dict):
        foreigner.answers = [reply]
    for event in ("up", "down", "draining", "nonsense"):
        await foreigner.announce(event, reply)
    await clock.advance(3 * ROUND)
    assert watched.watcher.ready.is_set()
    assert set(watched.watcher.services) == {SERVICE}
    assert watched[SERVICE].instances == {server.instance}
    await server.stop(None)


async def test_a_false_schema_is_not_taken(watched: Watched, foreigner: Foreigner, clock: FakeClock) -> None:
    await clock.advance(ANSWERS)
    await foreigner.serves("*", lambda _subject: b"false")
    await foreigner.announce("up", info("a.B", digest="0" * 64))
    await clock.advance(SCHEMA_TIMEOUT)
    assert watched["a.B"].schema == b""


async def test_invented_services_do_not_fill_the_memory_nor_keep_real_ones_out(
    memory_mesh: MemoryMesh,
    watched: Watched,
    foreigner: Foreigner,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watcher_module, "MAX_SERVICES", 20)
    monkeypatch.setattr(watcher_module, "MAX_INSTANCES", 20)
    await clock.advance(ANSWERS)
    for number in range(100):
        await foreigner.announce("up", info(f"a.S{number}"))
        await foreigner.announce("up", info("a.S0", f"f{number}"))
    await clock.advance(0)
    assert len(watched.watcher.services) <= 20
    assert len(watched["a.S0"].instances) <= 20
    await clock.advance(ROUND + 2 * ANSWERS)  # None of them answered.
    server = await serve(memory_mesh)
    await clock.advance(0)
    assert watched[SERVICE].instances == {server.instance}
    assert len(watched.watcher.services) <= 20
    await server.stop(None)


async def test_after_the_broker_was_away_it_asks_at_once(
    memory_mesh: MemoryMesh, watched: Watched, clock: FakeClock
) -> None:
    one, two = await serve(memory_mesh), await serve(memory_mesh)
    await clock.advance(ANSWERS)
    memory_mesh.stop()
    await clock.advance(60)
    assert watched[SERVICE].instances == {one.instance, two.instance}
    await two.stop(None)
    memory_mesh.start()
    await clock.advance(3 * ANSWERS)
    assert watched[SERVICE].instances == {one.instance}
    await one.stop(None)


async def test_a_listener_that_raises_does_not_end_the_watcher(memory_mesh: MemoryMesh, clock: FakeClock) -> None:
    connection = memory_mesh.connection()
    await connection.connect()
    told: list[str] = []

    def listen(view: rpc.ServiceView) -> None:
        told.append(view.name)
        raise RuntimeError("broken listener")

    watcher = rpc.ServiceWatcher(connection, listen)
    await watcher.start()
    await clock.advance(ANSWERS)
    server = await serve(memory_mesh)
    await clock.advance(0)
    await server.stop(None)
    await clock.advance(0)
    assert told == [SERVICE, SERVICE]
    await watcher.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert tasks == set()
