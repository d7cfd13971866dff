"""One message of a call is lost, doubled or overtaken by the next one: both ends hear of it, and no answer is wrong."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc
import pytest

import rpc
from rpc.testing import FakeClock, MemoryMesh
from rpc.transport.memory import MemoryMessage
from tests.streams.buses import KINDS, MemoryBus, handlers, leftovers, method, options, outcome, released
from tests.streams.standing import Handlers
from tests.waiting import until

LARGE = b"x" * 1_500_000
"""More than the broker takes in one message."""


def belongs_to_the_call(message: MemoryMessage) -> bool:
    """Requests, replies, acceptances and packets; not what only looks after calls."""
    last = message.subject.rpartition(".")[2]
    return not (
        last in ("roll", "cancel") or ".rolled" in message.subject or message.subject.startswith(("$SRV", "mesh."))
    )


class Culprit:
    """Does something to one message of a call."""

    def __init__(self, mesh: MemoryMesh, what: str, at: int) -> None:
        self.mesh = mesh
        self.what = what
        self.at = at
        self.seen: list[MemoryMessage] = []
        self.waiting: MemoryMessage | None = None
        mesh.fault = self

    def __call__(self, message: MemoryMessage) -> int:
        if not belongs_to_the_call(message):
            return 1
        self.seen.append(message)
        if self.waiting is not None and self.waiting.subject == message.subject:
            late, self.waiting = self.waiting, None
            asyncio.get_running_loop().call_soon(self.pass_on, late)
        if len(self.seen) - 1 != self.at:
            return 1
        if self.what == "exchanged":
            self.waiting = message
        return 2 if self.what == "doubled" else 0

    def pass_on(self, message: MemoryMessage) -> None:
        self.mesh.fault = None
        self.mesh.route(message)
        self.mesh.fault = self


class Endpoints:
    """A back-end whose handlers note that they ended, and its caller."""

    def __init__(self, size: str) -> None:
        self.filler = LARGE if size == "large" else b""
        self.running = 0
        self.mesh = MemoryMesh()
        self.server = rpc.Server(self.mesh.connection(), options=options())
        self.server.add_generic_rpc_handlers(
            [handlers(unary=self.unary, collect=self.collect, spread=self.spread, talk=self.talk)]
        )
        self.channel = rpc.Channel(self.mesh.connection(), options=options())

    async def unary(self, request: bytes, context: Any) -> bytes:
        self.running += 1
        try:
            return b"re:" + request
        finally:
            self.running -= 1

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        self.running += 1
        try:
            return b",".join([request[:9] async for request in requests]) + self.filler
        finally:
            self.running -= 1

    async def spread(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            for number in range(3):
                yield b"%d" % number + request[9:]
                await asyncio.sleep(0.001)
        finally:
            self.running -= 1

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            async for request in requests:
                yield b"re:" + request
                await asyncio.sleep(0.001)
        finally:
            self.running -= 1

    async def requests(self) -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"request %d" % number + self.filler
            await asyncio.sleep(0.001)

    async def call(self, kind: str) -> tuple[grpc.StatusCode, list[bytes]]:
        """Makes a call; returns how it ended, and what it gave."""
        call: Any
        received: list[bytes] = []
        try:
            if kind in ("unary", "spread"):
                call = method(self.channel, kind)(b"request 0" + self.filler)
            else:
                call = method(self.channel, kind)(self.requests())
            if kind in ("unary", "collect"):
                received.append(await call)
            else:
                async for response in call:
                    received.append(response)
        except grpc.aio.AioRpcError as error:
            return error.code(), received
        return await call.code(), received

    def right(self, kind: str) -> list[bytes]:
        numbered = [b"request %d" % number for number in range(3)]
        return {
            "unary": [b"re:request 0" + self.filler],
            "collect": [b",".join(numbered) + self.filler],
            "spread": [b"%d" % number + self.filler for number in range(3)],
            "talk": [b"re:" + one + self.filler for one in numbered],
        }[kind]

    async def __aenter__(self) -> Self:
        await self.server.start()
        await self.channel.channel_ready()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.mesh.fault = None
        await self.channel.close()
        await self.server.stop(None)


async def run(kind: str, size: str, what: str, at: int) -> tuple[grpc.StatusCode, int]:
    """One call with one fault; returns how it ended, and how many messages it had."""
    async with FakeClock() as clock:
        ends = Endpoints(size)
        async with ends:
            culprit = Culprit(ends.mesh, what, at)
            code, received = await clock.run(ends.call(kind))
            assert received == ends.right(kind)[: len(received)], "a wrong response"
            if code is grpc.StatusCode.OK:
                assert received == ends.right(kind), "responses are missing"
            await clock.advance(4)  # what looks after calls has noticed by then
            assert leftovers(ends.server, ends.channel) == []
            assert ends.running == 0
            return code, len(culprit.seen)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("kind", KINDS)
async def test_one_message_goes_wrong(kind: str, size: str) -> None:
    """Where the call is OK all the same, `run` has seen to it that nothing is wrong or missing in its answer."""
    code, messages = await run(kind, size, "nothing", -1)
    assert code is grpc.StatusCode.OK
    assert messages >= (2 if kind == "unary" else 5)
    for what in ("lost", "doubled", "exchanged"):
        codes = [(await run(kind, size, what, at))[0] for at in range(messages)]
        assert set(codes) <= {
            grpc.StatusCode.OK,  # the answer was complete before: a last credit is lost, a reply comes twice
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        }
        if what == "lost":
            assert codes[0] is grpc.StatusCode.UNAVAILABLE
        if messages > 2:
            assert grpc.StatusCode.INTERNAL in codes, what


@pytest.mark.parametrize("name", ["collect idle", "spread idle", "spread flowing", "talk idle"])
async def test_two_back_ends_take_the_same_call(memory: MemoryBus, name: str) -> None:
    """A request that was doubled on its way reaches two members of the queue group."""
    here, there = Handlers(), Handlers()
    servers = [await memory.serve(**here.behaviors), await memory.serve(**there.behaviors)]
    channel = memory.channel()
    await channel.channel_ready()

    def to_both(message: MemoryMessage) -> int:
        if not message.subject.startswith("rpc."):
            return 1
        for interest in memory.mesh.interests:
            if interest.queue and interest.matches(message.subject.split(".")):
                interest.deliver(message)
        return 0

    memory.mesh.fault = to_both
    kind, _, how = name.partition(" ")
    call = method(channel, kind)(how.encode()) if kind == "spread" else method(channel, kind)()
    assert await outcome(call) == (grpc.StatusCode.INTERNAL, "two back-ends took the same call")
    await until(lambda: here.ended == there.ended == ["cancelled"])
    await released(channel, *servers)
