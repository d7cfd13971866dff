"""Frames, one by one: what is encoded comes back; whatever else there may be is a ProtocolError."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.metadata import Metadata
from rpc.status import StatusCode
from rpc.wire import frames
from rpc.wire.envelope import ProtocolError
from rpc.wire.frames import FrameType
from tests.unit.test_metadata import METADATA
from tests.wire.packets import packet


@given(st.integers(0, frames.MAX_SEQUENCE), st.lists(st.tuples(st.sampled_from(FrameType), st.binary(max_size=30))))
def test_packets_come_apart_as_they_were_put_together(sequence: int, parts: list[tuple[FrameType, bytes]]) -> None:
    data = packet(sequence, *(frames.frame(kind, body) for kind, body in parts))
    assert frames.sequence_of(data) == sequence
    assert [(number, data[begin:end]) for number, begin, end in frames.split(data)] == parts


@given(st.binary(max_size=200))
def test_any_bytes_come_apart_completely_or_not_at_all(data: bytes) -> None:
    try:
        sequence = frames.sequence_of(data)
        parts = [(number, data[begin:end]) for number, begin, end in frames.split(data)]
    except ProtocolError:
        return
    again = b"".join(frames.FRAME_HEADER.pack(number, len(body)) + body for number, body in parts)
    assert packet(sequence, again) == data


@pytest.mark.parametrize("length", range(4))
def test_a_packet_without_a_whole_sequence_number(length: int) -> None:
    with pytest.raises(ProtocolError, match="no sequence number"):
        frames.sequence_of(b"\0" * length)


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_packet_that_is_cut_off(cut: int) -> None:
    data = packet(0, frames.frame(FrameType.MESSAGE, b"12345"))
    with pytest.raises(ProtocolError, match=r"cut off|ends within"):
        list(frames.split(data[:-cut]))


def test_frames_come_one_by_one() -> None:
    """A packet that is broken, or has frames beyond number, costs what is looked at."""
    found = frames.split(packet(0, frames.frame(FrameType.MESSAGE, b"fine"), b"broken"))
    assert next(found)[0] == FrameType.MESSAGE
    with pytest.raises(ProtocolError):
        next(found)


@given(METADATA)
def test_metadata_comes_back(metadata: Metadata) -> None:
    assert frames.decode_metadata(frames.encode_metadata(metadata)) == (metadata, ())
    assert frames.decode_metadata(frames.encode_metadata(metadata, trailing=True)) == ((), metadata)


@given(st.sampled_from(StatusCode), st.text(max_size=300), METADATA)
def test_statuses_come_back(code: StatusCode, details: str, trailing: Metadata) -> None:
    details = details.encode("utf-8", "replace").decode()
    assert frames.decode_status(frames.encode_status(code, details, trailing)) == (code, details, trailing)


@given(st.integers(1, frames.MAX_CREDIT))
def test_credit_comes_back(amount: int) -> None:
    ((number, begin, end),) = frames.split(data := packet(0, frames.encode_credit(amount)))
    assert number == FrameType.CREDIT
    assert frames.decode_credit(data[begin:end]) == amount


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"", "not 4 bytes"), (b"\0\0\1", "not 4 bytes"), (b"\0\0\0\1\0", "not 4 bytes"), (b"\0\0\0\0", "nothing")],
)
def test_credit_that_is_none(body: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        frames.decode_credit(body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "cut off"),
        (b"\5\0", "cut off"),
        (b"\5\0\3no", "cut off"),
        (b"\5\0\0no colon", "no ': '"),
        (b"\5\0\0caf\xc3\xa9: x\r\n", "not ASCII"),
    ],
)
def test_statuses_that_are_none(body: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        frames.decode_status(body)


def test_a_code_that_grpc_does_not_know_is_unknown() -> None:
    assert frames.decode_status(b"\x63\0\0") == (StatusCode.UNKNOWN, "", ())


@given(st.binary(max_size=100))
def test_any_body_is_metadata_or_a_protocol_error(body: bytes) -> None:
    for decode in (frames.decode_metadata, frames.decode_status, frames.decode_credit):
        with contextlib.suppress(ProtocolError):
            decode(body)
