"""Broken HTTP/2 with prior knowledge: frames, floods, header blocks, and gRPC within."""

from __future__ import annotations

import struct
from random import Random

from hpack import Encoder
from hyperframe.frame import Frame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from tests.gateway.hostile.attack import FORGED, SMUGGLED, Attack, Make, cut, mangled, nasty
from tests.gateway.hostile.envelopes import METHODS, envelopes
from tests.gateway.hostile.http1 import BODY, ECHO, NAMES

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITISED = 1, 4, 8, 32

Pairs = list[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """A frame; its length may lie."""
    size = len(payload) if length is None else length
    return struct.pack(">HBBBI", size >> 8 & 0xFFFF, size & 0xFF, kind, flags, stream & 0xFFFFFFFF) + payload


def start() -> bytes:
    """What a connection begins with."""
    return PREFACE + SettingsFrame(0, settings={}).serialize()


def pairs(method: bytes, path: bytes, tag: str, number: int, *more: tuple[bytes, bytes]) -> Pairs:
    """The headers of a request."""
    return [
        (b":method", method),
        (b":path", path),
        (b":scheme", b"http"),
        (b":authority", b"x"),
        (b"x-request-id", f"{tag}-{number}".encode()),
        *more,
    ]


def block(headers: Pairs) -> bytes:
    """Encode headers; each block alone, so that a broken one does not spoil the next."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(headers, huffman=False))


def post(stream: int, headers: Pairs, body: bytes) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, block(headers)) + frame(DATA, END_STREAM, stream, body)


def requests(rng: Random, tag: str) -> Attack:
    """Streams whose headers are wrong in themselves or together."""
    out = [start()]
    number = rng.choice((1, 3, 10))
    for each in range(number):
        more: Pairs = [(b"content-type", b"application/json")]
        for _ in range(rng.choice((0, 1, 3))):
            name, value = (
                rng.choice(NAMES).lower(),
                rng.choice((FORGED, FORGED + nasty(rng), b"chunked", b"trailers", b"1", b"")),
            )
            more.append((mangled(rng, name) if rng.random() < 0.3 else name, value))
        headers = pairs(
            rng.choice((b"POST", b"GET", b"CONNECT", b"HEAD", b"P OST", b"")),
            rng.choice((ECHO, b"/v1/books/b", b"*", b"", b"x")),
            tag,
            each,
            *more,
        )
        draw = rng.randrange(8)
        if draw == 0:
            del headers[rng.randrange(4)]
        elif draw == 1:
            headers.append(headers[rng.randrange(4)])
        elif draw == 2:
            rng.shuffle(headers)
        elif draw == 3:
            headers.append((b"content-length", rng.choice((b"0", b"1", b"99", b"-1", b"x", b"14, 14"))))
        elif draw == 4:  # Somebody's request who would write headers to a connection of HTTP/1.1.
            headers[1] = (b":path", b"/v1/books/a HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/books/" + SMUGGLED)
        out.append(post(2 * each + 1, headers, BODY if rng.random() < 0.7 else b""))
    return Attack("HTTP/2 headers", cut(rng, b"".join(out)), inputs=number, http2=True)


def frames(rng: Random, tag: str) -> Attack:
    """Frames of all kinds, in any order, on any stream."""
    out = [start()]
    number = rng.choice((1, 5, 20))
    header = block(pairs(b"GET", b"/v1/books/b", tag, 0))
    for _ in range(number):
        kind = rng.choice((*range(10), 10, 16, 77, 255))
        stream = rng.choice((0, 1, 1, 3, 5, 2, 4, 0x7FFFFFFF, 0x80000001))
        payload = rng.choice(
            (
                b"",
                header,
                b"\0\0\0\1",
                b"\0\0\0\0",
                b"\x7f\xff\xff\xff",
                b"12345678",
                b"\0\4\x7f\xff\xff\xff",
                b"\0\4\xff\xff\xff\xff",
                b"\0\5\0\0\0\0",
                rng.randbytes(rng.randrange(60)),
            )
        )
        flags = rng.choice(
            (
                0,
                END_STREAM,
                END_HEADERS,
                END_HEADERS | END_STREAM,
                PADDED,
                PADDED | END_HEADERS,
                PRIORITISED | END_HEADERS,
                255,
            )
        )
        length = None if rng.random() < 0.9 else rng.choice((0, 1, 16_385, 2**24 - 1))
        out.append(frame(kind, flags, stream, payload, length=length))
    text = b"".join(out)
    if rng.random() < 0.3:
        text = text[:33] + mangled(rng, text[33:])
    return Attack("HTTP/2 frames", cut(rng, text), inputs=number, http2=True)


def header_blocks(rng: Random, tag: str) -> Attack:
    """HPACK: wrong indexes, endless integers, bombs; blocks in pieces that do not end."""
    good = block(pairs(b"GET", b"/v1/books/b", tag, 0))
    how = rng.randrange(7)
    if how == 0:
        bad = mangled(rng, good)
    elif how == 1:
        bad = good + rng.choice(
            (
                b"\x80",
                b"\xff" * 20,
                b"\x3f" + b"\xff" * 20,
                b"\x7f\xff\xff\xff\xff\x0f",
                b"\x00\x8f",
                b"\x40\x81\xff\x81\xff",
            )
        )
    elif how == 2:  # One large entry of the table, named again and again.
        bad = good + b"\x40\x03x-b\x7f\x81\x1e" + b"b" * 4000 + b"\xbe" * rng.choice((10, 1000, 12_000))
    elif how == 3:
        bad = good + b"".join(b"\x00\x03x-b\x01b" for _ in range(rng.choice((50, 200, 2000))))
    elif how == 4:
        bad = good + b"\x00\x03x-b\x7f\x00" + b"b" * 127
    elif how == 5:
        bad = rng.randbytes(rng.choice((1, 10, 100)))
    else:
        bad = good
    if how == 6 or rng.random() < 0.3:
        pieces = [bad[at : at + 7] for at in range(0, min(len(bad), 4000), 7)]
        parts = [frame(HEADERS, END_STREAM, 1, pieces[0]), *(frame(CONTINUATION, 0, 1, piece) for piece in pieces[1:])]
        parts.append(
            rng.choice(
                (
                    frame(CONTINUATION, END_HEADERS, 1),
                    b"",
                    frame(PING, 0, 0, b"12345678"),
                    frame(CONTINUATION, END_HEADERS, 3),
                )
            )
        )
    else:
        parts = [
            frame(HEADERS, END_STREAM | (END_HEADERS if at + 16_384 >= len(bad) else 0), 1, bad[at : at + 16_384])
            if at == 0
            else frame(CONTINUATION, END_HEADERS if at + 16_384 >= len(bad) else 0, 1, bad[at : at + 16_384])
            for at in range(0, max(1, len(bad)), 16_384)
        ]
    return Attack("HPACK", cut(rng, start() + b"".join(parts)), inputs=len(parts), http2=True)


def floods(rng: Random, tag: str) -> Attack:
    """Much of what costs the sender little: resets, pings, settings, empty frames, streams."""
    number = rng.choice((50, 300, 1000))
    header = block(pairs(b"GET", b"/v1/books/b", tag, 0))
    how = rng.randrange(9)
    each: list[bytes]
    if how == 0:
        each = [
            _headers(2 * at + 1, header) + RstStreamFrame(2 * at + 1, error_code=8).serialize() for at in range(number)
        ]
    elif how == 1:
        each = [PingFrame(0, opaque_data=b"12345678").serialize()] * number
    elif how == 2:
        each = [SettingsFrame(0, settings={4: 65_535 + at}).serialize() for at in range(number)]
    elif how == 3:
        each = [_headers(2 * at + 1, header) for at in range(number)]
    elif how == 4:
        each = [frame(HEADERS, END_HEADERS, 1, header), *([frame(DATA, 0, 1)] * number)]
    elif how == 5:
        each = [frame(HEADERS, 0, 1, header), *([frame(CONTINUATION, 0, 1)] * number)]
    elif how == 6:
        each = [WindowUpdateFrame(0, window_increment=1).serialize()] * number
    elif how == 7:
        each = [frame(PRIORITY, 0, 2 * at + 1, b"\0\0\0\0\x10") for at in range(number)]
    else:  # Streams whose answers nobody gives credit for.
        each = [SettingsFrame(0, settings={4: 0}).serialize(), *(_headers(2 * at + 1, header) for at in range(number))]
    return Attack(
        "HTTP/2 floods", [start() + b"".join(each)], inputs=len(each), http2=True, hangs_up=rng.random() < 0.2
    )


def _headers(stream: int, header: bytes) -> bytes:
    written = HeadersFrame(stream, header, flags=["END_HEADERS", "END_STREAM"])
    assert isinstance(written, Frame)
    return written.serialize()


def grpc(rng: Random, tag: str) -> Attack:
    """Calls by gRPC with broken envelopes; some are given up."""
    out = [start()]
    number = rng.choice((1, 4, 12))
    timed = False
    for each in range(number):
        more = [
            (
                b"content-type",
                rng.choice(
                    (b"application/grpc", b"application/grpc+json", b"application/grpc+x", b"application/grpc-web")
                ),
            ),
            (b"te", b"trailers"),
        ]
        if rng.random() < 0.2:
            more.append((b"grpc-timeout", rng.choice((b"1m", b"0n", b"-1S", b"1", b"99999999H", b"x"))))
            timed = True
        if rng.random() < 0.2:
            more.append((b"grpc-encoding", rng.choice((b"gzip", b"nope", b"identity"))))
        stream = 2 * each + 1
        out.append(post(stream, pairs(b"POST", rng.choice(METHODS), tag, each, *more), envelopes(rng)))
        if rng.random() < 0.2:
            out.append(frame(RST_STREAM, 0, stream, b"\0\0\0\x08"))
    return Attack("gRPC", cut(rng, b"".join(out)), inputs=number, http2=True, may_time_out=timed)


ATTACKS: list[tuple[Make, int]] = [(requests, 8), (frames, 8), (header_blocks, 5), (floods, 1), (grpc, 8)]
"""How each is made, and how often."""
