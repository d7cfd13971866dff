"""Whatever bytes a peer sends, a machine gives events or a ProtocolError, nothing else, and can be ended after it."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from rpc.status import StatusCode
from rpc.transport import rollcall
from rpc.wire import frames
from rpc.wire.envelope import ProtocolError
from rpc.wire.events import Credited, Ended, HalfClosed, HeadersReceived, MessageReceived
from rpc.wire.frames import FrameType
from rpc.wire.states import Role, State
from rpc.wire.stream import StreamMachine
from tests.wire.packets import GOOD, frames_of, packet, packets_of

EVENTS = (HeadersReceived, MessageReceived, HalfClosed, Credited, Ended)

BODIES = st.one_of(
    st.binary(max_size=40),
    st.builds(frames.PART_HEADER.pack, st.integers(0, 3), st.integers(0, 2**64 - 1)),
    st.builds(frames.PART_HEADER.pack, st.integers(0, 1), st.integers(0, 4000)).map(lambda head: head + b"p" * 1100),
    st.integers(1000, 1100).map(bytes),
    st.integers(0, 2**32 - 1).map(frames.CREDIT_BODY.pack),
    st.builds(frames.encode_status, st.sampled_from(StatusCode), st.text(max_size=5)),
)
FRAMES = st.one_of(
    st.sampled_from(FrameType).map(GOOD.__getitem__),
    st.builds(lambda kind, body: frames.FRAME_HEADER.pack(kind, len(body)) + body, st.integers(0, 11), BODIES),
    st.binary(max_size=20),
)
PAYLOADS = st.lists(FRAMES, max_size=12).map(b"".join)


def feed(machine: StreamMachine, payloads: list[bytes], *, numbered: bool) -> None:
    """Feeds a machine what a peer sends, and reads what it makes of it, as an application would."""
    for at, payload in enumerate(payloads):
        try:
            events = machine.receive(packet(at, payload) if numbered else payload)
        except ProtocolError:
            assert machine.state is State.CLOSED
            assert machine.receive(packet(at + 1)) == []
            break
        assert all(isinstance(event, EVENTS) for event in events)
        for event in events[1:]:
            if isinstance(event, MessageReceived):
                machine.consumed(event.cost)
        made = packets_of(machine)
        assert all(len(one) <= 256 * 1024 for one in made)
        with contextlib.suppress(ProtocolError):
            machine.check_received(at)
    over = machine._outgoing.is_over
    machine.cancel(StatusCode.ABORTED, "")
    assert [kind for kind, _ in frames_of(packets_of(machine))] == ([] if over else [FrameType.CANCEL])
    assert machine.is_finished


@given(st.sampled_from(Role), st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes(role: Role, payloads: list[bytes]) -> None:
    feed(StreamMachine(role, max_message=2000), payloads, numbered=False)


@settings(max_examples=500)
@given(st.sampled_from(Role), st.lists(PAYLOADS, max_size=6))
def test_any_frames(role: Role, payloads: list[bytes]) -> None:
    feed(StreamMachine(role, max_message=2000), payloads, numbered=True)


@given(st.one_of(st.binary(max_size=200), st.lists(st.text(max_size=9)).map(lambda t: "\n".join(t).encode())))
def test_any_roll_call(data: bytes) -> None:
    for token, packets in rollcall.decode_calls(data):
        assert token
        assert packets is None or 0 <= packets < 10**10


def test_a_roll_call_comes_back() -> None:
    data = rollcall.encode_calls(["1", "23 0", "4 5", f"6 {2**32 - 1}"])
    assert rollcall.decode_calls(data) == [("1", None), ("23", 0), ("4", 5), ("6", 2**32 - 1)]


def test_a_roll_call_of_very_many_calls_is_cut() -> None:
    assert len(rollcall.decode_calls(b"1\n" * 1_000_000)) == rollcall.MAX_CALLS
