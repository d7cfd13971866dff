"""What a peer can do wrong beyond the table: order, sizes, credit; and what is held in memory for it."""

import tracemalloc

import pytest

from rpc.status import StatusCode
from rpc.wire import frames
from rpc.wire.envelope import ProtocolError
from rpc.wire.events import Credited, Event, HalfClosed, MessageReceived
from rpc.wire.frames import INITIAL_WINDOW, MAX_CREDIT, MESSAGE_COST, MIN_PART, FrameType
from rpc.wire.receiving import MessageTooLargeError
from rpc.wire.states import Role, State
from rpc.wire.stream import LocalProtocolError, StreamMachine
from tests.wire.packets import GOOD, MAX_MESSAGE, frames_of, machine_in, packet, packets_of

OK = frames.encode_status(StatusCode.OK, "")


def message(size: int) -> bytes:
    return frames.frame(FrameType.MESSAGE, b"m" * size)


def part(total: int, size: int, flags: int = 0) -> bytes:
    return frames.frame(FrameType.PART, frames.PART_HEADER.pack(flags, total) + b"p" * size)


def more(size: int) -> bytes:
    return frames.frame(FrameType.MORE, b"p" * size)


def server(*, max_message: int = MAX_MESSAGE, window: int = INITIAL_WINDOW) -> StreamMachine:
    return StreamMachine(Role.SERVER, max_message=max_message, window=window)


def granted(machine: StreamMachine) -> int:
    return sum(frames.decode_credit(body) for kind, body in frames_of(packets_of(machine)) if kind == FrameType.CREDIT)


def costs(events: list[Event]) -> list[int]:
    return [event.cost for event in events if isinstance(event, MessageReceived)]


# ---------------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("sequence", [0, 2, 3, frames.MAX_SEQUENCE])
def test_a_packet_that_is_not_the_one_that_is_due(sequence: int) -> None:
    machine = machine_in(Role.SERVER, State.MESSAGES)
    with pytest.raises(ProtocolError, match=f"packet {sequence} came, 1 was due: one was lost, doubled or late"):
        machine.receive(packet(sequence))


def test_numbers_go_on_with_0() -> None:
    machine = server()
    machine._incoming.sequence = machine._outgoing.sequence = frames.MAX_SEQUENCE
    machine.receive(packet(frames.MAX_SEQUENCE))
    machine.receive(packet(0))
    machine.send_message(b"a")
    first = packets_of(machine)
    machine.send_message(b"b")
    second = packets_of(machine)
    assert [frames.sequence_of(one) for one in first + second] == [frames.MAX_SEQUENCE, 0]
    assert machine.packets_made == 1


@pytest.mark.parametrize("sent", [2, 3, 1000, 2**31])
def test_packets_that_the_peer_has_sent_and_that_did_not_come(sent: int) -> None:
    machine = machine_in(Role.CLIENT, State.MESSAGES)
    with pytest.raises(ProtocolError, match=f"{sent - 1} packets were lost"):
        machine.check_received(sent)


@pytest.mark.parametrize("sent", [1, 0, frames.MAX_SEQUENCE, 2**31 + 1])
def test_packets_that_came_after_the_peer_counted(sent: int) -> None:
    machine_in(Role.CLIENT, State.MESSAGES).check_received(sent)


# ---------------------------------------------------------------------------------------------------------------- sizes


def test_a_message_of_the_largest_size() -> None:
    (event,) = server().receive(packet(0, message(MAX_MESSAGE)))
    assert isinstance(event, MessageReceived)
    assert len(event.data) == MAX_MESSAGE


def test_a_message_that_is_too_large() -> None:
    with pytest.raises(MessageTooLargeError, match=r"Received message larger than max \(100001 vs. 100000\)"):
        server().receive(packet(0, message(MAX_MESSAGE + 1)))


@pytest.mark.parametrize("total", [MAX_MESSAGE + 1, 2**63, 2**64 - 1])
def test_a_message_in_parts_that_will_be_too_large(total: int) -> None:
    with pytest.raises(MessageTooLargeError, match=rf"\({total} vs. 100000\)"):
        server().receive(packet(0, part(total, MIN_PART)))


def test_memory_is_not_spent_on_what_is_only_promised() -> None:
    machine = server(max_message=2**62)
    tracemalloc.start()
    machine.receive(packet(0, part(2**61, MIN_PART)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000


@pytest.mark.parametrize("flags", [2, 3, 128, 255])
def test_unknown_flags(flags: int) -> None:
    with pytest.raises(ProtocolError, match=f"unknown flags {flags}"):
        server().receive(packet(0, part(5000, 2000, flags)))


@pytest.mark.parametrize("length", range(9))
def test_a_part_without_a_whole_header(length: int) -> None:
    with pytest.raises(ProtocolError, match="PART frame is cut off"):
        server().receive(packet(0, frames.frame(FrameType.PART, b"\0" * length)))


@pytest.mark.parametrize("size", [0, 1, MIN_PART - 1])
def test_a_part_that_is_too_small(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"a part of {size} bytes is smaller than 1024, and not the last"):
        server().receive(packet(0, part(5000, size)))
    with pytest.raises(ProtocolError, match=f"a part of {size} bytes is smaller than 1024, and not the last"):
        machine_in(Role.SERVER, State.ASSEMBLING).receive(packet(1, more(size)))


@pytest.mark.parametrize("frame", [part(1999, 2000), part(0, 1)])
def test_more_than_a_message_was_to_be(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="larger than it was to be"):
        server().receive(packet(0, frame))


def test_more_at_the_end_than_a_message_was_to_be() -> None:
    with pytest.raises(ProtocolError, match="larger than it was to be"):
        machine_in(Role.SERVER, State.ASSEMBLING).receive(packet(1, more(3001)))


def test_a_message_that_is_whole_in_its_first_part() -> None:
    machine = server()
    (empty, short) = machine.receive(packet(0, part(0, 0), part(3, 3, flags=1)))
    assert empty == MessageReceived(b"", compressed=False, cost=MESSAGE_COST)
    assert short == MessageReceived(b"ppp", compressed=True, cost=MESSAGE_COST + 3)
    assert machine.state is State.MESSAGES


def test_a_part_that_is_little_of_its_packet_does_not_keep_all_of_it() -> None:
    machine = server(max_message=INITIAL_WINDOW)
    filler = GOOD[FrameType.CREDIT] * 10_000
    tracemalloc.start()
    machine.receive(packet(0, part(10**6, MIN_PART), filler))
    for sequence in range(1, 20):
        machine.receive(packet(sequence, more(MIN_PART), filler))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 50_000


# -------------------------------------------------------------------------------------------------------- odd contents


def test_a_half_close_with_a_body() -> None:
    with pytest.raises(ProtocolError, match="HALF_CLOSE frame has a body"):
        server().receive(packet(0, frames.frame(FrameType.HALF_CLOSE, b"!")))


def test_a_cancellation_that_says_ok() -> None:
    for role in Role:
        with pytest.raises(ProtocolError, match="with status OK"):
            StreamMachine(role, max_message=1).receive(packet(0, frames.frame(FrameType.CANCEL, OK)))


def test_ok_in_the_middle_of_a_message() -> None:
    with pytest.raises(ProtocolError, match="with status OK"):
        machine_in(Role.CLIENT, State.ASSEMBLING).receive(packet(1, frames.frame(FrameType.STATUS, OK)))


def test_ok_after_the_last_message() -> None:
    machine_in(Role.CLIENT, State.MESSAGES).receive(packet(1, frames.frame(FrameType.STATUS, OK)))


def test_half_closed_behind_the_messages() -> None:
    events = server().receive(packet(0, message(1), GOOD[FrameType.HALF_CLOSE]))
    assert events[1:] == [HalfClosed()]


# --------------------------------------------------------------------------------------------------------------- credit


def test_all_of_the_credit_may_be_used_and_not_a_byte_more() -> None:
    rest = INITIAL_WINDOW - 10 * (MAX_MESSAGE + MESSAGE_COST)
    for over in (0, 1):
        machine = server()
        machine.receive(packet(0, *[message(MAX_MESSAGE)] * 10))
        last = packet(1, message(rest - MESSAGE_COST + over))
        if not over:
            machine.receive(last)
            continue
        with pytest.raises(ProtocolError, match="more than it had credit for"):
            machine.receive(last)


def test_tiny_messages_are_not_free() -> None:
    allowed = INITIAL_WINDOW // MESSAGE_COST
    machine = server()
    assert len(machine.receive(packet(0, message(0) * allowed))) == allowed
    with pytest.raises(ProtocolError, match="more than it had credit for"):
        machine.receive(packet(1, message(0)))


def test_parts_cost_what_they_hold() -> None:
    machine = server(max_message=2 * INITIAL_WINDOW)
    machine.receive(packet(0, message(0)))  # unread: so nothing is given back for the parts
    rest = INITIAL_WINDOW - 2 * MESSAGE_COST
    machine.receive(packet(1, part(2 * INITIAL_WINDOW, rest - MIN_PART)))
    machine.receive(packet(2, more(MIN_PART)))
    with pytest.raises(ProtocolError, match="more than it had credit for"):
        machine.receive(packet(3, more(MIN_PART)))


def test_credit_is_given_back_when_half_of_the_window_is_due() -> None:
    machine = server()
    size = INITIAL_WINDOW // 8
    machine = server(max_message=size)
    events = machine.receive(packet(0, *[message(size - MESSAGE_COST)] * 8))
    for at, cost in enumerate(costs(events), 1):
        machine.consumed(cost)
        assert machine.has_credit_to_give == (at in (4, 8))
        assert granted(machine) == (INITIAL_WINDOW // 2 if at in (4, 8) else 0)


def test_a_larger_window_is_granted_at_once() -> None:
    machine = server(window=3 * INITIAL_WINDOW)
    assert machine.has_credit_to_give
    assert granted(machine) == 2 * INITIAL_WINDOW


@pytest.mark.parametrize("window", [0, INITIAL_WINDOW - 1, MAX_CREDIT + 1])
def test_windows_that_cannot_be(window: int) -> None:
    with pytest.raises(LocalProtocolError, match="a window must have"):
        server(window=window)


def test_the_largest_window() -> None:
    assert granted(server(window=MAX_CREDIT)) == MAX_CREDIT - INITIAL_WINDOW


def test_a_message_that_is_larger_than_the_window_is_given_back_as_it_comes() -> None:
    total = 10 * INITIAL_WINDOW
    machine = server(max_message=total)
    credit, sequence, events = INITIAL_WINDOW, 0, machine.receive(packet(0, part(total, 200_000)))
    credit -= 200_000 + MESSAGE_COST
    left = total - 200_000
    while left:
        sequence += 1
        size = min(left, 200_000, credit)
        events = machine.receive(packet(sequence, more(size)))
        left -= size
        credit += granted(machine) - size
        assert credit >= INITIAL_WINDOW // 2 - 200_000
    (event,) = events
    assert isinstance(event, MessageReceived)
    assert len(event.data) == total


def test_behind_a_message_that_nobody_reads_no_more_than_the_window_is_taken_in() -> None:
    """Otherwise messages in parts would pile up: each of them may be as large as a message can be."""
    total = 4 * INITIAL_WINDOW
    machine = server(max_message=total)
    (unread,) = machine.receive(packet(0, message(10)))
    machine.receive(packet(1, part(total, INITIAL_WINDOW - 10 - 2 * MESSAGE_COST)))
    assert granted(machine) == 0
    machine.consumed(costs([unread])[0])  # It is the only one now: it can go on.
    assert granted(machine) == INITIAL_WINDOW


def test_credit_is_not_given_to_those_who_send_no_more() -> None:
    size = INITIAL_WINDOW - MESSAGE_COST
    for last in (FrameType.HALF_CLOSE, FrameType.CANCEL):
        machine = server(max_message=size)
        events = machine.receive(packet(0, message(size), GOOD[last]))
        machine.consumed(costs(events)[0])
        assert granted(machine) == 0


def test_credit_beyond_measure() -> None:
    machine = server()
    rest = MAX_CREDIT - INITIAL_WINDOW
    assert machine.receive(packet(0, frames.encode_credit(rest - 1), frames.encode_credit(1))) == [Credited()]
    with pytest.raises(ProtocolError, match="more credit than 4294967295 bytes"):
        machine.receive(packet(1, frames.encode_credit(1)))


def test_a_packet_full_of_credit_is_one_event() -> None:
    machine = server()
    data = packet(0, GOOD[FrameType.CREDIT] * 100_000)
    tracemalloc.start()
    assert machine.receive(data) == [Credited()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000
