"""Compressed bodies that are broken, or much larger than they look."""

from __future__ import annotations

import zlib
from functools import cache
from random import Random

from gateway.compression import CODINGS
from tests.gateway.hostile.attack import Attack, Make, mangled
from tests.gateway.hostile.bodies import PER_CONNECTION, json_bytes
from tests.gateway.hostile.http1 import ECHO, JSON, Headers, head, request

_BY_NAME = {coding.name: coding for coding in CODINGS}
_NAMES = (
    *_BY_NAME,
    "deflate",
    "gzip, gzip",
    "identity",
    "x-gzip",
    "compress",
    "",
    "GZIP",
    "*",
    "gzip\t",
    "zstd;q=1",
    "nope",
)


KINDS = 5


@cache
def bomb(name: str, kind: int) -> bytes:
    """A few kilobytes that would become 16 MiB, or nothing at all with much work."""
    coding = _BY_NAME[name]
    if kind == 0:
        return coding.compress(bytes(16 << 20))
    if kind == 1:
        return coding.compress(b'{"string":"' + b"a" * (16 << 20) + b'"}')
    if kind == 2:  # A bomb in a bomb.
        return coding.compress(coding.compress(bytes(16 << 20)))
    if kind == 3:  # Members, or frames, that hold nothing.
        return coding.compress(b"") * 4000
    # A window of gigabytes is announced, where that can be done.
    return {"zstd": b"\x28\xb5\x2f\xfd\x00\xff\x00\x00\x00\x00", "br": b"\x11\x1f\xff\xff"}.get(
        name, b"\x1f\x8b\x08\x1c" + b"\xff" * 9000
    )


def make_bombs() -> None:
    """Make all of them."""
    for name in _BY_NAME:
        for kind in range(KINDS):
            bomb(name, kind)


def _request(rng: Random, headers: Headers) -> bytes:
    said = rng.choice(_NAMES)
    if rng.random() < 0.15:
        name = rng.choice(list(_BY_NAME))
        body, said = bomb(name, rng.randrange(KINDS)), name
    else:
        text = json_bytes(rng)
        name = rng.choice([*_BY_NAME, "deflate", "gzip"])
        body = zlib.compress(text) if name == "deflate" else _BY_NAME[name].compress(text)
        if rng.random() < 0.6:
            said = name
        draw = rng.random()
        if draw < 0.2:
            body = mangled(rng, body)
        elif draw < 0.3:
            body = body[: rng.randrange(len(body) + 1)]
        elif draw < 0.4:
            body += rng.choice((body, b"x", b"\0" * 100, b"\x1f\x8b"))
    target = rng.choice((ECHO, ECHO, b"/v1/echo", b"/v1/upload", b"/v1/shelves/1/books", b"/streams.v1.Streams/Ask"))
    return request(b"POST", target, [*headers, *JSON, (b"content-encoding", said.encode())], body)


def coded(rng: Random, tag: str) -> Attack:
    parts = []
    for number in range(PER_CONNECTION):
        close = [(b"connection", b"close")] if number == PER_CONNECTION - 1 else []
        parts.append(_request(rng, [*head(tag, number), *close]))
    return Attack("compressed bodies", [b"".join(parts)], inputs=PER_CONNECTION)


ATTACKS: list[tuple[Make, int]] = [(coded, 5)]
"""How each is made, and how often."""
