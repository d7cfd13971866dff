"""Schemas that outlive their back-ends: who writes them, which stays, and what is not believed."""

import asyncio
import gzip
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import rpc
from gateway.app import Gateway
from gateway.config import Config
from greeter.v1 import greeter_pb2_grpc
from rpc.discovery import stored
from rpc.discovery.responder import ServedService
from rpc.discovery.schema import MAX_SCHEMA_BYTES, digest_of
from rpc.discovery.stored import MAX_AGE, SchemaStore, SchemaWriter
from rpc.embedded import Broker
from rpc.jetstream.api import JetStream
from rpc.jetstream.streams import ensure_stream, find_stream
from rpc.subjects import Subjects
from services.greeter import Greeter
from tests.gateway.asgi import Client
from tests.gateway.backends import RawBackend
from tests.gateway.contracts import library
from tests.gateway.processes import free_port
from tests.gateway.works import SERVICE, Works, schema, serve

ROUND = 0.05


class Mesh:
    def __init__(self, url: str, connection: rpc.Connection, js: JetStream) -> None:
        self.url = url
        self.connection = connection
        self.prefix = f"t{secrets.token_hex(4)}"
        self.js = js
        self.subjects = Subjects(self.prefix)
        self.store = SchemaStore(js, self.subjects)
        self.stream = stored.schemas(self.subjects).name
        self._watchers: list[rpc.ServiceWatcher] = []

    async def put(self, service: str, data: bytes, version: str = "1.0.0", digest: str | None = None) -> None:
        """Write whatever somebody may write."""
        await ensure_stream(self.js, stored.schemas(self.subjects), migrate=False)
        headers = {"mesh-schema": digest_of(data) if digest is None else digest, "mesh-version": version}
        await self.js.publish(self.subjects.stored_schema(service), gzip.compress(data), headers)

    async def watcher(self) -> rpc.ServiceWatcher:
        watcher = rpc.ServiceWatcher(self.connection, prefix=self.prefix, interval=ROUND, stored=True)
        self._watchers.append(watcher)
        await watcher.start()
        await asyncio.wait_for(watcher.ready.wait(), 10)
        return watcher

    async def sequence(self) -> int:
        found = await find_stream(self.js, self.stream)
        return 0 if found is None else int(found.state["last_seq"])

    async def close(self) -> None:
        for watcher in self._watchers:
            await watcher.close()


@pytest.fixture
async def mesh(nats_url: str) -> AsyncIterator[Mesh]:
    connection = await rpc.connect(nats_url)
    js = JetStream(connection)
    await js.start()
    mesh = Mesh(nats_url, connection, js)
    yield mesh
    await mesh.close()
    await js.close()
    await connection.close()


def served(version: str, data: bytes) -> ServedService:
    return ServedService(SERVICE, version, {}, data, digest_of(data))


async def test_a_server_with_a_job_leaves_its_schema(mesh: Mesh) -> None:
    assert await mesh.store.read() == []
    server = await serve(mesh.url, mesh.prefix, Works(), version="1.2.0")
    await server.stop(None)
    (found,) = await mesh.store.read()
    assert (found.service, found.version, found.digest) == (SERVICE, "1.2.0", digest_of(found.schema))
    info = await find_stream(mesh.js, mesh.stream)
    assert info is not None
    assert info.config["max_age"] == MAX_AGE * 1e9
    watcher = await mesh.watcher()
    view = watcher.services[SERVICE]
    assert (view.version, view.digest, view.schema) == ("1.2.0", found.digest, found.schema)
    assert view.instances == frozenset()


async def test_a_server_without_jobs_leaves_nothing(mesh: Mesh) -> None:
    server = rpc.Server(mesh.url, prefix=mesh.prefix)
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    await server.stop(None)
    assert await find_stream(mesh.js, mesh.stream) is None


async def test_the_newest_version_stays(mesh: Mesh) -> None:
    async def version_after(service: ServedService) -> tuple[str, bytes]:
        await mesh.store.write(service)
        (found,) = await mesh.store.read()
        return found.version, found.schema

    assert await version_after(served("1.9.0", b"one")) == ("1.9.0", b"one")
    assert await version_after(served("1.10.0-rc.1", b"two")) == ("1.10.0-rc.1", b"two")
    assert await version_after(served("1.9.1", b"three")) == ("1.10.0-rc.1", b"two")
    assert await version_after(served("1.10.0", b"four")) == ("1.10.0", b"four")
    # Of one version, what was started last: that is how one develops.
    assert await version_after(served("1.10.0", b"five")) == ("1.10.0", b"five")


async def test_many_that_start_at_once_write_what_one_would(mesh: Mesh) -> None:
    services = [served(f"1.{number}.0", b"%d" % number) for number in range(20)]
    await asyncio.gather(*(mesh.store.write(each) for each in services), return_exceptions=True)
    # Each of the older ones may have lost its turn to others; the newest one has not.
    await mesh.store.write(services[-1])
    assert [each.version for each in await mesh.store.read()] == ["1.19.0"]
    before = await mesh.sequence()
    await asyncio.gather(*(mesh.store.write(each) for each in services))
    assert await mesh.sequence() == before


async def test_it_is_written_anew_while_a_server_runs(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "REFRESH", 0.02)
    writer = SchemaWriter(mesh.js, mesh.subjects, [served("1.0.0", b"one")])
    await writer.start()
    before = await mesh.sequence()
    async with asyncio.timeout(10):
        while await mesh.sequence() < before + 2:
            await asyncio.sleep(0.01)
    # Somebody cleans up: it is there again.
    await mesh.js.request(f"STREAM.DELETE.{mesh.stream}")
    async with asyncio.timeout(10):
        while not await mesh.store.read():
            await asyncio.sleep(0.01)
    await writer.close()


async def test_one_that_is_too_large_is_told_of(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    class Narrow:
        max_payload = 33 * 1024

    js: Any = mesh.js
    js.connection, connection = Narrow(), js.connection
    try:
        await mesh.store.write(served("1.0.0", secrets.token_bytes(2000)))
    finally:
        js.connection = connection
    assert f"the schema of {SERVICE} has 2" in caplog.text
    assert await mesh.store.read() == []


async def test_what_is_not_believed(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    good = library()
    await mesh.put("library.v1.Library", good)
    await mesh.put("wrong.Digest", good, digest="0" * 64)
    await mesh.put("no.Digest", good, digest="")
    await mesh.put("no.Version", good, version="newest")
    await mesh.put("a.Bomb", bytes(MAX_SCHEMA_BYTES + 1))
    await mesh.put("x" * 257, good)
    await mesh.js.publish(f"$KV.{mesh.stream[3:]}.no.Gzip", good, {"mesh-version": "1.0.0"})
    await mesh.js.publish(f"$KV.{mesh.stream[3:]}.odd=name", gzip.compress(good), {"mesh-version": "1.0.0"})
    # What the nats command leaves when it deletes a key.
    await mesh.js.publish(mesh.subjects.stored_schema("gone.Service"), b"", {"KV-Operation": "DEL"})
    watcher = await mesh.watcher()
    assert [*watcher.services] == ["library.v1.Library"]
    assert caplog.text.count("a stored schema is passed over") == 7


async def test_a_gateway_passes_over_a_schema_that_is_none(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    await mesh.put("a.Broken", b"\xff is no set of files")
    await mesh.put("another.Service", library())
    await mesh.put("library.v1.Library", library())
    async with Gateway(Config(prefix=mesh.prefix), connection=mesh.connection) as gateway:
        await asyncio.wait_for(gateway.ready(), 10)
        client = Client(gateway)
        assert (await client.post("/library.v1.Library/GetBook", json={})).status == 503
        for service in ("a.Broken", "another.Service"):
            assert (await client.post(f"/{service}/GetBook", json={})).status == 404
            assert f"{service} 1.0.0 is not served" in caplog.text


async def test_it_is_read_again_after_a_reconnect(tmp_path: Path) -> None:
    port = free_port()
    broker = Broker(port=port, store_dir=tmp_path)
    broker.start()
    connection = await rpc.connect(broker.url)
    watcher = rpc.ServiceWatcher(connection, prefix="", interval=60.0, stored=True)
    try:
        await watcher.start()
        await asyncio.wait_for(watcher.ready.wait(), 10)
        broker.stop()
        # Somebody comes and goes while we are cut off.
        broker = Broker(port=0, store_dir=tmp_path)
        broker.start()
        await (await serve(broker.url, "", Works())).stop(None)
        broker.stop()
        broker = Broker(port=port, store_dir=tmp_path)
        broker.start()
        async with asyncio.timeout(20):
            while SERVICE not in watcher.services:
                await asyncio.sleep(0.02)
    finally:
        await watcher.close()
        await connection.close()
        broker.stop()


async def test_what_lives_counts_more_than_what_is_stored(mesh: Mesh) -> None:
    await mesh.put(SERVICE, library(), version="9.0.0")
    backend = RawBackend(mesh.connection, SERVICE, schema(), version="1.0.0", prefix=mesh.prefix)
    await backend.start()
    watcher = await mesh.watcher()
    view = watcher.services[SERVICE]
    assert (view.version, view.schema, view.instances) == ("1.0.0", schema(), frozenset({backend.instance}))
    await backend.stop()


async def test_a_newer_version_comes_to_one_that_is_stored(mesh: Mesh) -> None:
    await mesh.put(SERVICE, library())
    watcher = await mesh.watcher()
    assert watcher.services[SERVICE].schema == library()
    backend = RawBackend(mesh.connection, SERVICE, schema(), version="2.0.0", prefix=mesh.prefix)
    await backend.start()
    async with asyncio.timeout(10):
        while watcher.services[SERVICE].schema != schema():
            await asyncio.sleep(0.01)
    await backend.stop()
    async with asyncio.timeout(10):
        while watcher.services[SERVICE].instances:
            await asyncio.sleep(0.01)
    assert watcher.services[SERVICE].version == "2.0.0"


async def test_a_live_one_whose_schema_nobody_gives_has_the_stored_one(mesh: Mesh) -> None:
    await mesh.put(SERVICE, schema())
    backend = RawBackend(mesh.connection, SERVICE, b"", digest="1" * 64, version="2.0.0", prefix=mesh.prefix)
    await backend.start()
    watcher = await mesh.watcher()
    view = watcher.services[SERVICE]
    assert (view.schema, view.instances) == (schema(), frozenset({backend.instance}))
    await backend.stop()


async def test_only_those_who_want_it_read_it(mesh: Mesh) -> None:
    await mesh.put(SERVICE, schema())
    watcher = rpc.ServiceWatcher(mesh.connection, prefix=mesh.prefix)
    await watcher.start()
    await asyncio.wait_for(watcher.ready.wait(), 10)
    assert not watcher.services
    await watcher.close()
