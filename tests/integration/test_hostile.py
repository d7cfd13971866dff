"""Messages that are none of ours, straight onto our subjects: nothing crashes, nothing hangs, the rest goes on."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import nats
import nats.aio.client
import pytest

import rpc
from tests.integration import drill
from tests.integration.processes import Backends, Process, accepted
from tests.waiting import until


@pytest.fixture
async def attacker(nats_url: str) -> AsyncIterator[nats.aio.client.Client]:
    client = await nats.connect(nats_url)
    yield client
    await client.close()


@pytest.fixture
async def backend(backends: Backends) -> Process:
    (backend,) = await backends.start("b1", concurrency=20, queue=20)
    return backend


async def raw(url: str, *commands: bytes) -> None:
    """Say something to the broker that no client library would say."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n')
    for command in commands:
        writer.write(command)
    writer.write(b"PING\r\n")
    await writer.drain()
    while (line := await asyncio.wait_for(reader.readline(), 5)) and not line.startswith(b"PONG"):
        assert not line.startswith(b"-ERR"), line
    writer.close()
    await writer.wait_closed()


def hpub(subject: bytes, reply: bytes, headers: bytes, data: bytes = b"") -> bytes:
    return b"HPUB %s %s %d %d\r\n%s%s\r\n" % (subject, reply, len(headers), len(headers) + len(data), headers, data)


def pub(subject: bytes, reply: bytes, data: bytes = b"") -> bytes:
    return b"PUB %s %s %d\r\n%s\r\n" % (subject, reply, len(data), data)


async def still_works(backends: Backends, channel: rpc.Channel) -> None:
    work = drill.method(channel)
    replies = await asyncio.gather(*(work({}, timeout=5) for _ in range(20)))
    assert {reply["by"] for reply in replies} == {"b1"}
    # What the library says when something happened that it did not expect.
    for sign in ("unexpected", "never retrieved", "background task failed", "a receiver of", "never awaited"):
        assert sign not in backends.log(), backends.log()


async def test_requests_that_are_garbage_get_an_error(
    backends: Backends, backend: Process, channel: rpc.Channel, attacker: nats.aio.client.Client, prefix: str
) -> None:
    subject = f"{prefix}.rpc.drill.v1.Drill.Work"
    for headers in (
        {"grpc-timeout": "forever"},
        {"grpc-timeout": "1" * 1000},
        {"grpc-timeout": "-1S"},
        {"grpc-encoding": "zstd"},
        {"grpc-encoding": "gzip"},
        {"mesh-stream": "1"},
    ):
        reply = await attacker.request(subject, b"not protobuf", headers=headers, timeout=3)
        assert reply.headers, headers
        assert reply.headers.get("grpc-status", "0") != "0" or "mesh-accepted" in reply.headers, headers
    reply = await attacker.request(subject, b"\xff" * 100, timeout=3)
    assert reply.headers
    assert reply.headers["grpc-status"] in ("2", "13")
    await still_works(backends, channel)


async def test_the_longest_timeout_is_only_long(
    backends: Backends, backend: Process, channel: rpc.Channel, attacker: nats.aio.client.Client, prefix: str
) -> None:
    request = drill._encode({"id": "long"})
    headers = {"grpc-timeout": "99999999H", "traceparent": "\u00e4" * 10, "baggage": "=;,=" * 100, "a-bin": "***"}
    reply = await attacker.request(f"{prefix}.rpc.drill.v1.Drill.Work", request, headers=headers, timeout=3)
    assert reply.headers is None
    assert backends.journal("ended", "long")


async def test_bytes_that_are_no_text_anywhere(
    backends: Backends, backend: Process, channel: rpc.Channel, nats_url: str, prefix: str
) -> None:
    """One such message made the read loop of nats-py end, and the back-end deaf."""
    await channel.channel_ready()
    mesh = prefix.encode()
    work = mesh + b".rpc.drill.v1.Drill.Work"
    instance = mesh + b".inst." + backend.instance.encode()
    inbox = channel._transport._inbox.encode()
    await raw(
        nats_url,
        pub(mesh + b".rpc.drill.v1.Drill.\xff\xfe", b"reply"),
        pub(work, b"\xff\xfe"),
        hpub(work, b"reply", b"NATS/1.0\r\n\xff\xfe: \xff\r\n\r\n"),
        hpub(work, b"reply", b"NATS/1.0 \xff\xff\xff\r\n\r\n"),
        hpub(work, b"reply", b"NATS/1.0 503 \xff\r\n\r\n"),
        hpub(work, b"reply", b"NATS/1.0"),
        hpub(work, b"reply", b"NATS/1.0\r\n"),
        hpub(work, b"reply", b"HTTP/1.1\r\n\r\n"),
        hpub(work, b"reply", b"\r\n\r\n"),
        hpub(work, b"reply", b"x"),
        hpub(work, b"reply", b"NATS/1.0\r\n: empty\r\n\r\n"),
        hpub(work, b"reply", b"NATS/1.0\r\nno colon\r\n\r\n"),
        hpub(work, b"reply", b"NATS/1.0\r\n folded: a\r\n  b\r\n\r\n"),
        hpub(work, b"reply", b"NATS/1.0\r\ngrpc-timeout: \xd9\xa1S\r\n\r\n"),
        pub(instance + b".\xff", b"reply", b"\xff"),
        pub(instance + b".cancel", b"\xff", b"\xff"),
        pub(instance + b".stream.\xff", b"", b"\xff"),
        pub(instance + b".roll", b"reply", b"\xff\n\xff"),
        pub(instance + b".rolled.\xff", b"", b"\xff"),
        pub(inbox + b"\xff", b"\xff", b"\xff"),
        hpub(inbox + b"1", b"x", b"NATS/1.0 \xff\r\n\r\n"),
        pub(b"$SRV.PING", b"\xff"),
        hpub(b"$SRV.INFO", b"reply", b"NATS/1.0 \xff\r\n\r\n"),
        pub(mesh + b".mesh.announce.up", b"", b"\xff"),
    )
    await still_works(backends, channel)


async def test_reply_subjects_that_lead_to_ourselves(
    backends: Backends, backend: Process, channel: rpc.Channel, nats_url: str, prefix: str
) -> None:
    """Answers that are taken for calls would go round in circles."""
    work, request = f"{prefix}.rpc.drill.v1.Drill.Work", drill._encode({"id": "loop", "sleep": 0.05})
    replies = [
        work,
        f"{prefix}.rpc.drill.v1.Drill.Nope",
        f"{prefix}.inst.{backend.instance}.cancel",
        f"{prefix}.inst.{backend.instance}.roll",
        f"{prefix}.inst.{backend.instance}.rpc.drill.v1.Drill.Work",
        f"{prefix}.inst.{backend.instance}.stream.x.y",
        f"{prefix}.inst.{backend.instance}.rolled.x",
        f"{prefix}.mesh.announce.up",
        "$SRV.PING",
        "$SRV.INFO.drill_v1_Drill",
        "$SYS.REQ.SERVER.PING",
        "$JS.API.STREAM.CREATE.x",
        "wild.*.card",
        "all.>",
        ">",
        "..",
        "_INBOX.somebody.mesh.1.1",
    ]
    await raw(nats_url, *(pub(work.encode(), reply.encode(), request) for reply in replies))
    await until(lambda: len(backends.journal("ended", "loop")) == len(replies))
    await still_works(backends, channel)
    assert len(backends.journal("started", "loop")) == len(replies)


async def test_nobody_else_cancels_my_call(
    backends: Backends, backend: Process, channel: rpc.Channel, attacker: nats.aio.client.Client, prefix: str
) -> None:
    call = drill.method(channel)({"id": "mine", "sleep": 0.5}, timeout=10)
    await accepted(channel)
    target = f"{prefix}.inst.{backend.instance}.cancel"
    for data in (b"", b"*", b">", b"_INBOX.>", b"1", b"x" * 100_000, b"\xff", os.urandom(100)):
        await attacker.publish(target, data)
    await attacker.flush()
    assert (await call)["by"] == "b1"
    await still_works(backends, channel)


async def test_replies_to_calls_that_do_not_exist(
    backends: Backends, backend: Process, channel: rpc.Channel, attacker: nats.aio.client.Client
) -> None:
    call = drill.method(channel)({"sleep": 0.3}, timeout=10)
    await accepted(channel)
    inbox = channel._transport._inbox
    for token in (
        "0",
        "999999",
        "roll",
        "rolled-",
        "rolled-x",
        f"rolled-{backend.instance}x",
        "\u00e4",
        "-1",
        "1" * 500,
    ):
        for headers in (None, {"mesh-accepted": "a.b"}, {"mesh-accepted": "x y"}, {"Status": "503"}):
            await attacker.publish(f"{inbox}{token}", b"\xff\n\xff", headers=headers)
    await attacker.flush()
    assert (await call)["by"] == "b1"
    await still_works(backends, channel)


async def test_answers_from_a_hostile_back_end(
    channel: rpc.Channel, attacker: nats.aio.client.Client, prefix: str
) -> None:
    """Whatever a back-end answers is a response or a status to its caller, in time."""
    answers: list[tuple[bytes, dict[str, str] | None]] = [
        (b"", {"grpc-status": "x"}),
        (b"", {"grpc-status": "5", "grpc-message": "%zz%ff"}),
        (b"", {"grpc-status": "99999"}),
        (b"", {"grpc-status": "-1"}),
        (b"", {"grpc-status": "17"}),
        (b"", {"mesh-refused": "whatever", "grpc-status": "14"}),
        (b"", {"grpc-encoding": "zstd"}),
        (b"junk", {"grpc-encoding": "gzip"}),
        (b"\xff" * 50, None),
        (b"", {"grpc-status": "3", "grpc-status-details-bin": "***", "mesh-trailer-x": "1"}),
        (b"\0\0\0\0\xff", {"mesh-accepted": "evil"}),
        (b"x", {"mesh-accepted": "evil"}),
        (b"", {"mesh-accepted": "e.v.i.l"}),
        (b"", {"mesh-accepted": "* >"}),
    ]
    current = 0

    async def answer(message: nats.aio.client.Msg) -> None:
        data, headers = answers[current]
        await attacker.publish(message.reply, data, headers=headers)

    await attacker.subscribe(f"{prefix}.rpc.evil.v1.Evil.Do", cb=answer)
    await attacker.flush()
    for current in range(len(answers)):
        call = drill.method(channel, "/evil.v1.Evil/Do")({}, timeout=0.7)
        async with asyncio.timeout(3):
            code = await call.code()
        assert code is not rpc.StatusCode.OK, answers[current]
    assert channel._transport.in_flight == 0


async def test_noise(
    backends: Backends, backend: Process, channel: rpc.Channel, attacker: nats.aio.client.Client, prefix: str
) -> None:
    """Thousands of random messages to everything that the back-end listens to, with calls in between."""
    chance = random.Random(20261124)
    mesh, instance = prefix, f"{prefix}.inst.{backend.instance}"
    subjects = [
        f"{mesh}.rpc.drill.v1.Drill.Work",
        f"{mesh}.rpc.drill.v1.Drill.Ask",
        f"{mesh}.rpc.drill.v1.Drill.Nope",
        f"{instance}.cancel",
        f"{instance}.roll",
        f"{instance}.rolled.x.y",
        f"{instance}.stream.x.y",
        f"{instance}.rpc.drill.v1.Drill.Work",
        f"{instance}.other",
        "$SRV.PING",
        "$SRV.STATS.drill_v1_Drill",
        "$SRV.x",
        f"{mesh}.schema." + "0" * 64,
    ]
    names = ["grpc-timeout", "grpc-encoding", "mesh-stream", "mesh-accepted", "grpc-status", "a", "a-bin", "Status"]
    values = ["1S", "0n", "1m", "gzip", "identity", "1", "", "503", "x" * 300, "%", "AAAA", "mesh-dup-1-a"]
    inbox, answers = attacker.new_inbox(), 0

    async def count(_message: nats.aio.client.Msg) -> None:
        nonlocal answers
        answers += 1

    await attacker.subscribe(inbox, cb=count)
    for number in range(3000):
        headers = None
        if chance.random() < 0.6:
            headers = {chance.choice(names): chance.choice(values) for _ in range(chance.randrange(1, 5))}
        reply = chance.choice(["", inbox, inbox, "nobody.there", f"{prefix}.rpc.drill.v1.Drill.Work"])
        data = chance.randbytes(chance.choice([0, 1, 4, 9, 30, 200]))
        await attacker.publish(chance.choice(subjects), data, reply=reply, headers=headers)
        if number % 500 == 0:
            assert (await drill.method(channel)({}, timeout=5))["by"] == "b1"
    await attacker.flush()
    await still_works(backends, channel)
    assert answers > 300
    assert backend.is_running
