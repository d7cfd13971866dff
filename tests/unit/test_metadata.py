"""gRPC's rules for metadata, and its way through NATS headers and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.metadata import (
    MAX_METADATA_BYTES,
    PAIR_COST,
    STATUS_DETAILS_KEY,
    Metadata,
    normalize,
    read_headers,
    write_headers,
)

RESERVED = ("grpc-", "mesh-", "nats-")
KEYS = st.text("abcxyz019_-.", min_size=1, max_size=12).filter(
    lambda key: not key.startswith(RESERVED) and not key.endswith("-bin")
)
TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
PAIRS = st.one_of(st.tuples(KEYS, TEXT), st.tuples(KEYS.map(lambda key: f"{key}-bin"), st.binary(max_size=20)))
METADATA = st.lists(PAIRS, max_size=8).map(tuple)


@given(METADATA, METADATA)
def test_metadata_comes_back_as_it_was_written(initial: Metadata, trailing: Metadata) -> None:
    headers: dict[str, str] = {"grpc-status": "5"}
    write_headers(headers, normalize(initial))
    write_headers(headers, normalize(trailing), trailing=True)
    assert all(isinstance(value, str) and value.isascii() for value in headers.values())
    assert read_headers(headers) == (initial, trailing)


def test_values_of_one_key_keep_their_order() -> None:
    pairs: Metadata = (("a", "1"), ("b", "x"), ("a", "2"), ("a", "1"), ("c-bin", b"\0"), ("c-bin", b""))
    headers: dict[str, str] = {}
    write_headers(headers, pairs)
    assert len(headers) == len(pairs)
    assert [pair for pair in read_headers(headers)[0] if pair[0] == "a"] == [("a", "1"), ("a", "2"), ("a", "1")]
    assert read_headers(headers)[0] == pairs


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("Upper", "x", "malformed"),
        ("", "x", "malformed"),
        ("a b", "x", "malformed"),
        ("a\r\nb", "x", "malformed"),
        ("ä", "x", "malformed"),
        (":path", "x", "malformed"),
        (b"bytes", "x", "malformed"),
        ("grpc-timeout", "1S", "reserved"),
        ("grpc-status", "0", "reserved"),
        ("mesh-refused", "x", "reserved"),
        ("nats-msg-id", "x", "reserved"),
        ("text", "a\nb", "printable ASCII"),
        ("text", "a\0b", "printable ASCII"),
        ("text", "ä", "printable ASCII"),
        ("text", b"\xff", "printable ASCII"),
        ("text", b"a\r\nb", "printable ASCII"),
        ("text", 5, "printable ASCII"),
        ("data-bin", "text", "must be bytes"),
    ],
)
def test_what_grpc_forbids_is_refused(key: str, value: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        normalize([(key, value)])


def test_ascii_bytes_are_text_as_in_grpc_aio() -> None:
    assert normalize([("text", b"bytes")]) == (("text", "bytes"),)


def test_rich_errors_may_pass() -> None:
    assert normalize([(STATUS_DETAILS_KEY, b"\x08\x05")]) == ((STATUS_DETAILS_KEY, b"\x08\x05"),)


def test_there_is_a_limit_for_all_together() -> None:
    half = "x" * (MAX_METADATA_BYTES // 2 - 1 - PAIR_COST)
    assert len(normalize([("a", half), ("b", half)])) == 2
    with pytest.raises(ValueError, match="over the limit"):
        normalize([("a", half), ("b", half + "x")])


def test_many_tiny_pairs_are_not_small() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        normalize([("a", "")] * (MAX_METADATA_BYTES // (PAIR_COST + 1) + 1))


@pytest.mark.parametrize("value", ["a\nb", "\0", "caf\u00e9", "\ufffd"])
def test_values_that_grpc_forbids_are_passed_over(value: str) -> None:
    assert read_headers({"a": value, "b": "fine"}) == ((("b", "fine"),), ())


def test_nothing_is_nothing() -> None:
    assert normalize(None) == normalize([]) == normalize({}.items()) == ()


def test_headers_of_the_protocol_are_not_metadata() -> None:
    headers = {
        "grpc-timeout": "1S",
        "mesh-accepted": "x",
        "nats-anything": "x",
        "Nats-Service-Error": "x",
        "Status": "503",
        "mesh-dup-1-grpc-timeout": "1S",
        "mesh-trailer-grpc-status": "0",
        "mesh-dup-x-a": "1",
        "a": "kept",
    }
    assert read_headers(headers) == ((("a", "kept"),), ())


def test_base64_with_and_without_padding_is_read_and_commas_separate_values() -> None:
    assert read_headers({"a-bin": "AAE", "b-bin": "AAE=", "c-bin": "AA==,AQ"})[0] == (
        ("a-bin", b"\0\1"),
        ("b-bin", b"\0\1"),
        ("c-bin", b"\0"),
        ("c-bin", b"\1"),
    )
    assert read_headers({"a-bin": "***", "b": "kept"})[0] == (("b", "kept"),)


@given(st.dictionaries(st.one_of(st.text(), KEYS, st.sampled_from(["mesh-dup-", "mesh-trailer-", "a-bin"])), st.text()))
def test_any_headers_can_be_read(headers: dict[str, str]) -> None:
    for part in read_headers(headers):
        for key, value in part:
            assert key == key.lower()
            assert isinstance(value, bytes) == key.endswith("-bin")
