"""Compressed messages: what is packed comes out again, within the limit, or it is a status."""

import contextlib
import gzip as stdlib_gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.status import StatusCode, StatusError
from rpc.wire import envelope
from rpc.wire.envelope import Reply, gunzip, gzip


@given(st.binary(max_size=3000))
def test_messages_come_back(data: bytes) -> None:
    assert gunzip(gzip(data), len(data)) == data
    assert stdlib_gzip.decompress(gzip(data)) == data
    assert gunzip(stdlib_gzip.compress(data), len(data)) == data


@given(st.binary(max_size=100), st.integers(0, 100))
def test_any_bytes_are_a_message_or_a_status(data: bytes, limit: int) -> None:
    for packed in (data, gzip(data)[: -len(data) % 20], gzip(data) + data):
        with contextlib.suppress(StatusError):
            assert len(gunzip(packed, limit)) <= limit


@pytest.mark.parametrize(
    ("packed", "code", "why"),
    [
        (b"", StatusCode.INTERNAL, "cut off"),
        (b"no gzip", StatusCode.INTERNAL, "not valid gzip"),
        (zlib.compress(b"zlib is another format"), StatusCode.INTERNAL, "not valid gzip"),
        (gzip(b"message")[:-1], StatusCode.INTERNAL, "cut off"),
        (gzip(b"message")[:-5] + b"12345", StatusCode.INTERNAL, "not valid gzip"),
        (gzip(b"message") + b"\0", StatusCode.INTERNAL, "something follows"),
        (gzip(b"one") + gzip(b"two"), StatusCode.INTERNAL, "something follows"),
        (gzip(b"x" * 101), StatusCode.RESOURCE_EXHAUSTED, r"larger than max \(100\), decompressed"),
    ],
)
def test_what_is_not_taken(packed: bytes, code: StatusCode, why: str) -> None:
    with pytest.raises(StatusError, match=why) as caught:
        gunzip(packed, 100)
    assert caught.value.code is code


def test_a_message_that_is_too_large_is_told_in_the_words_of_grpc() -> None:
    error = envelope.too_large(5, 4)
    assert (error.code, error.details) == (
        StatusCode.RESOURCE_EXHAUSTED,
        "Received message larger than max (5 vs. 4)",
    )


def test_headers_say_that_a_message_is_compressed() -> None:
    assert envelope.read_request(envelope.request_headers((), None, compressed=True)).compressed
    headers = envelope.response_headers((), (), compressed=True)
    assert headers is not None
    assert envelope.read_reply(headers) == Reply((), (), None, compressed=True)


def test_details_that_are_no_text_stay_readable() -> None:
    assert envelope.decode_message("a%20b\udc80") == "a b?"
