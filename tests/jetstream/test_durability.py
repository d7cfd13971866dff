"""What a crash of the broker leaves of what it confirmed, and how often it is forced to the disk."""

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import rpc
from rpc.embedded import SYNC_INTERVAL, Broker
from rpc.jetstream.api import MESSAGE_ID, JetStream
from rpc.jetstream.specs import StreamSpec
from rpc.jetstream.streams import ensure_stream

MONITORED = 'http: "127.0.0.1:-1"'


def told(broker: Broker) -> dict[str, Any]:
    """What the running server says of its JetStream."""
    assert broker._run_dir is not None
    ports = json.loads((broker._run_dir / f"nats-server_{broker.pid}.ports").read_text())
    with urllib.request.urlopen(f"{ports['monitoring'][0]}/varz", timeout=5) as response:
        config: dict[str, Any] = json.load(response)["jetstream"]["config"]
    return config


@pytest.mark.parametrize(
    ("kept", "given", "seconds", "always"),
    [
        (True, None, SYNC_INTERVAL, False),
        (True, 0.25, 0.25, False),
        (True, 120, 120, False),
        (True, 0, None, True),
        (False, None, 120, False),  # a folder that ends with the broker: the disk is spared
        (False, 0, None, True),
    ],
)
def test_how_often_it_is_forced_to_the_disk(
    tmp_path: Path, kept: bool, given: float | None, seconds: float | None, always: bool
) -> None:
    broker = Broker(port=0, store_dir=tmp_path if kept else None, sync_interval=given, config=MONITORED)
    with broker:
        config = told(broker)
    assert config.get("sync_always", False) == always
    if seconds is not None:
        assert config["sync_interval"] == seconds * 10**9


async def test_a_killed_broker_has_all_that_it_confirmed(tmp_path: Path) -> None:
    """SIGKILL under load, five times: what was confirmed is there, each once, in order of its confirmation.

    This says nothing of a loss of power: the kernel lives on, and with it what was written and not yet on the disk.
    """
    # No fsync within the test: whatever survives does not survive by it.
    with Broker(port=0, store_dir=tmp_path, sync_interval=600) as broker:
        connection = await rpc.connect(broker.url)
        js = JetStream(connection)
        await js.start()
        await ensure_stream(js, StreamSpec(name="S", subjects=("s.*",)), migrate=True)
        confirmed: dict[str, int] = {}
        for round_ in range(5):
            enough, over = asyncio.Event(), asyncio.Event()
            workers = [
                asyncio.create_task(_publish(js, f"s.{worker}", f"{round_}-{worker}", confirmed, enough, over))
                for worker in range(20)
            ]
            await enough.wait()
            await asyncio.to_thread(broker.kill)
            over.set()
            await asyncio.to_thread(broker.start)
            await asyncio.gather(*workers)
        assert len(confirmed) > 5 * 50
        # All may have been confirmed before the last kill: then nobody has waited for the broker since.
        await connection.wait_connected()
        await ensure_stream(js, StreamSpec(name="S", subjects=("s.*",)), migrate=False)
        stored: dict[str, int] = {}
        start = 1
        while page := await js.read("S", "s.*", start=start, limit=1000):
            assert not {message.data.decode() for message in page} & stored.keys(), "a message is there twice"
            stored.update({message.data.decode(): message.sequence for message in page})
            start = page[-1].sequence + 1
        assert confirmed == stored
        await js.close()
        await connection.close()


async def _publish(
    js: JetStream, subject: str, name: str, confirmed: dict[str, int], enough: asyncio.Event, over: asyncio.Event
) -> None:
    """Publish one message after the other, tell when 50 are confirmed, and finish the last one when it is over."""
    number = 0
    while not over.is_set():
        one = f"{name}-{number}"
        confirmed[one] = (await js.publish(subject, one.encode(), {MESSAGE_ID: one}, timeout=20)).sequence
        number += 1
        if number == 50:
            enough.set()
