"""Object stores without a server to speak of: small messages, no JetStream, restarts, silence, and the end of time."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest

import rpc
from rpc import ObjectStore
from rpc.embedded import Broker
from tests.integration.processes import freeze
from tests.waiting import until

CHUNK = 256 * 1024


async def patiently(store: ObjectStore, name: str) -> rpc.Blob | None:
    limit = time.monotonic() + 10
    while True:
        try:
            return await store.get(name)
        except ConnectionError:
            assert time.monotonic() < limit
            await asyncio.sleep(0.02)


async def test_chunks_fit_what_the_broker_takes() -> None:
    with Broker(port=0, max_payload=64 * 1024) as broker:
        connection = await rpc.connect(broker.url)
        store = ObjectStore(connection, "b")
        data = os.urandom(200_000)
        await store.put("x", data)
        blob = await store.get("x")
        assert blob is not None
        assert blob.data == data
        await connection.close()


async def test_a_broker_without_jetstream() -> None:
    with Broker(port=0, config="jetstream: disabled") as broker:
        connection = await rpc.connect(broker.url)
        store = ObjectStore(connection, "b", timeout=1)
        with pytest.raises(ConnectionError, match="not enabled"):
            await store.get("x")
        with pytest.raises(ConnectionError, match="not enabled"):
            await store.put("x", b"")
        await connection.close()


async def test_a_broker_that_is_killed_and_comes_back() -> None:
    """What was put is there; what was being put is not, nor what is left of it once it was put again."""
    with Broker(port=0) as broker:
        connection = await rpc.connect(broker.url)
        store = ObjectStore(connection, "b", timeout=1)
        await store.put("kept", bytes(3 * CHUNK), content_type="a/b")
        await store.put("x", b"old")

        async def halves() -> AsyncIterator[bytes]:
            yield bytes(2 * CHUNK)
            await asyncio.to_thread(broker.kill)
            await until(lambda: not connection.is_connected)
            yield bytes(2 * CHUNK)

        started = time.monotonic()
        with pytest.raises(ConnectionError, match="not connected"):
            await store.put("x", halves())
        with pytest.raises(ConnectionError, match="not connected"):
            await store.get("kept")
        assert time.monotonic() - started < 3
        await asyncio.to_thread(broker.start)
        await until(lambda: connection.is_connected)
        kept = await patiently(store, "kept")
        assert kept is not None
        assert (len(kept.data), kept.content_type) == (3 * CHUNK, "a/b")
        old = await store.get("x")
        assert old is not None
        assert old.data == b"old"
        context = connection.client.jetstream()
        assert (await context.stream_info("OBJ_b")).state.messages == 4 + 2 + 2
        await store.put("x", b"new")
        assert (await context.stream_info("OBJ_b")).state.messages == 4 + 2
        await connection.close()


async def test_a_bucket_that_is_gone_is_made_anew() -> None:
    """Each bucket is deleted once only: nats-server is not sure to make a stream just after it was deleted."""
    with Broker(port=0) as broker:
        connection = await rpc.connect(broker.url)
        stores = [ObjectStore(connection, name) for name in ("got", "put", "listed")]
        for store in stores:
            await store.put("x", b"1")
            await connection.client.jetstream().delete_object_store(store.bucket)
        got, put, listed = stores
        assert await got.get("x") is None
        await put.put("x", b"2")
        blob = await put.get("x")
        assert blob is not None
        assert blob.data == b"2"
        assert [info async for info in listed.list()] == []
        await connection.close()


async def test_a_broker_that_does_not_answer() -> None:
    """Nothing hangs: the server is there, and says nothing."""
    with Broker(port=0) as broker:
        connection = await rpc.connect(broker.url)
        store = ObjectStore(connection, "b", timeout=0.2)
        await store.put("x", b"1")
        assert broker.pid is not None
        await freeze(broker.pid)
        try:
            started = time.monotonic()
            with pytest.raises(ConnectionError, match="no answer"):
                await store.get("x")
            with pytest.raises(ConnectionError, match="no answer"):
                await store.put("x", b"2")
            assert time.monotonic() - started < 2
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert await patiently(store, "x") is not None
        await connection.close()


async def test_who_waits_for_a_broker_that_dies_hears_of_it_at_once() -> None:
    with Broker(port=0) as broker:
        connection = await rpc.connect(broker.url)
        objects, values = ObjectStore(connection, "b", timeout=60), rpc.KeyValue(connection, "b", timeout=60)
        await objects.put("x", b"1")
        await values.create("x", b"1")
        assert broker.pid is not None
        await freeze(broker.pid)
        asked = [asyncio.create_task(each) for each in (objects.get("x"), values.get("x"), objects.put("y", b"2"))]
        await asyncio.sleep(0)
        await asyncio.to_thread(broker.kill)
        started = time.monotonic()
        for error in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(error, ConnectionError)
            assert "was lost before the answer" in str(error)
        assert time.monotonic() - started < 2
        await connection.close()


async def test_objects_end_with_their_time() -> None:
    """At every moment the object is there, or it is not; never half of it."""
    with Broker(port=0) as broker:
        connection = await rpc.connect(broker.url)
        store = ObjectStore(connection, "b", ttl=1)

        async def slowly() -> AsyncIterator[bytes]:
            yield bytes(CHUNK)
            await asyncio.sleep(0.5)
            yield bytes(CHUNK)

        await store.put("x", slowly())
        limit = time.monotonic() + 5
        while (blob := await store.get("x")) is not None:
            assert len(blob.data) == 2 * CHUNK
            assert time.monotonic() < limit
            await asyncio.sleep(0.02)
        context = connection.client.jetstream()
        while (await context.stream_info("OBJ_b")).state.messages:
            assert await store.get("x") is None
            assert time.monotonic() < limit
        await connection.close()
