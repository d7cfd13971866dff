"""Connect, gRPC-Web and gRPC bodies with wrong lengths, flags, base64; Connect's GET; metadata that lies."""

from __future__ import annotations

import base64
import gzip
from random import Random

from tests.gateway.hostile.attack import FORGED, Attack, Make, cut, mangled, nasty
from tests.gateway.hostile.bodies import json_bytes
from tests.gateway.hostile.http1 import Headers, head, request

METHODS = (
    *(b"/streams.v1.Streams/" + name for name in (b"Ask", b"Tell", b"Gather", b"Talk", b"Download")),
    b"/library.v1.Library/Echo",
    b"/streams.v1.Streams/Nope",
)
TYPES = tuple(
    b"application/" + name
    for name in (
        b"connect+json", b"connect+proto", b"connect+json", b"connect+proto", b"grpc-web", b"grpc-web+proto",
        b"grpc-web+json", b"grpc-web-text", b"grpc-web-text+proto", b"grpc", b"connect+nope", b"connect+",
        b"grpc-web+nope", b"proto", b"json",
    )
)  # fmt: skip
_TIMEOUTS = (
    b"1",
    b"0",
    b"-1",
    b"1m",
    b"1n",
    b"0S",
    b"99999999H",
    b"999999999S",
    b"1.5S",
    b"\xc2\xb2",
    b"",
    b"1s",
    b"0x1S",
    b"9" * 400,
)


def message(rng: Random) -> bytes:
    """A message, or something like it."""
    draw = rng.random()
    if draw < 0.3:
        return b"\x0a\x01a"
    if draw < 0.5:
        return json_bytes(rng)
    if draw < 0.6:
        return gzip.compress(b"\x0a\x01a")
    if draw < 0.7:
        return b"\x22" * rng.choice((10, 1000, 20_000))  # A message in a message in a message, never ended.
    if draw < 0.8:
        return rng.randbytes(rng.choice((1, 10, 300)))
    return mangled(rng, b"\x0a\x03abc\x10\x05\x1a\x02xy")


def envelopes(rng: Random) -> bytes:
    parts = []
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        data = message(rng)
        flags = rng.choice((0, 0, 0, 0, 1, 2, 3, 0x80, 0xFF))
        length = (
            len(data)
            if rng.random() < 0.75
            else rng.choice((0, 1, len(data) + 1, 2**31, 2**32 - 1, 200_001, rng.randrange(2**32)))
        )
        parts.append(bytes([flags]) + length.to_bytes(4, "big") + data)
    body = b"".join(parts)
    return mangled(rng, body) if rng.random() < 0.2 else body


def metadata(rng: Random) -> Headers:
    """What says how to read the body, and what claims to be more than a client's."""
    headers: Headers = []
    for name, values in (
        (b"connect-protocol-version", (b"1", b"1", b"2", b"")),
        (b"connect-timeout-ms", _TIMEOUTS),
        (b"grpc-timeout", _TIMEOUTS),
        (b"connect-content-encoding", (b"gzip", b"br", b"zstd", b"identity", b"nope")),
        (b"grpc-encoding", (b"gzip", b"br", b"identity", b"nope")),
        (b"content-encoding", (b"gzip", b"nope")),
        (b"connect-accept-encoding", (b"gzip", b"*", b"nope")),
        (b"x-a-bin", (b"YWJj", b"YW=j", b"!", b"YQ,Yg", b"\xff")),
        (b"nats-msg-id", (FORGED,)),
        (b"mesh-instance", (FORGED,)),
        (b"grpc-status", (FORGED,)),
        (b"x-a", (FORGED, nasty(rng))),
    ):
        if rng.random() < 0.12:
            headers.append((name, bytes(each for each in rng.choice(values) if each not in b"\r\n\0")))
    return headers


def streams(rng: Random, tag: str) -> Attack:
    number = rng.choice((1, 1, 3))
    parts = []
    timed = False
    for each in range(number):
        content_type = rng.choice(TYPES)
        body = envelopes(rng)
        if b"text" in content_type:
            body = base64.b64encode(body)
            body = mangled(rng, body) if rng.random() < 0.5 else body.rstrip(b"=")
        extra = metadata(rng)
        timed = timed or any(b"timeout" in name for name, _ in extra)
        headers = [*head(tag, each), (b"content-type", content_type), *extra]
        if each == number - 1:
            headers.append((b"connection", b"close"))
        if rng.random() < 0.3:
            chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in cut(rng, body) if part) + b"0\r\n\r\n"
            parts.append(
                request(b"POST", rng.choice(METHODS), [*headers, (b"transfer-encoding", b"chunked")]) + chunked
            )
        else:
            length = (b"content-length", b"%d" % len(body))
            parts.append(request(b"POST", rng.choice(METHODS), [*headers, length], body, length=False))
    return Attack(
        "envelopes", cut(rng, b"".join(parts)), inputs=number, may_time_out=timed, hangs_up=rng.random() < 0.05
    )


def connect_get(rng: Random, tag: str) -> Attack:
    parts = []
    for number in range(8):
        pairs = []
        for name, values in (
            (b"connect", (b"v1", b"v1", b"v2", b"")),
            (b"encoding", (b"json", b"proto", b"nope", b"")),
            (b"base64", (b"1", b"0", b"2")),
            (b"compression", (b"gzip", b"identity", b"br", b"nope")),
            (
                b"message",
                (
                    b"%7B%7D",
                    b"CgFh",
                    b"%ff",
                    b"%",
                    b"H4sI",
                    b"{}",
                    b"",
                    b"a" * 9000,
                    b"%7B%22name%22%3A%22%5Cud800%22%7D",
                ),
            ),
        ):
            for _ in range(rng.choice((0, 1, 1, 1, 1, 2))):
                value = rng.choice(values)
                pairs.append(name + b"=" + (mangled(rng, value) if rng.random() < 0.2 else value))
        rng.shuffle(pairs)
        query = bytes(each for each in b"&".join(pairs) if each > 0x20 and each != 0x7F)
        close = [(b"connection", b"close")] if number == 7 else []
        headers = [*head(tag, number), *close, *metadata(rng)]
        parts.append(request(b"GET", b"/library.v1.Library/GetBook?" + query, headers))
    return Attack("Connect GET", [b"".join(parts)], inputs=8, may_time_out=True)


ATTACKS: list[tuple[Make, int]] = [(streams, 14), (connect_get, 4)]
"""How each is made, and how often."""
