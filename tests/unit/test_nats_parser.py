"""The short way of the parser gives what nats-py's own gives, however the bytes come; and the headers of a message."""

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from rpc.transport.nats_client import parse_headers
from rpc.transport.nats_parser import DirectParser, DirectProtocol

FOREIGN = 9
"""The sid of a subscription that is nats-py's own."""


class Recorder:
    """In the place of a client: writes down what the parser makes of the bytes."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> bool:
        if sid != FOREIGN:
            self.seen.append(("message", sid, subject, reply, data, headers or b""))
        return sid != FOREIGN

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.seen.append(("message", sid, subject, reply, data, headers or b""))

    async def _process_ping(self) -> None:
        self.seen.append(("ping",))

    async def _process_pong(self) -> None:
        self.seen.append(("pong",))

    async def _process_err(self, text: str) -> None:
        self.seen.append(("error", text))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.seen.append(("info", info))


def feed(parser: Parser, recorder: Recorder, chunks: list[bytes]) -> list[tuple[Any, ...]]:
    async def parse() -> None:
        for chunk in chunks:
            await parser.parse(chunk)

    try:
        asyncio.run(parse())
    except ProtocolError:
        recorder.seen.append(("protocol error",))
    return recorder.seen


def both(chunks: list[bytes]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    ours, theirs = Recorder(), Recorder()
    return feed(DirectParser(ours, ours.deliver), ours, chunks), feed(Parser(theirs), theirs, chunks)  # type: ignore[arg-type]  # a client by its shape


words = st.text("abc.*_$é0123", min_size=1, max_size=8).map(str.encode)
payloads = st.binary(max_size=40) | st.sampled_from([b"\r\n", b"MSG a 1 2\r\n", b"PING\r\n"])
sids = st.sampled_from([b"1", b"2", b"9", b"123456"])


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    head, sid, reply = draw(words), draw(sids), draw(st.just(b"") | words.map(lambda word: word + b" "))
    data, headers = draw(payloads), draw(st.none() | st.binary(max_size=20))
    if headers is None:
        return b"MSG %b %b %b%d\r\n%b\r\n" % (head, sid, reply, len(data), data)
    sizes = len(headers), len(headers) + len(data)
    return b"HMSG %b %b %b%d %d\r\n%b%b\r\n" % (head, sid, reply, *sizes, headers, data)


commands = messages() | st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'No'\r\n", b'INFO {"a": 1}\r\n'])
STRANGE = [
    b"MSG \r\n",
    b"MSG a 1 x\r\nab\r\n",
    b"MSG a 1 b c 2\r\nab\r\n",
    b"HMSG \r\n",
    b"HMSG 5\r\n",
    b"HMSG a 1 3\r\nabc\r\n",
    b"HMSG a 1 5 3\r\nabcde\r\n",
    b"MSG a 1 99999999999999999999\r\nab\r\n",
    b"MSG a -1 2\r\nab\r\n",
    b"MSG a 1 +2\r\nab\r\n",
    b"nonsense\r\n",
]


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(stream[at : at + size])
        at += size
    return [*chunks, stream[at:]]


@given(st.lists(commands, max_size=6), st.lists(st.integers(1, 50), max_size=8))
@example([b"MSG a 1 r 5\r\nhello\r\n", b"PING\r\n", b"HMSG a 9 2 4\r\nxxyy\r\n", b"MSG a 1 0\r\n\r\n"], [])
def test_any_cutting_of_the_stream_gives_the_same(sent: list[bytes], sizes: list[int]) -> None:
    ours, theirs = both(cut(b"".join(sent), sizes))
    assert ours == theirs
    assert len(ours) == len([command for command in sent if command != b"+OK\r\n"])


@given(st.lists(commands, max_size=8), st.lists(st.integers(1, 50), max_size=12), st.lists(st.booleans(), max_size=12))
def test_whether_the_stream_sees_it_or_not_the_order_stays(
    sent: list[bytes], sizes: list[int], waits: list[bool]
) -> None:
    """Chunks come while nats-py's loop has read what came before, and while it has not."""
    ours, theirs = Recorder(), Recorder()
    chunks = cut(b"".join(sent), sizes)

    async def receive() -> None:
        reader = asyncio.StreamReader()
        parser = DirectParser(ours, ours.deliver)  # type: ignore[arg-type]  # a client by its shape
        protocol = DirectProtocol(asyncio.StreamReaderProtocol(reader), reader, parser)

        async def read_loop() -> None:
            while data := await reader.read(32768):
                await parser.parse(data)

        loop = asyncio.create_task(read_loop())
        for number, chunk in enumerate(chunks):
            protocol.data_received(chunk)
            if number < len(waits) and waits[number]:
                await asyncio.sleep(0)
        protocol.eof_received()
        await loop

    asyncio.run(receive())
    assert ours.seen == feed(Parser(theirs), theirs, chunks)  # type: ignore[arg-type]  # a client by its shape


def test_every_single_cut() -> None:
    stream = b"MSG a 1 r 5\r\nhello\r\nPING\r\nHMSG b 2 10 12\r\nNATS/1.0\r\nhi\r\nMSG c 1 0\r\n\r\n"
    for at in range(len(stream)):
        ours, theirs = both([stream[:at], stream[at:]])
        assert ours == theirs
        assert len(ours) == 4


@pytest.mark.parametrize("strange", STRANGE)
def test_what_is_strange_is_left_to_nats_py(strange: bytes) -> None:
    ours, theirs = both([b"MSG a 1 2\r\nok\r\n" + strange + b"PING\r\n"])
    assert ours == theirs


@given(st.lists(commands | st.binary(max_size=12), max_size=6), st.lists(st.integers(1, 50), max_size=4))
def test_garbage_ends_with_a_protocol_error_or_waits_for_more(sent: list[bytes], sizes: list[int]) -> None:
    recorder = Recorder()
    feed(DirectParser(recorder, recorder.deliver), recorder, cut(b"".join(sent), sizes))  # type: ignore[arg-type]  # a client by its shape


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"NATS/1.0\r\n\r\n", None),
        (b"NATS/1.0\r\na: b\r\n\r\n", {"a": "b"}),
        (b"NATS/1.0\r\na:b\r\nc:\t d \r\n\r\n", {"a": "b", "c": "d"}),
        (b"NATS/1.0\r\na: 1\r\na: 2\r\n\r\n", {"a": "2"}),
        (b"NATS/1.0\r\na: b: c\r\n\r\n", {"a": "b: c"}),
        (b"NATS/1.0\r\na: \xc3\xa9\xff\r\n\r\n", {"a": "é\ufffd"}),
        (b"NATS/1.0\r\nno colon\r\n: no name\r\na b: blank\r\n\xc3\xa9: foreign\r\n\r\n", None),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (b"NATS/1.0 404 No Messages\r\n\r\n", {"Status": "404", "Description": "No Messages"}),
        (b"NATS/1.0 100 Idle Heartbeat\r\na: b\r\n\r\n", {"Status": "100", "Description": "Idle Heartbeat", "a": "b"}),
        (b"NATS/1.0", None),
    ],
)
def test_headers(block: bytes, expected: dict[str, str] | None) -> None:
    assert parse_headers(block) == expected


@given(st.binary(max_size=60))
def test_any_block_gives_headers_or_a_value_error(block: bytes) -> None:
    try:
        parse_headers(block)
    except ValueError:
        assert not block.startswith(b"NATS/1.0")
