"""Requests and replies as headers. The invariant: whatever a peer sends is a value or a ProtocolError, nothing else."""

import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.metadata import Metadata
from rpc.status import Refusal, StatusCode, StatusError
from rpc.wire import envelope
from rpc.wire.envelope import ProtocolError, Reply, Request
from tests.unit.test_metadata import METADATA

CODES = st.sampled_from([code for code in StatusCode if code is not StatusCode.OK])

# What a peer that speaks a newer dialect is told: a status of its own.
UnknownEncoding = StatusError

NAMES = [
    *("grpc-timeout", "grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-encoding"),
    *("mesh-refused", "mesh-accepted", "mesh-stream", "Status", "Nats-Service-Error", "Nats-Service-Error-Code"),
    *("a", "a-bin", "mesh-dup-1-a", "mesh-trailer-a", "mesh-dup-1-mesh-trailer-a-bin"),
]
VALUES = ["0", "1", "16", "17", "999", "-1", "503", "%", "%zz", "%ff", "gzip", "identity", "1S"]
HOSTILE = st.dictionaries(
    st.one_of(st.text(max_size=10), st.sampled_from(NAMES)),
    st.one_of(st.text(max_size=20), st.sampled_from(VALUES)),
)


@given(st.one_of(st.none(), st.floats(min_value=0, max_value=1e6)), METADATA)
def test_requests_come_back_as_they_were_written(timeout: float | None, metadata: Metadata) -> None:
    headers = envelope.request_headers(metadata, timeout)
    request = envelope.read_request(headers)
    assert request.metadata == metadata
    assert not request.compressed
    assert not request.stream
    assert (request.timeout is None) == (timeout is None)
    if timeout is not None and request.timeout is not None:
        assert request.timeout == pytest.approx(timeout, rel=1e-3, abs=1e-6)


def test_what_has_nothing_to_say_needs_no_headers() -> None:
    assert envelope.request_headers((), None) is None
    assert envelope.response_headers((), ()) is None
    assert envelope.read_request(None) == envelope.read_request({}) == Request()


@given(METADATA, METADATA)
def test_responses_come_back_as_they_were_written(initial: Metadata, trailing: Metadata) -> None:
    headers = envelope.response_headers(initial, trailing)
    if headers is not None:
        assert envelope.read_reply(headers) == Reply(initial, trailing, None)


@given(CODES, st.text(max_size=200), METADATA, METADATA)
def test_errors_come_back_as_they_were_written(
    code: StatusCode, details: str, initial: Metadata, trailing: Metadata
) -> None:
    headers = envelope.error_headers(code, details, initial, trailing)
    for name in ("grpc-message", "Nats-Service-Error", "Nats-Service-Error-Code"):
        assert headers[name].isascii()
        assert headers[name].isprintable()
        assert headers[name] == headers[name].strip()
    reply = envelope.read_reply(headers)
    assert reply.error is not None
    assert type(reply.error) is StatusError
    assert reply.error.code is code
    assert reply.error.details == details.encode("utf-8", "replace").decode()
    assert (reply.initial_metadata, reply.trailing_metadata) == (initial, trailing)


@pytest.mark.parametrize("reason", ["queue-full", "draining"])
def test_a_refusal_says_that_nothing_was_started(reason: str) -> None:
    error = envelope.read_reply(envelope.error_headers(StatusCode.UNAVAILABLE, "busy", refused=reason)).error
    assert isinstance(error, Refusal)
    assert (error.code, error.details, error.reason) == (StatusCode.UNAVAILABLE, "busy", reason)


def test_no_responders_is_a_refusal() -> None:
    error = envelope.read_reply({"Status": "503"}).error
    assert isinstance(error, Refusal)
    assert error.reason == "no-responders"


def test_details_are_cut_at_a_whole_character() -> None:
    details = "ä" * envelope.MAX_DETAILS_BYTES
    read = envelope.decode_message(envelope.encode_message(details))
    assert details.startswith(read)
    assert len(read.encode()) == envelope.MAX_DETAILS_BYTES


@pytest.mark.parametrize("number", ["17", "99", "999"])
def test_numbers_that_grpc_does_not_define_are_unknown(number: str) -> None:
    error = envelope.read_reply({"grpc-status": number}).error
    assert error is not None
    assert error.code is StatusCode.UNKNOWN


@pytest.mark.parametrize("number", ["", "x", "-1", "1.0", "\u0661", "1 ", "0x0", "12345"])
def test_a_malformed_status_is_a_protocol_error(number: str) -> None:
    with pytest.raises(ProtocolError):
        envelope.read_reply({"grpc-status": number})


@given(HOSTILE)
def test_any_headers_give_a_reply_or_a_protocol_error(headers: dict[str, str]) -> None:
    with contextlib.suppress(ProtocolError, UnknownEncoding):
        reply = envelope.read_reply(headers)
        assert isinstance(reply, Reply)
        assert reply.error is None or reply.error.code is not StatusCode.OK


@given(HOSTILE)
def test_any_headers_give_a_request_or_a_protocol_error(headers: dict[str, str]) -> None:
    with contextlib.suppress(ProtocolError, UnknownEncoding):
        request = envelope.read_request(headers)
        assert request.timeout is None or request.timeout >= 0
        assert isinstance(request.metadata, tuple)


def test_an_unknown_encoding_is_not_guessed() -> None:
    """A caller is told which it may use; a back-end that answers in another one has broken the protocol."""
    with pytest.raises(StatusError, match="unknown message encoding 'zstd'") as error:
        envelope.read_request({"grpc-encoding": "zstd"})
    assert error.value.code is StatusCode.UNIMPLEMENTED
    with pytest.raises(envelope.ProtocolError, match="unknown message encoding 'zstd'"):
        envelope.read_reply({"grpc-encoding": "zstd"})


@given(st.binary(max_size=2000))
def test_compressed_messages_come_back(message: bytes) -> None:
    assert envelope.gunzip(envelope.gzip(message), 2000) == message


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_a_status(data: bytes) -> None:
    with contextlib.suppress(StatusError):
        assert len(envelope.gunzip(data, 1000)) <= 1000


def test_a_decompression_bomb_is_refused_before_it_unfolds() -> None:
    bomb = envelope.gzip(bytes(50_000_000))
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(StatusError) as error:
            envelope.gunzip(bomb, 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert error.value.code is StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("data", [b"", b"no gzip", envelope.gzip(b"x" * 100)[:-5]])
def test_what_is_not_whole_gzip_is_an_error(data: bytes) -> None:
    with pytest.raises(StatusError) as error:
        envelope.gunzip(data, 1000)
    assert error.value.code is StatusCode.INTERNAL
