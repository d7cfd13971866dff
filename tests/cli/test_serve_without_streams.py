"""``natsmesh serve`` where JetStream is not as jobs and events need it: said in one line, and nothing runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import rpc
from rpc.embedded import Broker
from rpc.jetstream.api import JetStream
from tests.cli.commands import Commands, closing

ROOT = Path(__file__).parents[2]
QUEUE = "JOBS-mailer_v1_Mailer"


@pytest.fixture
def here() -> Iterator[Commands]:
    """Commands in this repository: its mailer has jobs."""
    with closing(Commands(ROOT)) as commands:
        yield commands


async def test_a_stream_that_does_not_fit(here: Commands) -> None:
    async with Broker(port=0) as broker:
        connection = await rpc.connect(broker.url)
        js = JetStream(connection)
        await js.start()
        await js.request(f"STREAM.CREATE.{QUEUE}", {"name": QUEUE, "subjects": ["jobs.mailer.v1.Mailer.>"]})
        command = here.start("serve", "services.mailer", NATS_URL=broker.url)
        assert command.ends() == 1
        assert f"natsmesh: stream '{QUEUE}' stays as it is: its retention is 'limits'" in command.output
        assert "Traceback" not in command.output
        await js.close()
        await connection.close()
