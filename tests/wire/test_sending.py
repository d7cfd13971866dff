"""What goes into packets: in which order, in which sizes, and what this end must not do."""

from collections.abc import Callable

import pytest

from rpc.status import StatusCode
from rpc.wire import frames
from rpc.wire.events import MessageReceived
from rpc.wire.frames import INITIAL_WINDOW, MESSAGE_COST, MIN_PART, PACKET_HEADER, FrameType
from rpc.wire.sending import MIN_PACKET
from rpc.wire.states import Role, State
from rpc.wire.stream import LocalProtocolError, StreamMachine
from tests.wire.packets import GOOD, MAX_MESSAGE, frame_list, frames_of, packet, packets_of

F = FrameType
STATUS = frames.encode_status(StatusCode.OK, "")


def client() -> StreamMachine:
    return StreamMachine(Role.CLIENT, max_message=MAX_MESSAGE)


def server() -> StreamMachine:
    return StreamMachine(Role.SERVER, max_message=MAX_MESSAGE)


def kinds(made: list[bytes]) -> list[list[FrameType]]:
    return [[kind for kind, _ in frame_list(one)] for one in made]


# ---------------------------------------------------------------------------------------------------------------- order


def test_nothing_to_say_is_no_packet() -> None:
    assert client().next_packet(MIN_PACKET) is None
    assert client().next_packet(MIN_PACKET, even_empty=True) == packet(0)


@pytest.mark.parametrize(
    ("make", "say"),
    [
        pytest.param(client, lambda machine: machine.send_message(b"request"), id="a message"),
        pytest.param(client, lambda machine: machine.half_close(), id="half-close"),
        pytest.param(client, lambda machine: machine.cancel(StatusCode.CANCELLED, "enough"), id="cancel"),
        pytest.param(client, lambda machine: machine.consumed(INITIAL_WINDOW), id="credit"),
        pytest.param(server, lambda machine: machine.send_headers(()), id="headers"),
        pytest.param(server, lambda machine: machine.end(StatusCode.OK), id="status"),
    ],
)
def test_there_is_something_to_send_until_it_is_in_a_packet(
    make: Callable[[], StreamMachine], say: Callable[[StreamMachine], None]
) -> None:
    machine = make()
    assert not machine.has_something
    say(machine)
    assert machine.has_something
    assert packets_of(machine)
    assert not machine.has_something


def test_a_message_without_credit_is_still_something_to_send() -> None:
    machine = client()
    machine.send_message(bytes(INITIAL_WINDOW))
    machine.send_message(b"has to wait")
    assert packets_of(machine)
    assert machine.has_something
    assert machine.next_packet(MIN_PACKET) is None


def test_what_opens_a_call_of_one_request() -> None:
    machine = client()
    machine.send_message(b"request")
    machine.half_close()
    assert kinds(packets_of(machine)) == [[F.MESSAGE, F.HALF_CLOSE]]
    assert machine.is_finished
    assert machine.state is State.HEADERS


def test_all_of_an_answer_in_one_packet() -> None:
    machine = server()
    machine.send_message(b"early")
    machine.send_message(b"zip", compressed=True)
    machine.end(StatusCode.OK)
    made = packets_of(machine)
    assert frames_of(made) == [(F.MESSAGE, b"early"), (F.GZIP_MESSAGE, b"zip"), (F.STATUS, STATUS)]
    assert len(made) == 1
    assert machine.is_finished
    assert machine.state is State.CLOSED


def test_headers_and_credit_go_first() -> None:
    machine = StreamMachine(Role.SERVER, max_message=1, window=INITIAL_WINDOW + 5)
    machine.send_headers((("a", "b"),))
    machine.send_message(b"later")
    assert kinds(packets_of(machine)) == [[F.HEADERS, F.CREDIT, F.MESSAGE]]


def test_small_messages_share_packets_and_arrive_in_order() -> None:
    machine = server()
    sent = [bytes([at]) * at for at in range(200)]
    for one in sent:
        machine.send_message(one)
    made = packets_of(machine, 2 * MIN_PACKET)
    assert [body for _, body in frames_of(made)] == sent
    assert all(len(one) <= 2 * MIN_PACKET for one in made)
    assert len(made) == pytest.approx(sum(len(one) + 5 for one in sent) / (2 * MIN_PACKET), rel=0.3)


# ---------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("size", [0, 1, MIN_PART, MIN_PACKET - 9, MIN_PACKET - 8, MIN_PACKET, 5 * MIN_PACKET, 99_999])
@pytest.mark.parametrize("before", [0, 1, 100, MIN_PART, MIN_PACKET - 9, MIN_PACKET - 14, MIN_PACKET - 20])
def test_messages_of_any_size_in_the_smallest_packets(before: int, size: int) -> None:
    sender, receiver = server(), client()
    for one in (b"a" * before, b"b" * size, b"c"):
        sender.send_message(one)
    made = packets_of(sender, MIN_PACKET)
    received = [event for one in made for event in receiver.receive(one)]
    assert [e.data for e in received if isinstance(e, MessageReceived)] == [b"a" * before, b"b" * size, b"c"]
    assert all(len(one) <= MIN_PACKET for one in made)
    assert sender.is_drained
    assert sender.queued == 0


def test_what_fits_into_a_packet_of_its_own_is_not_torn() -> None:
    machine = server()
    machine.send_message(b"a" * 1000)
    machine.send_message(b"b" * (MIN_PACKET - 9))
    assert kinds(packets_of(machine, MIN_PACKET)) == [[F.MESSAGE], [F.MESSAGE]]


def test_a_packet_that_is_too_small_for_anything() -> None:
    with pytest.raises(LocalProtocolError, match=f"must be allowed {MIN_PACKET} bytes"):
        server().next_packet(MIN_PACKET - 1)


def test_headers_that_are_too_large_for_a_packet() -> None:
    machine = server()
    machine.send_headers((("a", "b" * MIN_PACKET),))
    with pytest.raises(LocalProtocolError, match="initial metadata does not fit"):
        machine.next_packet(MIN_PACKET)


def test_a_status_that_is_too_large_for_a_packet() -> None:
    machine = server()
    machine.send_message(b"out of the way")
    machine.end(StatusCode.OK, "", (("a", "b" * MIN_PACKET),))
    assert kinds([machine.next_packet(MIN_PACKET) or b""]) == [[F.MESSAGE]]
    with pytest.raises(LocalProtocolError, match=r"a status of \d+ bytes does not fit"):
        machine.next_packet(MIN_PACKET)


@pytest.mark.parametrize("left", range(30))
def test_the_end_waits_for_a_packet_with_room_for_it(left: int) -> None:
    for machine in (client(), server()):
        machine.send_message(b"x" * (MIN_PACKET - PACKET_HEADER.size - 5 - left))
        if machine._role is Role.CLIENT:
            machine.half_close()
        else:
            machine.end(StatusCode.OK)
        last = 5 if machine._role is Role.CLIENT else 8
        made = packets_of(machine, MIN_PACKET)
        assert len(made) == (1 if left >= last else 2)
        assert machine.is_finished


@pytest.mark.parametrize("left", range(12))
def test_credit_waits_for_a_packet_with_room_for_it(left: int) -> None:
    machine = StreamMachine(Role.SERVER, max_message=1, window=INITIAL_WINDOW + 1)
    machine.send_headers((("a", "b" * (MIN_PACKET - PACKET_HEADER.size - 5 - 5 - left)),))
    made = packets_of(machine, MIN_PACKET)
    assert kinds(made) == ([[F.HEADERS, F.CREDIT]] if left >= 9 else [[F.HEADERS], [F.CREDIT]])


# --------------------------------------------------------------------------------------------------------------- credit


def test_messages_wait_for_credit_and_the_end_waits_for_them() -> None:
    machine = server()
    size = INITIAL_WINDOW // 4 - MESSAGE_COST
    for _ in range(5):
        machine.send_message(b"x" * size)
    machine.end(StatusCode.OK)
    assert [kind for kind, _ in frames_of(packets_of(machine))] == [F.MESSAGE] * 4
    assert machine.queued == size + MESSAGE_COST
    assert not machine.is_drained
    assert not machine.is_finished
    assert machine.state is State.MESSAGES
    machine.receive(packet(0, frames.encode_credit(size + MESSAGE_COST)))
    assert [kind for kind, _ in frames_of(packets_of(machine))] == [F.MESSAGE, F.STATUS]
    assert machine.state is State.CLOSED


def test_a_rest_of_credit_is_not_used_for_crumbs() -> None:
    machine = server()
    machine.send_message(b"x" * (INITIAL_WINDOW + 5000))
    packets_of(machine)
    assert machine.queued == 5000 + MESSAGE_COST
    machine.receive(packet(0, frames.encode_credit(MIN_PART - 1)))
    assert packets_of(machine) == []
    machine.receive(packet(1, frames.encode_credit(1)))
    ((kind, body),) = frames_of(packets_of(machine))
    assert (kind, len(body)) == (F.MORE, MIN_PART)


def test_a_small_message_waits_for_all_of_its_credit() -> None:
    machine = server()
    machine.send_message(b"x" * (INITIAL_WINDOW - MESSAGE_COST))
    packets_of(machine)
    machine.send_message(b"")
    for sequence in range(MESSAGE_COST - 1):
        machine.receive(packet(sequence, GOOD[F.CREDIT]))
        assert packets_of(machine) == []
    machine.receive(packet(MESSAGE_COST - 1, GOOD[F.CREDIT]))
    assert frames_of(packets_of(machine)) == [(F.MESSAGE, b"")]


# ----------------------------------------------------------------------------------------------------------- the end


def test_an_end_that_discards_does_not_wait() -> None:
    machine = server()
    for _ in range(3):
        machine.send_message(b"x" * INITIAL_WINDOW)
    packets_of(machine)
    machine.end(StatusCode.DEADLINE_EXCEEDED, discard=True)
    assert [kind for kind, _ in frames_of(packets_of(machine))] == [F.STATUS]


def test_a_cancellation_overtakes_all_that_waits() -> None:
    """Also the status of a call whose messages the peer does not take: it must learn of its deadline."""
    machine = server()
    machine.send_headers(())
    machine.send_message(b"x" * 2 * INITIAL_WINDOW)
    packets_of(machine)
    machine.end(StatusCode.OK)
    machine.cancel(StatusCode.DEADLINE_EXCEEDED, "late")
    assert frames_of(packets_of(machine)) == [(F.CANCEL, frames.encode_status(StatusCode.DEADLINE_EXCEEDED, "late"))]
    assert machine.state is State.CLOSED


def test_only_the_first_cancellation_counts() -> None:
    machine = client()
    machine.send_message(b"never")
    machine.half_close()
    machine.cancel(StatusCode.CANCELLED, "first")
    machine.cancel(StatusCode.ABORTED, "second")
    assert frames_of(packets_of(machine)) == [(F.CANCEL, frames.encode_status(StatusCode.CANCELLED, "first"))]
    machine.cancel(StatusCode.ABORTED, "third")
    assert packets_of(machine) == []


def test_a_call_that_is_over_is_not_cancelled() -> None:
    ended, told = server(), client()
    ended.end(StatusCode.OK)
    (last,) = packets_of(ended)
    told.receive(last)
    for machine in (ended, told):
        machine.cancel(StatusCode.CANCELLED, "too late")
        assert packets_of(machine) == []


def test_the_peers_end_silences_this_one() -> None:
    machine = StreamMachine(Role.CLIENT, max_message=1, window=INITIAL_WINDOW + 1)
    machine.send_message(b"waits")
    machine.half_close()
    machine.receive(packet(0, GOOD[F.STATUS]))
    assert packets_of(machine) == []
    assert machine.is_finished
    assert machine.is_drained


def test_an_abandoned_call_says_nothing_and_hears_nothing() -> None:
    machine = server()
    machine.send_message(b"never")
    machine.abandon()
    assert packets_of(machine) == []
    assert machine.state is State.CLOSED
    assert machine.receive(packet(0, GOOD[F.MESSAGE])) == []


# ----------------------------------------------------------------------------------------------------- our own mistakes


def test_each_end_has_its_own_frames() -> None:
    with pytest.raises(LocalProtocolError, match="only a server"):
        client().send_headers(())
    with pytest.raises(LocalProtocolError, match="only a server"):
        client().end(StatusCode.OK)
    with pytest.raises(LocalProtocolError, match="only a client"):
        server().half_close()


def test_headers_come_once_and_first() -> None:
    twice, late = server(), server()
    twice.send_headers(())
    late.send_message(b"first")
    for machine in (twice, late):
        with pytest.raises(LocalProtocolError, match="once, before any message"):
            machine.send_headers(())


def test_after_the_last_word_there_is_none() -> None:
    closed, ended, cancelled = client(), server(), server()
    closed.half_close()
    ended.end(StatusCode.OK)
    cancelled.cancel(StatusCode.CANCELLED, "")
    for machine in (closed, ended, cancelled):
        with pytest.raises(LocalProtocolError, match="nothing can be sent any more"):
            machine.send_message(b"late")
    with pytest.raises(LocalProtocolError, match="nothing can be sent any more"):
        closed.half_close()
    with pytest.raises(LocalProtocolError, match="nothing can be sent any more"):
        ended.end(StatusCode.OK)


def test_ok_is_no_way_to_break_off() -> None:
    with pytest.raises(LocalProtocolError, match="cannot be cancelled with OK"):
        client().cancel(StatusCode.OK, "")
    with pytest.raises(LocalProtocolError, match="cannot end with OK"):
        server().end(StatusCode.OK, discard=True)
