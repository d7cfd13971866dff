"""Three replicas: the server that leads a stream is killed, and nothing that was confirmed is lost."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import rpc
from rpc.jetstream.api import MESSAGE_ID, JetStream
from rpc.jetstream.consumers import ensure_consumer
from rpc.jetstream.specs import ConsumerSpec, StreamError, StreamSpec
from rpc.jetstream.streams import ensure_stream
from tests.jetstream.cluster import cluster, kill

SPEC = StreamSpec(name="S", subjects=("s.*",))
WORKERS = 10


@pytest.mark.timeout(90)
async def test_the_leader_of_a_stream_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATSMESH_REPLICAS", "3")
    async with cluster(tmp_path) as brokers:
        connection = await rpc.connect(",".join(broker.url for broker in brokers))
        js = JetStream(connection)
        await js.start()
        # The cluster elects its leader meanwhile: whoever wants a stream waits for that.
        await ensure_stream(js, SPEC, migrate=True, timeout=30)
        await ensure_consumer(js, "S", ConsumerSpec(name="G"), migrate=True, timeout=30)
        found = await js.request("STREAM.INFO.S")
        assert found["config"]["num_replicas"] == 3

        confirmed: dict[str, int] = {}
        over = asyncio.Event()
        workers = [asyncio.create_task(_publish(js, worker, confirmed, over)) for worker in range(WORKERS)]
        await _more(confirmed, 500)
        leader = found["cluster"]["leader"]
        victim = await kill(brokers, leader)
        await _more(confirmed, 500)
        assert (await _info(js))["cluster"]["leader"] != leader
        over.set()
        await asyncio.gather(*workers)
        assert await _stored(js) == confirmed

        # A server that is back is part of it again, and one that declares the stream meanwhile changes nothing.
        await asyncio.to_thread(victim.start)
        info = await ensure_stream(js, SPEC, migrate=True, timeout=30)
        assert info.config["num_replicas"] == 3
        assert not (await ensure_consumer(js, "S", ConsumerSpec(name="G"), migrate=True, timeout=30)).created

        monkeypatch.setenv("NATSMESH_REPLICAS", "5")
        with pytest.raises(StreamError, match=r"cannot have 5 replicas: .*; start more servers"):
            await ensure_stream(js, StreamSpec(name="T", subjects=("t",)), migrate=True, timeout=30)
        await js.close()
        await connection.close()


async def _publish(js: JetStream, worker: int, confirmed: dict[str, int], over: asyncio.Event) -> None:
    number = 0
    while not over.is_set():
        name = f"{worker}-{number}"
        ack = await js.publish(f"s.{worker}", name.encode(), {MESSAGE_ID: name}, timeout=40)
        confirmed[name] = ack.sequence
        number += 1


async def _more(confirmed: dict[str, int], count: int) -> None:
    until = len(confirmed) + count
    async with asyncio.timeout(40):
        while len(confirmed) < until:
            await asyncio.sleep(0.01)


async def _info(js: JetStream) -> dict[str, Any]:
    await ensure_stream(js, SPEC, migrate=False, timeout=30)
    return await js.request("STREAM.INFO.S")


async def _stored(js: JetStream) -> dict[str, int]:
    stored: dict[str, int] = {}
    start = 1
    while page := await js.read("S", "s.*", start=start, limit=1000):
        assert not {message.data.decode() for message in page} & stored.keys(), "a message is there twice"
        stored.update({message.data.decode(): message.sequence for message in page})
        start = page[-1].sequence + 1
    return stored
