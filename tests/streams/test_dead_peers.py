"""A peer dies (kill -9), stands still (SIGSTOP), or its cable is pulled: both ends give up within the limit of silence,
and let go of everything. The other end is a real process.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.streams.buses import NOTICED, NatsBus, released
from tests.streams.processes import Cable, Peer
from tests.streams.standing import NAMES, Handlers, stand_all
from tests.waiting import until

DEATHS = ("killed", "stopped", "cut off")


@pytest.fixture
async def cable(nats_url: str) -> AsyncIterator[Cable]:
    async with Cable(nats_url) as cable:
        yield cable


def strike(peer: Peer, cable: Cable, death: str) -> float:
    if death == "cut off":
        cable.pull()
    else:
        peer.signal(signal.SIGKILL if death == "killed" else signal.SIGSTOP)
    return time.monotonic()


async def comes_to_itself(peer: Peer, cable: Cable, death: str) -> None:
    """Those that live on have given up, too."""
    if death == "killed":
        return
    if death == "stopped":
        peer.signal(signal.SIGCONT)
    else:
        # They give up while they are cut off, and not only when they hear of the broker again.
        assert cable._plugged.is_set() is False
    await until(lambda: not peer.state["left"] and not peer.state.get("running"), NOTICED)


@pytest.mark.parametrize("death", DEATHS)
async def test_the_back_end_dies(nats: NatsBus, cable: Cable, death: str) -> None:
    async with Peer("server", cable.url) as peer:
        await until(lambda: peer.state)
        channel = nats.channel()
        standing = await stand_all(channel)
        await until(lambda: peer.state["running"] == len(NAMES))
        since = strike(peer, cable, death)
        ends: dict[str, tuple[grpc.StatusCode, float]] = {}

        async def wait(index: int) -> None:
            ends[standing[index].name] = (await standing[index].code(), time.monotonic() - since)

        async with asyncio.timeout(NOTICED + 5):
            await asyncio.gather(*(wait(index) for index in range(len(standing))))
        assert {name: code for name, (code, _) in ends.items()} == dict.fromkeys(NAMES, grpc.StatusCode.UNAVAILABLE)
        assert max(seconds for _, seconds in ends.values()) < NOTICED
        await released(channel)
        await comes_to_itself(peer, cable, death)


@pytest.mark.parametrize("death", DEATHS)
async def test_the_caller_dies(nats: NatsBus, cable: Cable, death: str) -> None:
    handlers = Handlers()
    server = await nats.serve(**handlers.behaviors)
    async with Peer("client", cable.url) as peer:
        await until(lambda: peer.state.get("open") == len(NAMES))
        await until(lambda: handlers.running == len(NAMES))
        since = strike(peer, cable, death)
        await until(lambda: not handlers.running, NOTICED + 5)
        assert time.monotonic() - since < NOTICED
        assert handlers.ended == ["cancelled"] * len(NAMES)
        await released(server)
        if death != "killed":
            await comes_to_itself(peer, cable, death)
            await until(lambda: not peer.state["open"])
            assert peer.state["codes"] == dict.fromkeys(NAMES, "UNAVAILABLE")


async def test_a_cable_that_was_pulled_and_plugged_again_carries_new_calls(nats: NatsBus, cable: Cable) -> None:
    async with Peer("server", cable.url) as peer:
        await until(lambda: peer.state)
        channel = nats.channel()
        first = await stand_all(channel)
        cable.pull()
        for one in first:
            assert await one.code() is grpc.StatusCode.UNAVAILABLE
        cable.plug()
        second = await stand_all(channel)
        for one in second:
            assert not one.call.done()
            one.call.cancel()
        await until(lambda: peer.state["started"] == 2 * len(NAMES) and peer.state["running"] == 0)
        await released(channel)
