"""JetStream's object stores on a real server: whole or not at all, whoever is killed, replaced or full."""

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from hashlib import sha256

import nats
import pytest
from nats.js.client import JetStreamContext

import rpc
from rpc import Blob, DataLossError, ObjectStore, RevisionError
from rpc.testing import MemoryMesh

CHUNK = 256 * 1024


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[rpc.Connection]:
    connection = await rpc.connect(nats_url)
    yield connection
    await connection.close()


@pytest.fixture
def name() -> str:
    return f"t-{secrets.token_hex(4)}"


@pytest.fixture
async def plain(nats_url: str) -> AsyncIterator[JetStreamContext]:
    """nats-py's own client, to look at what is stored, and as another client of ADR-20."""
    client = await nats.connect(nats_url)
    yield client.jetstream()
    await client.close()


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def stored(plain: JetStreamContext, bucket: str) -> int:
    """How many messages the bucket has: one an object, and one a chunk."""
    return (await plain.stream_info(f"OBJ_{bucket}")).state.messages


async def got(store: ObjectStore, name: str) -> bytes:
    blob = await store.get(name)
    assert blob is not None
    return blob.data


async def test_an_object_is_stored_replaced_and_deleted(
    connection: rpc.Connection, plain: JetStreamContext, name: str
) -> None:
    store = ObjectStore(connection, name)
    assert await store.get("a/b.jpg") is None
    assert await store.info("a/b.jpg") is None
    assert await store.open("a/b.jpg") is None
    await store.delete("a/b.jpg")
    first = os.urandom(3 * CHUNK + 7)
    await store.put("a/b.jpg", first, content_type="image/jpeg")
    blob = await store.get("a/b.jpg")
    assert isinstance(blob, Blob)
    assert (blob.data, blob.content_type) == (first, "image/jpeg")
    assert (blob.info.size, blob.info.digest) == (len(first), sha256(first).hexdigest())
    assert await stored(plain, name) == 4 + 1
    await store.put("a/b.jpg", b"second")
    second = await store.info("a/b.jpg")
    assert second is not None
    assert second.revision > blob.info.revision
    assert second.modified >= blob.info.modified > 1.7e9
    assert (await got(store, "a/b.jpg"), second.content_type) == (b"second", "")
    assert await stored(plain, name) == 1 + 1
    await store.delete("a/b.jpg")
    assert await store.get("a/b.jpg") is None
    assert await stored(plain, name) == 1  # what tells other clients of the deletion
    await store.put("a/b.jpg", b"")
    assert await got(store, "a/b.jpg") == b""


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK])
async def test_every_size_in_pieces_of_every_size(connection: rpc.Connection, name: str, size: int) -> None:
    store = ObjectStore(connection, name)
    data = os.urandom(size)
    for step in (1 + size // 3, 100_000, 3 * CHUNK):
        await store.put("x", pieces(*(data[start : start + step] for start in range(0, size, step)), b""))
        reader = await store.open("x")
        assert reader is not None
        chunks = [chunk async for chunk in reader]
        assert b"".join(chunks) == data
        assert all(len(chunk) == CHUNK for chunk in chunks[:-1])


async def test_other_clients_read_and_write_the_same_objects(
    connection: rpc.Connection, plain: JetStreamContext, name: str
) -> None:
    store = ObjectStore(connection, name)
    data = os.urandom(2 * CHUNK)
    await store.put("ours", data, content_type="text/plain")
    other = await plain.object_store(name)
    assert (await other.get("ours")).data == data
    await other.put("theirs", data[:-1])
    assert await got(store, "theirs") == data[:-1]
    await store.put("theirs", b"replaced")
    await other.put("ours", b"replaced")
    assert (await other.get("theirs")).data == await got(store, "ours") == b"replaced"
    assert await stored(plain, name) == 4
    assert [info.name async for info in store.list()] == ["theirs", "ours"]
    await other.delete("ours")
    assert await store.get("ours") is None


async def test_readers_have_the_old_object_or_the_new_one(connection: rpc.Connection, nats_url: str, name: str) -> None:
    other = await rpc.connect(nats_url)
    writers = [ObjectStore(connection, name), ObjectStore(other, name)]
    versions = [bytes([number]) * (CHUNK + 1000 * number) for number in range(30)]
    await writers[0].put("x", versions[0])
    done = asyncio.Event()

    async def write() -> None:
        for version in versions:
            await asyncio.gather(*(writer.put("x", version) for writer in writers))
        done.set()

    async def read(store: ObjectStore) -> int:
        read = 0
        while not done.is_set():
            with contextlib.suppress(ConnectionError):  # "replaced again and again": here it is
                assert await got(store, "x") in versions
                read += 1
        return read

    counts = await asyncio.gather(read(ObjectStore(connection, name)), read(ObjectStore(other, name)), write())
    assert min(counts[0], counts[1]) > 5
    assert await got(writers[1], "x") == versions[-1]
    await other.close()


async def test_writers_at_once_leave_one_object_and_no_chunks(
    connection: rpc.Connection, plain: JetStreamContext, name: str
) -> None:
    store = ObjectStore(connection, name)
    data = [os.urandom(2 * CHUNK) for _ in range(8)]
    await asyncio.gather(*(store.put("x", each) for each in data))
    assert await got(store, "x") in data
    assert await stored(plain, name) == 2 + 1


WRITER = """
import asyncio, sys, rpc
async def pieces():
    yield bytes(600_000)
    print("half", flush=True)
    await asyncio.sleep(60)
async def main():
    store = rpc.ObjectStore(await rpc.connect(sys.argv[1]), sys.argv[2])
    await store.put("x", pieces())
asyncio.run(main())
"""


async def test_a_writer_that_is_killed_leaves_nothing_that_is_seen_or_stays(
    connection: rpc.Connection, nats_url: str, plain: JetStreamContext, name: str
) -> None:
    store = ObjectStore(connection, name)
    await store.put("x", b"old")
    command = [sys.executable, "-c", WRITER, nats_url, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert await asyncio.to_thread(writer.stdout.readline) == b"half\n"
        writer.kill()
    assert await got(store, "x") == b"old"
    assert await stored(plain, name) == 2 + 2
    await store.put("y", b"another name")
    assert await stored(plain, name) == 4 + 2
    await store.put("x", b"new")
    assert await stored(plain, name) == 2 + 2
    assert await got(store, "x") == b"new"


async def test_what_fails_or_is_cancelled_leaves_nothing(
    connection: rpc.Connection, plain: JetStreamContext, name: str
) -> None:
    store = ObjectStore(connection, name)
    await store.put("x", b"old")
    half = asyncio.Event()

    async def fails() -> AsyncIterator[bytes]:
        yield bytes(2 * CHUNK)
        raise LookupError("the source is gone")

    async def waits() -> AsyncIterator[bytes]:
        yield bytes(2 * CHUNK)
        half.set()
        await asyncio.sleep(60)

    with pytest.raises(LookupError):
        await store.put("x", fails())
    putting = asyncio.create_task(store.put("x", waits()))
    await half.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await stored(plain, name) == 2
    assert await got(store, "x") == b"old"


async def test_little_is_in_memory(connection: rpc.Connection, name: str) -> None:
    store = ObjectStore(connection, name)

    async def much() -> AsyncIterator[bytes]:
        for number in range(320):
            yield bytes([number % 256]) * 100_000

    tracemalloc.start()
    try:
        await store.put("x", much())
        reader = await store.open("x")
        assert reader is not None
        assert sum([len(chunk) async for chunk in reader]) == reader.info.size == 32_000_000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


async def test_limits(connection: rpc.Connection, plain: JetStreamContext, name: str) -> None:
    store = ObjectStore(connection, name, max_bytes=3_000_000, max_object_bytes=1_000_000)
    for data in (bytes(1_000_001), pieces(bytes(600_000), bytes(600_000))):
        with pytest.raises(ValueError, match="larger than 1000000 bytes"):
            await store.put("x", data)
    assert await stored(plain, name) == 0
    await store.put("x", bytes(1_000_000))
    small = ObjectStore(connection, name, max_object_bytes=1000)
    with pytest.raises(ValueError, match=r"open\(\) it"):
        await small.get("x")
    await store.put("y", bytes(1_000_000))
    with pytest.raises(ConnectionError, match="maximum bytes exceeded"):
        await store.put("z", bytes(1_000_000))
    assert await stored(plain, name) == 2 * (4 + 1)
    assert await store.get("z") is None


async def test_lists_are_read_in_pages(connection: rpc.Connection, name: str) -> None:
    store = ObjectStore(connection, name)
    assert [info async for info in store.list()] == []
    names = [f"{folder}/{number}" for number in range(5) for folder in ("a", "b")]
    for each in names:
        await store.put(each, b"x")
    await store.delete("a/2")
    found = [info.name async for info in store.list("a/")]
    assert found == ["a/0", "a/1", "a/3", "a/4"]
    after, paged = 0, []
    while page := [info async for info in _first(store.list("b/", after=after), 2)]:
        paged += [info.name for info in page]
        after = page[-1].revision
    assert paged == ["b/0", "b/1", "b/2", "b/3", "b/4"]


async def _first(infos: AsyncIterator[rpc.BlobInfo], limit: int) -> AsyncIterator[rpc.BlobInfo]:
    async for info in infos:
        yield info
        limit -= 1
        if not limit:
            return


@pytest.mark.parametrize("bad", ["", " ", "a b", "a*", ">", "a\r\n", "ä", "x" * 256])
async def test_names_that_could_be_more_than_that(connection: rpc.Connection, name: str, bad: str) -> None:
    store = ObjectStore(connection, name)
    for operation in (store.get(bad), store.put(bad, b""), store.open(bad), store.info(bad), store.delete(bad)):
        with pytest.raises(ValueError, match="letters, digits"):
            await operation


async def test_content_types_and_buckets_are_checked(
    connection: rpc.Connection, memory_mesh: MemoryMesh, name: str
) -> None:
    for bad in ("text/plain\r\nSet-Cookie: a", "ä", "x" * 256):
        with pytest.raises(ValueError, match="printable ASCII"):
            await ObjectStore(connection, name).put("x", b"", content_type=bad)
    with pytest.raises(ValueError, match="bucket"):
        ObjectStore(connection, "a.b")
    with pytest.raises(TypeError, match=r"rpc\.connect"):
        ObjectStore(memory_mesh.connection(), "b")


async def test_damage_is_found(connection: rpc.Connection, plain: JetStreamContext, name: str) -> None:
    store = ObjectStore(connection, name)
    for each in ("lost", "changed", "nonsense", "link"):
        await store.put(each, bytes(CHUNK + 1))
    messages = [await plain.get_msg(f"OBJ_{name}", sequence) for sequence in range(1, 13)]
    await plain.delete_msg(f"OBJ_{name}", 2)
    said = json.loads(messages[5].data or b"")
    await plain.publish(str(messages[5].subject), json.dumps({**said, "digest": "SHA-256=AAAA"}).encode())
    await plain.publish(str(messages[8].subject), b'{"name": 1')
    link = {**said, "options": {"link": {"bucket": name, "name": "lost"}}}
    await plain.publish(str(messages[11].subject), json.dumps(link).encode())
    for each, why in (
        ("lost", "lacks 1 of its"),
        ("changed", "digest"),
        ("nonsense", "not describe"),
        ("link", "link"),
    ):
        with pytest.raises(DataLossError, match=why):
            await store.get(each)


async def test_who_reads_slowly_is_told_of_a_replacement(connection: rpc.Connection, name: str) -> None:
    store = ObjectStore(connection, name)
    await store.put("x", bytes(3 * CHUNK))
    reader = await store.open("x")
    assert reader is not None
    chunks = aiter(reader)
    await anext(chunks)
    await store.put("x", b"new")
    with pytest.raises(RevisionError, match="replaced"):
        await anext(chunks)
