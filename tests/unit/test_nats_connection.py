"""What our connection says to a NATS server, word by word, and what it makes of the answers."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

import rpc
import rpc.transport.base
from tests.waiting import until


class Recorder:
    """Speaks as much of the NATS protocol as a client needs, and notes the commands it gets."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.url = ""
        self.asks_at_once = False
        """Whether a subscription to ``question`` gets one before anything else is answered."""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.15.0", "max_payload": 1024, "headers": True, "proto": 1}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        self.writers.append(writer)
        subscribed = False
        while line := (await reader.readline()).decode().strip():
            verb, *rest = line.split(" ")
            if verb in ("PUB", "HPUB"):
                await reader.readexactly(int(rest[-1]) + 2)
            if verb == "SUB" and rest[0] == "question" and self.asks_at_once:
                writer.write(f"MSG question {rest[-1]} answer 2\r\nhi\r\n".encode())
                subscribed = True
            if verb == "PING" and not subscribed:
                writer.write(b"PONG\r\n")
            self.commands.append(line)
        writer.close()


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    recorder = Recorder()
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
    recorder.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield recorder
    server.close()


async def test_a_flush_is_a_fence_behind_all_that_was_said_before(recorder: Recorder) -> None:
    """A server that answers PING has seen the subscription; one that starts is reachable when ``start`` returns."""
    connection = await rpc.connect(recorder.url)
    recorder.commands.clear()
    for number in range(5):
        await connection.subscribe(f"s.{number}", lambda message: None, queue="q")
        await connection.publish(f"p.{number}", b"x")
    await connection.flush()
    assert recorder.commands.index("PING") == 10
    assert [command.split(" ")[0] for command in recorder.commands[:10]] == ["SUB", "PUB"] * 5
    await connection.close()


async def test_a_drain_lets_everything_arrive_that_the_server_sends_before_it_knows(recorder: Recorder) -> None:
    connection = await rpc.connect(recorder.url)
    subscription = await connection.subscribe("s", lambda message: None)
    await connection.flush()
    recorder.commands.clear()
    await subscription.drain()
    assert [command.split(" ")[0] for command in recorder.commands] == ["UNSUB", "PING"]
    await connection.close()


async def test_the_last_publish_before_close_is_sent(recorder: Recorder) -> None:
    connection = await rpc.connect(recorder.url)
    await connection.publish("last", b"word")
    await connection.close()
    await until(lambda: any(command.startswith("PUB last") for command in recorder.commands))


async def test_messages_over_the_servers_limit_never_reach_it(recorder: Recorder) -> None:
    connection = await rpc.connect(recorder.url)
    assert connection.max_payload == 1024
    with pytest.raises(ValueError, match="larger than the broker takes"):
        await connection.publish("a", bytes(1025))
    with pytest.raises(ValueError, match="larger than the broker takes"):
        await connection.publish("a", bytes(900), headers={"name": "x" * 200})
    for subject in ("", "a b", "a\r\nPUB b 0"):
        with pytest.raises(ValueError, match="cannot publish"):
            await connection.publish(subject, b"")
    await connection.flush()
    assert not [command for command in recorder.commands if command.startswith(("PUB", "HPUB"))]
    await connection.close()


async def test_what_comes_right_after_a_reconnect_is_answered(recorder: Recorder) -> None:
    """nats-py says that it is connected a round trip after the server has begun to send: no answer may be lost then."""
    connection = await rpc.connect(recorder.url)
    answers: list[asyncio.Task[None]] = []

    def answer(message: rpc.transport.base.Message) -> None:
        answers.append(asyncio.create_task(connection.publish(message.reply, b"here")))

    await connection.subscribe("question", answer)
    await connection.flush()
    recorder.asks_at_once = True
    recorder.writers[0].close()
    await until(lambda: "PUB answer  4" in recorder.commands)
    assert not connection.is_connected  # The fence of the reconnect is not passed: this server does not answer it.
    with pytest.raises(ConnectionError):
        await connection.publish("question", b"", reply="nobody.hears")
    await asyncio.gather(*answers)
    await connection.close()
