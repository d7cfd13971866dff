"""Two machines, two queues between them, and hypothesis in the place of the network, the timing and both applications.

The invariants: whatever the order of things, all messages arrive, once and in order, the ends come behind them; credit
is neither exceeded nor lost; nothing waits for ever. And with one packet lost, doubled or exchanged with the next one,
the receiver finds out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rpc.status import StatusCode
from rpc.wire import frames, sending, stream
from rpc.wire.envelope import ProtocolError
from rpc.wire.events import Credited, Ended, HalfClosed, HeadersReceived, MessageReceived
from rpc.wire.frames import FRAME_HEADER, MESSAGE_COST, MIN_PART, PART_HEADER, FrameType
from rpc.wire.states import Role, State
from rpc.wire.stream import StreamMachine
from tests.wire.packets import frame_list

MAX_MESSAGE = 40_000
SMALLEST_WINDOW = 2 * (MIN_PART + MESSAGE_COST)
"""Half of it must be worth a part."""


@contextmanager
def initial_window(size: int) -> Iterator[None]:
    """Windows in the size of the test's messages, so that they are used up all the time."""
    with mock.patch.object(sending, "INITIAL_WINDOW", size), mock.patch.object(stream, "INITIAL_WINDOW", size):
        yield


def cost_of(data: bytes) -> int:
    """What the messages in a packet cost."""
    total = 0
    for kind, body in frame_list(data):
        if kind in (FrameType.MESSAGE, FrameType.GZIP_MESSAGE):
            total += len(body) + MESSAGE_COST
        elif kind is FrameType.PART:
            total += len(body) - PART_HEADER.size + MESSAGE_COST
        elif kind is FrameType.MORE:
            total += len(body)
    return total


def credit_in(data: bytes) -> int:
    return sum(frames.decode_credit(body) for kind, body in frame_list(data) if kind is FrameType.CREDIT)


class End:
    """One end: its machine, its application, and what is on its way to it."""

    def __init__(self, role: Role, window: int) -> None:
        self.machine = StreamMachine(role, max_message=MAX_MESSAGE, window=window)
        self.role = role
        self.window = window
        self.peer: End
        self.inbox: deque[bytes] = deque()
        self.unread: deque[MessageReceived] = deque()
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.events: list[str] = []
        self.packets: list[bytes] = []

    def send(self, size: int) -> None:
        if not self.machine._outgoing.is_complete:
            data = (len(self.sent).to_bytes(2, "big") * (size // 2 + 1))[:size]
            self.sent.append(data)
            self.machine.send_message(data, compressed=size % 2 == 1)

    def finish(self) -> None:
        if not self.machine._outgoing.is_complete:
            if self.role is Role.CLIENT:
                self.machine.half_close()
            else:
                self.machine.end(StatusCode.OK)

    def flush(self, max_packet: int) -> bool:
        packet = self.machine.next_packet(max_packet)
        if packet is None:
            return False
        assert len(packet) <= max_packet
        self.packets.append(packet)
        self.peer.inbox.append(packet)
        return True

    def deliver(self) -> bool:
        if not self.inbox:
            return False
        for event in self.machine.receive(self.inbox.popleft()):
            if isinstance(event, MessageReceived):
                self.unread.append(event)
                self.received.append(event.data)
                assert event.compressed == (len(event.data) % 2 == 1)
            elif isinstance(event, Ended | HalfClosed | HeadersReceived):
                self.events.append(type(event).__name__)
                if isinstance(event, HalfClosed) or (isinstance(event, Ended) and event.code is StatusCode.OK):
                    assert len(self.received) == len(self.peer.sent)
            else:
                assert isinstance(event, Credited)
        return True

    def read(self) -> bool:
        if not self.unread:
            return False
        self.machine.consumed(self.unread.popleft().cost)
        return True

    def check(self) -> None:
        """Credit: each byte of the window is somewhere, and in one place only."""
        if State.CLOSED in (self.machine.state, self.peer.machine.state):
            return
        incoming, theirs = self.machine._incoming, self.peer.machine._outgoing
        assembled = incoming._assembly.cost if incoming._assembly is not None else 0
        unread = sum(event.cost for event in self.unread)
        assert incoming._credit >= 0
        assert theirs._credit >= 0
        assert incoming._credit + unread + assembled + incoming._ungranted == self.window
        on_the_way = sum(map(cost_of, self.inbox))
        not_yet_there = self.machine._outgoing._grant + sum(map(credit_in, self.peer.inbox))
        assert theirs._credit + on_the_way + not_yet_there == incoming._credit


SIZES = st.one_of(
    st.integers(0, 80),
    st.integers(MIN_PART - 3, MIN_PART + 3),
    st.integers(SMALLEST_WINDOW - 80, SMALLEST_WINDOW + 80),
    st.integers(0, MAX_MESSAGE),
)
PACKETS = st.one_of(st.just(sending.MIN_PACKET), st.integers(sending.MIN_PACKET, 60_000))
STEPS = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(
            st.tuples(st.just("send"), SIZES),
            st.tuples(st.just("flush"), PACKETS),
            st.tuples(st.sampled_from(["deliver", "read", "read", "headers"]), st.just(0)),
        ),
    ),
    max_size=60,
)
WINDOWS = st.one_of(st.just(SMALLEST_WINDOW), st.integers(SMALLEST_WINDOW, 60_000))


def connect(client_window: int, server_window: int) -> tuple[End, End]:
    client, server = End(Role.CLIENT, client_window), End(Role.SERVER, server_window)
    client.peer, server.peer = server, client
    return client, server


def step(end: End, action: str, size: int) -> None:
    if action == "send":
        end.send(size)
    elif action == "flush":
        end.flush(size)
    elif action == "deliver":
        end.deliver()
    elif action == "read":
        end.read()
    elif end.role is Role.SERVER and not end.machine._outgoing._started and not end.machine._outgoing.is_complete:
        end.machine.send_headers((("a", "b"),))
    end.check()
    end.peer.check()


def run_dry(ends: tuple[End, ...], max_packet: int) -> None:
    """Lets everybody do what they can until nobody can do anything."""
    while any(one.flush(max_packet) or one.deliver() or one.read() for one in ends):
        for one in ends:
            one.check()


@settings(max_examples=600, deadline=None)
@given(STEPS, WINDOWS, WINDOWS, WINDOWS, PACKETS)
def test_whatever_the_order_of_things_all_arrives(
    steps: list[tuple[bool, tuple[str, int]]], window: int, more_here: int, more_there: int, max_packet: int
) -> None:
    with initial_window(window):
        client, server = connect(max(window, more_here), max(window, more_there))
        for at_client, (action, size) in steps:
            step(client if at_client else server, action, size)
        client.finish()
        run_dry((client, server), max_packet)
        assert server.received == client.sent
        assert server.events == ["HalfClosed"]
        server.finish()
        run_dry((client, server), max_packet)
    assert client.received == server.sent
    assert client.events[-1] == "Ended"
    assert all(one.machine.state is State.CLOSED and one.machine.is_finished for one in (client, server))
    assert not client.inbox


@settings(max_examples=200, deadline=None)
@given(STEPS, WINDOWS, PACKETS, st.booleans(), st.booleans())
def test_an_end_at_any_moment_is_an_end_for_both(
    steps: list[tuple[bool, tuple[str, int]]], window: int, max_packet: int, by_client: bool, discard: bool
) -> None:
    with initial_window(window):
        client, server = connect(window, window)
        for at_client, (action, size) in steps:
            step(client if at_client else server, action, size)
        if by_client or not discard:
            (client if by_client else server).machine.cancel(StatusCode.CANCELLED, "enough")
        else:
            server.machine.end(StatusCode.ABORTED, discard=True)
        run_dry((client, server), max_packet)
    ended = server if by_client else client
    assert ended.events[-1] == "Ended"
    assert ended.received == ended.peer.sent[: len(ended.received)]
    assert all(one.machine.state is State.CLOSED and one.machine.is_finished for one in (client, server))


@settings(max_examples=100, deadline=None)
@given(STEPS, WINDOWS, PACKETS)
def test_messages_that_wait_for_each_other_in_both_directions(
    steps: list[tuple[bool, tuple[str, int]]], window: int, max_packet: int
) -> None:
    """Both directions full, nobody reads: then one reads, and all of its direction comes through."""
    with initial_window(window):
        client, server = connect(window, window)
        for end in (client, server):
            for size in (MAX_MESSAGE, 0, MIN_PART, MAX_MESSAGE, 1):
                end.send(size)
        for at_client, (action, size) in steps:
            if action != "read":
                step(client if at_client else server, action, size)
        while any(one.flush(max_packet) or one.deliver() or server.read() for one in (client, server)):
            pass
        assert server.received == client.sent
        run_dry((client, server), max_packet)
        assert client.received == server.sent


# --------------------------------------------------------------------------------------------------------------- faults


def transcript(sizes: list[int], window: int, max_packet: int) -> list[bytes]:
    """All packets of a back-end that answers with these messages, to a caller that reads them at once."""
    client, server = connect(window, window)
    server.machine.send_headers((("a", "b"),))
    for size in sizes:
        server.send(size)
        server.flush(max_packet)
    server.finish()
    while client.read() or client.deliver() or client.flush(max_packet) or server.deliver() or server.flush(max_packet):
        pass
    return server.packets


def replay(packets: list[bytes], window: int) -> bool:
    """Gives a caller these packets; True when it has found a mistake."""
    client = StreamMachine(Role.CLIENT, max_message=MAX_MESSAGE, window=window)
    try:
        for packet in packets:
            for event in client.receive(packet):
                if isinstance(event, MessageReceived):
                    client.consumed(event.cost)
    except ProtocolError:
        return True
    return client.state is not State.CLOSED


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SIZES, min_size=2, max_size=8), WINDOWS, PACKETS, st.data())
def test_one_packet_lost_doubled_or_exchanged_is_noticed(
    sizes: list[int], window: int, max_packet: int, data: st.DataObject
) -> None:
    with initial_window(window):
        packets = transcript(sizes, window, max_packet)
        assert not replay(packets, window)
        at = data.draw(st.integers(0, len(packets) - 2))
        assert replay(packets[:at] + packets[at + 1 :], window)
        assert replay(packets[: at + 1] + packets[at:], window)
        assert replay([*packets[:at], packets[at + 1], packets[at], *packets[at + 2 :]], window)


def test_the_last_packet_lost_is_noticed_by_count() -> None:
    with initial_window(60_000):
        packets = transcript([10, 10], 60_000, 60_000)
    client = StreamMachine(Role.CLIENT, max_message=MAX_MESSAGE)
    for packet in packets[:-1]:
        client.receive(packet)
    with pytest.raises(ProtocolError, match="1 packets were lost"):
        client.check_received(len(packets))


def test_the_smallest_window_is_just_large_enough() -> None:
    """A rest that is smaller than a part may stay unused, and must not be all that there is."""
    assert FRAME_HEADER.size + PART_HEADER.size + MIN_PART <= sending.MIN_PACKET - frames.PACKET_HEADER.size
    with initial_window(SMALLEST_WINDOW):
        client, server = connect(SMALLEST_WINDOW, SMALLEST_WINDOW)
        for size in (SMALLEST_WINDOW // 2 - MESSAGE_COST - 1, MAX_MESSAGE, MAX_MESSAGE):
            client.send(size)
        run_dry((client, server), sending.MIN_PACKET)
        assert server.received == client.sent
