"""JetStream's key-value buckets on a real server: compare-and-set, lifetimes, and what becomes of them without it."""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator

import pytest

import rpc
from rpc import KeyValue, KeyValueEntry, RevisionError
from rpc.embedded import Broker
from rpc.testing import MemoryMesh
from tests.integration.processes import freeze
from tests.waiting import until


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[rpc.Connection]:
    connection = await rpc.connect(nats_url)
    yield connection
    await connection.close()


@pytest.fixture
def name() -> str:
    return f"t-{secrets.token_hex(4)}"


async def test_values_have_revisions(connection: rpc.Connection, name: str) -> None:
    bucket = KeyValue(connection, name)
    assert await bucket.get("a.b") is None
    first = await bucket.create("a.b", b"one")
    assert await bucket.get("a.b") == KeyValueEntry(b"one", first)
    second = await bucket.update("a.b", b"", first)
    assert second > first
    assert await bucket.get("a.b") == (b"", second)
    assert await bucket.get("a") is None
    await bucket.delete("a.b")
    assert await bucket.get("a.b") is None
    assert await bucket.create("a.b", b"again") > second


async def test_who_comes_late_is_told(connection: rpc.Connection, name: str) -> None:
    bucket = KeyValue(connection, name)
    first = await bucket.create("k", b"1")
    with pytest.raises(RevisionError, match="changed meanwhile"):
        await bucket.create("k", b"2")
    await bucket.update("k", b"3", first)
    with pytest.raises(RevisionError):
        await bucket.update("k", b"4", first)
    with pytest.raises(RevisionError):
        await bucket.delete("k", first)
    assert (await bucket.get("k") or KeyValueEntry(b"", 0)).value == b"3"


async def test_no_change_is_lost_between_two_processes(connection: rpc.Connection, nats_url: str, name: str) -> None:
    """Two connections add to one number, by compare-and-set; their buckets are made at the same time."""
    other = await rpc.connect(nats_url)

    async def add(bucket: KeyValue, times: int) -> None:
        for _ in range(times):
            while True:
                entry = await bucket.get("n")
                try:
                    if entry is None:
                        await bucket.create("n", b"1")
                    else:
                        await bucket.update("n", b"%d" % (int(entry.value) + 1), entry.revision)
                    break
                except RevisionError:
                    continue

    buckets = [KeyValue(connection, name, ttl=60), KeyValue(other, name, ttl=60)]
    await asyncio.gather(*(add(bucket, 25) for bucket in buckets))
    assert await buckets[0].get("n") == await buckets[1].get("n")
    assert (await buckets[0].get("n") or KeyValueEntry(b"", 0)).value == b"50"
    await other.close()


async def test_a_bucket_that_exists_is_taken_as_it_is(connection: rpc.Connection, name: str) -> None:
    await KeyValue(connection, name, ttl=60).create("k", b"v")
    assert (await KeyValue(connection, name, ttl=5, in_memory=True).get("k") or KeyValueEntry(b"", 0)).value == b"v"


async def test_values_end_with_their_time(connection: rpc.Connection, name: str) -> None:
    bucket = KeyValue(connection, name, ttl=0.3, in_memory=True)
    await bucket.create("k", b"v")
    limit = time.monotonic() + 5
    while await bucket.get("k") is not None:
        assert time.monotonic() < limit
        await asyncio.sleep(0.02)
    await bucket.create("k", b"v")


async def test_a_full_bucket_says_so(connection: rpc.Connection, name: str) -> None:
    bucket = KeyValue(connection, name, max_bytes=2000, in_memory=True)
    for number in range(3):
        await bucket.create(f"k{number}", bytes(500))
    with pytest.raises(ConnectionError, match="maximum bytes exceeded"):
        await bucket.create("more", bytes(500))


@pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b", "a b", "a*", ">", "a\r\n", "ä"])
async def test_keys_that_could_be_more_than_that(connection: rpc.Connection, name: str, key: str) -> None:
    bucket = KeyValue(connection, name)
    for operation in (bucket.get(key), bucket.create(key, b""), bucket.update(key, b"", 1), bucket.delete(key)):
        with pytest.raises(ValueError, match="letters, digits"):
            await operation


@pytest.mark.parametrize("bucket", ["", "a.b", "a b", ">", "x" * 65])
async def test_names_of_buckets(connection: rpc.Connection, bucket: str) -> None:
    with pytest.raises(ValueError, match="bucket"):
        KeyValue(connection, bucket)


async def test_the_bus_in_memory_has_none(memory_mesh: MemoryMesh) -> None:
    with pytest.raises(TypeError, match=r"rpc\.connect"):
        KeyValue(memory_mesh.connection(), "b")


async def test_a_broker_without_jetstream() -> None:
    with Broker(port=0, config="jetstream: disabled") as broker:
        connection = await rpc.connect(broker.url)
        bucket = KeyValue(connection, "b", timeout=1)
        with pytest.raises(ConnectionError, match="not enabled"):
            await bucket.get("k")
        await connection.close()


async def test_a_broker_that_stops_and_comes_back() -> None:
    with Broker(port=0) as broker:
        connection = await rpc.connect(broker.url)
        kept = KeyValue(connection, "kept", timeout=1)
        lost = KeyValue(connection, "lost", timeout=1, in_memory=True)
        for bucket in (kept, lost):
            await bucket.create("k", b"v")
        await asyncio.to_thread(broker.kill)
        await until(lambda: not connection.is_connected)
        started = time.monotonic()
        with pytest.raises(ConnectionError, match="not connected"):
            await kept.get("k")
        assert time.monotonic() - started < 0.1
        await asyncio.to_thread(broker.start)
        await until(lambda: connection.is_connected)
        assert (await _patiently(kept) or KeyValueEntry(b"", 0)).value == b"v"
        # What was in memory is gone; the bucket is made anew, and whoever uses it does not notice.
        assert await lost.get("k") is None
        await lost.create("k", b"w")
        await connection.close()


async def _patiently(bucket: KeyValue) -> KeyValueEntry | None:
    limit = time.monotonic() + 10
    while True:
        try:
            return await bucket.get("k")
        except ConnectionError:
            assert time.monotonic() < limit
            await asyncio.sleep(0.02)


async def test_a_broker_that_does_not_answer() -> None:
    """Nothing hangs: the server is there, and says nothing."""
    with Broker(port=0) as broker:
        connection = await rpc.connect(broker.url)
        bucket = KeyValue(connection, "b", timeout=0.2)
        await bucket.create("k", b"v")
        assert broker.pid is not None
        await freeze(broker.pid)
        try:
            started = time.monotonic()
            with pytest.raises(ConnectionError, match="no answer"):
                await bucket.get("k")
            assert time.monotonic() - started < 1
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert await _patiently(bucket) is not None
        await connection.close()
