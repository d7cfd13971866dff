"""Somebody on the bus sends what no peer would: to the caller, to the back-end, into calls and beside them."""

import asyncio
import random

import grpc
import pytest

from rpc.wire import frames
from rpc.wire.frames import FrameType
from rpc.wire.states import Role
from rpc.wire.stream import StreamMachine
from tests.streams.buses import Bus, released
from tests.streams.standing import NAMES, Handlers, stand
from tests.waiting import until
from tests.wire.fuzz import Fuzzer

HEADERS: list[dict[str, str] | None] = [
    None,
    {"mesh-accepted": "another"},
    {"mesh-accepted": "not a token *"},
    {"mesh-accepted": ""},
    {"mesh-stream": "1"},
    {"grpc-status": "0"},
    {"grpc-status": "x"},
    {"grpc-status": "5", "grpc-message": "%zz"},
    {"grpc-encoding": "gzip"},
    {"grpc-encoding": "br"},
    {"Status": "503"},
    {"x-bin": "=", "mesh-dup-x": ""},
]


@pytest.mark.parametrize("victim", ["caller", "back-end"])
async def test_garbage_in_a_call_ends_it_on_both_sides(bus: Bus, victim: str, caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    server = await bus.serve(**handlers.behaviors)
    channel = bus.channel()
    noise = bus.connection()
    await noise.connect()
    chance = random.Random(3)
    fuzzer = Fuzzer(3)
    for number in range(60):
        name = NAMES[number % len(NAMES)]
        if name == "unary":
            continue
        standing = await stand(channel, name)
        ((reply, held),) = server._transport._held.items()  # type: ignore[union-attr]
        assert held.stream is not None
        subject = reply if victim == "caller" else f"inst.{server.instance}.stream.{reply}"
        role = Role.CLIENT if victim == "caller" else Role.SERVER
        sequence = chance.choice((0, 1, 2, 3, 2**32 - 1))
        payload = fuzzer.payload(role, StreamMachine(role, max_message=1))
        data = frames.PACKET_HEADER.pack(sequence) + fuzzer.broken(payload) if number % 3 else chance.randbytes(number)
        for _ in range(3):
            await noise.publish(subject, data)
        code = await asyncio.wait_for(standing.code(), 5)
        assert code is not grpc.StatusCode.OK
        await released(server, channel)
    # A message that is no gzip is found out by the handler that reads it.
    assert set(handlers.ended) <= {"cancelled", "<class 'rpc.status.StatusError'>"}
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    await noise.close()


async def test_garbage_beside_calls_harms_nobody(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    server = await bus.serve(**handlers.behaviors)
    channel = bus.channel()
    noise = bus.connection()
    await noise.connect()
    standing = [await stand(channel, name) for name in NAMES if name != "spread flowing"]
    chance = random.Random(4)
    inbox = channel._transport._inbox
    subjects = [
        *(f"{inbox}{token}" for token in ("0", "999999", "x", "roll", "rolled-x")),
        *(
            f"inst.{server.instance}.{rest}"
            for rest in ("cancel", "roll", "rolled", "rolled.x", "stream", "stream.x", "x")
        ),
    ]
    for number in range(400):
        data = chance.choice((b"", b"1 2", b"\n\n", b"1 99999999999999", chance.randbytes(number)))
        await noise.publish(
            chance.choice(subjects), data, reply=chance.choice(("", "a.b")), headers=chance.choice(HEADERS)
        )
    await asyncio.sleep(0.1)
    assert [one.name for one in standing if one.call.done()] == []
    for one in standing:
        one.call.cancel()
    await released(server, channel)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    await noise.close()


async def test_requests_of_streams_that_are_garbage(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    server = await bus.serve(**handlers.behaviors)
    noise = bus.connection()
    await noise.connect()
    answers: list[dict[str, str] | None] = []
    await noise.subscribe("noise.*", lambda message: answers.append(message.headers))
    await noise.flush()
    fuzzer, chance = Fuzzer(5), random.Random(5)
    for number in range(300):
        payload = fuzzer.payload(Role.SERVER, StreamMachine(Role.SERVER, max_message=1))
        data = chance.choice((frames.PACKET_HEADER.pack(0) + payload, fuzzer.broken(payload), b""))
        kind = chance.choice(("unary", "collect", "spread", "talk"))
        await noise.publish(
            f"rpc.streams.v1.Streams.{kind}",
            data,
            reply=f"noise.{number}",
            headers={"mesh-stream": "1", "grpc-timeout": "300m"},
        )
    await noise.flush()
    await until(lambda: answers)
    await released(server, seconds=10)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    await noise.close()


def test_the_noise_reaches_all_states() -> None:
    """The generator that these tests share with the fuzzer makes frames of all types."""
    fuzzer = Fuzzer(1)
    machine = StreamMachine(Role.CLIENT, max_message=1)
    data = b"".join(fuzzer.payload(Role.CLIENT, machine) for _ in range(3000))
    kinds = {number for number, _, _ in frames.split(frames.PACKET_HEADER.pack(0) + data)}
    assert kinds == {int(kind) for kind in FrameType}
