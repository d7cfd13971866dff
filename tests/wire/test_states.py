"""The table, pair by pair: what a peer may send in each state, what comes of it, and that all else is an error."""

import pytest

from rpc.status import StatusCode
from rpc.wire import frames
from rpc.wire.envelope import ProtocolError
from rpc.wire.events import Credited, Ended, Event, HalfClosed, HeadersReceived, MessageReceived
from rpc.wire.frames import MESSAGE_COST, FrameType
from rpc.wire.states import START, TRANSITIONS, Role, State
from rpc.wire.stream import StreamMachine
from tests.wire.packets import GOOD, MAX_MESSAGE, frames_of, machine_in, packet, packets_of

F, S = FrameType, State

# What each frame of GOOD is to those who may receive it.
EVENTS: dict[FrameType, list[Event]] = {
    F.HEADERS: [HeadersReceived((("a", "b"),))],
    F.MESSAGE: [MessageReceived(b"message", compressed=False, cost=7 + MESSAGE_COST)],
    F.GZIP_MESSAGE: [MessageReceived(b"zipped", compressed=True, cost=6 + MESSAGE_COST)],
    F.PART: [],
    F.MORE: [],
    F.HALF_CLOSE: [HalfClosed()],
    F.CREDIT: [Credited()],
    F.STATUS: [Ended(StatusCode.ABORTED, "why", (("t", "u"),), cancelled=False)],
    F.CANCEL: [Ended(StatusCode.CANCELLED, "enough", (), cancelled=True)],
}

# Written down a second time, from the specification.
ALLOWED: dict[Role, dict[State, dict[FrameType, State]]] = {
    Role.CLIENT: {
        S.HEADERS: {
            F.HEADERS: S.MESSAGES,
            F.MESSAGE: S.MESSAGES,
            F.GZIP_MESSAGE: S.MESSAGES,
            F.PART: S.ASSEMBLING,
            F.CREDIT: S.HEADERS,
            F.STATUS: S.CLOSED,
            F.CANCEL: S.CLOSED,
        },
        S.MESSAGES: {
            F.MESSAGE: S.MESSAGES,
            F.GZIP_MESSAGE: S.MESSAGES,
            F.PART: S.ASSEMBLING,
            F.CREDIT: S.MESSAGES,
            F.STATUS: S.CLOSED,
            F.CANCEL: S.CLOSED,
        },
        S.ASSEMBLING: {
            F.MORE: S.ASSEMBLING,
            F.CREDIT: S.ASSEMBLING,
            F.STATUS: S.CLOSED,
            F.CANCEL: S.CLOSED,
        },
    },
    Role.SERVER: {
        S.MESSAGES: {
            F.MESSAGE: S.MESSAGES,
            F.GZIP_MESSAGE: S.MESSAGES,
            F.PART: S.ASSEMBLING,
            F.CREDIT: S.MESSAGES,
            F.HALF_CLOSE: S.HALF_CLOSED,
            F.CANCEL: S.CLOSED,
        },
        S.ASSEMBLING: {F.MORE: S.ASSEMBLING, F.CREDIT: S.ASSEMBLING, F.CANCEL: S.CLOSED},
        S.HALF_CLOSED: {F.CREDIT: S.HALF_CLOSED, F.CANCEL: S.CLOSED},
    },
}
STATES = [(role, state) for role in Role for state in ALLOWED[role]]
PAIRS = [(role, state, kind) for role, state in STATES for kind in FrameType]


def name(value: object) -> str:
    return str(getattr(value, "name", value))


def test_the_table_is_the_specified_one() -> None:
    for role in Role:
        assert TRANSITIONS[role] == {**ALLOWED[role], State.CLOSED: {}}


@pytest.mark.parametrize(("role", "state", "kind"), PAIRS, ids=name)
def test_a_frame_in_a_state(role: Role, state: State, kind: FrameType) -> None:
    machine = machine_in(role, state)
    following = ALLOWED[role][state].get(kind)
    if following is None:
        with pytest.raises(ProtocolError, match=f"a {kind.name} frame is not allowed in state {state.name}"):
            machine.receive(packet(1, GOOD[kind]))
        assert machine.state is State.CLOSED
        assert machine.receive(packet(1, GOOD[kind])) == []
    else:
        assert machine.receive(packet(1, GOOD[kind])) == EVENTS[kind]
        assert machine.state is following


@pytest.mark.parametrize(("role", "state"), STATES, ids=name)
@pytest.mark.parametrize("number", [0, 10, 255])
def test_an_unknown_frame_in_a_state(role: Role, state: State, number: int) -> None:
    with pytest.raises(ProtocolError, match=f"an? unknown \\(type {number}\\) frame is not allowed"):
        machine_in(role, state).receive(packet(1, frames.FRAME_HEADER.pack(number, 0)))


@pytest.mark.parametrize(("role", "state"), STATES, ids=name)
def test_an_empty_packet_in_a_state(role: Role, state: State) -> None:
    machine = machine_in(role, state)
    assert machine.receive(packet(1)) == []
    assert machine.state is state


@pytest.mark.parametrize(("role", "state", "kind"), PAIRS, ids=name)
def test_once_it_is_closed_nothing_counts(role: Role, state: State, kind: FrameType) -> None:
    machine = machine_in(role, state)
    machine.receive(packet(1, GOOD[F.CANCEL]))
    assert machine.receive(packet(2, GOOD[kind])) == []
    assert machine.receive(b"?") == []
    machine.check_received(1000)
    assert machine.state is State.CLOSED
    assert packets_of(machine) == []


@pytest.mark.parametrize(("role", "state"), STATES, ids=name)
def test_what_follows_the_end_in_its_packet_does_not_count(role: Role, state: State) -> None:
    events = machine_in(role, state).receive(packet(1, GOOD[F.CANCEL], GOOD[F.CANCEL], b"?"))
    assert events == EVENTS[F.CANCEL]


@pytest.mark.parametrize(("role", "state"), STATES, ids=name)
def test_after_an_error_of_the_peer_it_can_be_told(role: Role, state: State) -> None:
    machine = machine_in(role, state)
    machine.send_message(b"never sent")
    with pytest.raises(ProtocolError):
        machine.receive(packet(7))
    machine.cancel(StatusCode.INTERNAL, "you")
    assert frames_of(packets_of(machine)) == [(F.CANCEL, frames.encode_status(StatusCode.INTERNAL, "you"))]
    assert machine.is_finished


def test_the_last_part_makes_a_message_and_leads_back() -> None:
    for role in Role:
        machine = machine_in(role, S.ASSEMBLING)
        assert machine.receive(packet(1, GOOD[F.MORE])) == []
        assert machine.state is S.ASSEMBLING
        (event,) = machine.receive(packet(2, frames.frame(F.MORE, b"x" * 1000)))
        assert isinstance(event, MessageReceived)
        assert event.data == b"p" * 2000 + b"m" * 2000 + b"x" * 1000
        assert machine.state is S.MESSAGES


def test_all_kinds_of_frames_in_one_packet() -> None:
    machine = StreamMachine(Role.CLIENT, max_message=MAX_MESSAGE)
    last = frames.frame(F.MORE, b"m" * 1000)
    kinds = (F.CREDIT, F.HEADERS, F.MESSAGE, F.GZIP_MESSAGE, F.PART, F.MORE)
    events = machine.receive(packet(0, *(GOOD[kind] for kind in kinds), last, GOOD[F.CREDIT], GOOD[F.STATUS]))
    assert [type(event) for event in events] == [
        HeadersReceived,
        MessageReceived,
        MessageReceived,
        MessageReceived,
        Ended,
    ]
    assert machine.state is S.CLOSED


def test_where_each_end_begins() -> None:
    for role in Role:
        assert StreamMachine(role, max_message=0).state is START[role]
