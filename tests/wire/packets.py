"""Packets made by hand, and machines in each state."""

from collections.abc import Iterable

from rpc.status import StatusCode
from rpc.wire import frames
from rpc.wire.frames import FrameType
from rpc.wire.states import Role, State
from rpc.wire.stream import StreamMachine

MAX_MESSAGE = 100_000

PART_OF_5000 = frames.frame(FrameType.PART, frames.PART_HEADER.pack(0, 5000) + b"p" * 2000)

# One good frame of each type.
GOOD: dict[FrameType, bytes] = {
    FrameType.HEADERS: frames.frame(FrameType.HEADERS, frames.encode_metadata((("a", "b"),))),
    FrameType.MESSAGE: frames.frame(FrameType.MESSAGE, b"message"),
    FrameType.GZIP_MESSAGE: frames.frame(FrameType.GZIP_MESSAGE, b"zipped"),
    FrameType.PART: PART_OF_5000,
    FrameType.MORE: frames.frame(FrameType.MORE, b"m" * 2000),
    FrameType.HALF_CLOSE: frames.frame(FrameType.HALF_CLOSE),
    FrameType.CREDIT: frames.encode_credit(1),
    FrameType.STATUS: frames.frame(FrameType.STATUS, frames.encode_status(StatusCode.ABORTED, "why", (("t", "u"),))),
    FrameType.CANCEL: frames.frame(FrameType.CANCEL, frames.encode_status(StatusCode.CANCELLED, "enough")),
}

# What brings a machine into a state, from its first packet on.
WAY_TO: dict[State, list[FrameType]] = {
    State.HEADERS: [],
    State.MESSAGES: [FrameType.MESSAGE],
    State.ASSEMBLING: [FrameType.PART],
    State.HALF_CLOSED: [FrameType.HALF_CLOSE],
    State.CLOSED: [FrameType.CANCEL],
}


def packet(sequence: int, *encoded: bytes) -> bytes:
    return frames.PACKET_HEADER.pack(sequence) + b"".join(encoded)


def frame_list(data: bytes) -> list[tuple[FrameType, bytes]]:
    """The frames of a packet."""
    return [(FrameType(number), data[begin:end]) for number, begin, end in frames.split(data)]


def machine_in(role: Role, state: State, *, max_message: int = MAX_MESSAGE) -> StreamMachine:
    """A machine whose peer has brought it into a state, with packet 0."""
    machine = StreamMachine(role, max_message=max_message)
    machine.receive(packet(0, *(GOOD[kind] for kind in WAY_TO[state])))
    assert machine.state is state
    return machine


def packets_of(machine: StreamMachine, max_size: int = 256 * 1024) -> list[bytes]:
    """All that a machine can send now."""
    return list(iter(lambda: machine.next_packet(max_size), None))


def frames_of(made: Iterable[bytes]) -> list[tuple[FrameType, bytes]]:
    return [one for data in made for one in frame_list(data)]
