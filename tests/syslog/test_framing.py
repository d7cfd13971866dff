"""Messages in a stream of bytes: both framings of RFC 6587, in any pieces, with any garbage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsmesh.syslog.framing import MAX_MESSAGE, Framer


def read(*pieces: bytes) -> list[bytes]:
    framer = Framer()
    return [message for piece in pieces for message in framer.feed(piece)] + list(framer.close())


@pytest.mark.parametrize(
    ("stream", "messages"),
    [
        (b"5 <14>a6 <14>bc", [b"<14>a", b"<14>bc"]),
        (b"<14>a\n<14>b\r\n<14>c\0<14>d", [b"<14>a", b"<14>b", b"<14>c", b"<14>d"]),
        (b"<14>a\n6 <14>b\n<14>c\n", [b"<14>a", b"<14>b\n", b"<14>c"]),
        (b"2026 was a year\n99\nx\n", [b"2026 was a year", b"99", b"x"]),
        (b"12345678 <14>a\n", [b"12345678 <14>a"]),
        (b"\n\n\0\r\n", []),
        (b"9 <14>a", [b"<14>a"]),
        (b"12", [b"12"]),
        (b"", []),
    ],
)
def test_messages(stream: bytes, messages: list[bytes]) -> None:
    assert read(stream) == messages
    assert read(*[bytes([byte]) for byte in stream]) == messages, "byte by byte"


def test_a_long_line_is_cut_and_the_next_one_is_whole() -> None:
    long = b"<14>" + b"x" * (3 * MAX_MESSAGE)
    assert read(long + b"\n<14>next\n") == [long[:MAX_MESSAGE], b"<14>next"]
    pieces = [long[at : at + 1000] for at in range(0, len(long), 1000)]
    assert read(*pieces, b"\n<14>next\n") == [long[:MAX_MESSAGE], b"<14>next"]
    assert read(long[:MAX_MESSAGE] + b"\n<14>next\n") == [long[:MAX_MESSAGE], b"<14>next"]


def test_a_long_counted_message_is_cut_and_the_next_one_is_whole() -> None:
    long = b"<14>" + b"\n" * (3 * MAX_MESSAGE)
    stream = b"%d %s9 <14>next." % (len(long), long)
    assert read(stream) == [long[:MAX_MESSAGE], b"<14>next."]
    assert read(*[stream[at : at + 777] for at in range(0, len(stream), 777)]) == [long[:MAX_MESSAGE], b"<14>next."]


def test_memory_is_bounded() -> None:
    framer = Framer()
    for piece in (b"9999999 <", b"x" * 10_000):
        for _ in range(30):
            for message in framer.feed(piece):
                assert len(message) <= MAX_MESSAGE
            assert len(framer._buffer) <= MAX_MESSAGE + 10_000


@given(
    st.lists(
        st.tuples(st.booleans(), st.binary(max_size=30).map(lambda data: b"<14>" + data.translate(None, b"\r\n\0")))
    ),
    st.integers(1, 20),
)
def test_any_messages_in_any_pieces(messages: list[tuple[bool, bytes]], size: int) -> None:
    stream = b"".join(b"%d %s" % (len(each), each) if counted else each + b"\n" for counted, each in messages)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert read(*pieces) == [each for _, each in messages]


@given(st.lists(st.binary() | st.text(st.sampled_from("<14> 0\n\0")).map(str.encode)))
def test_nothing_fails_and_pieces_do_not_matter(pieces: list[bytes]) -> None:
    assert read(*pieces) == read(b"".join(pieces))
