"""Broken HTTP/1.1: request lines, headers, framing, sizes, many requests in a row."""

from __future__ import annotations

from random import Random

from tests.gateway.hostile.attack import FORGED, FORGERIES, SMUGGLED, Attack, Make, cut, mangled, nasty

Headers = list[tuple[bytes, bytes]]

ECHO = b"/library.v1.Library/Echo"
BODY = b'{"string":"a"}'
JSON: Headers = [(b"content-type", b"application/json")]

METHODS = (
    b"GET",
    b"POST",
    b"PUT",
    b"PATCH",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"REPORT",
    b"PRI",
    b"get",
    b"X" * 300,
)
TARGETS = (
    ECHO,
    b"/v1/echo",
    b"/v1/books/b",
    b"/v1/shelves/1/books/2",
    b"/v1/search?query=a",
    b"/healthz",
    b"/",
    b"*",
    b"/nope",
)
VERSIONS = (
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/1.2",
    b"HTTP/1.1 ",
    b"http/1.1",
    b"HTTP/11",
    b"HTTP/",
    b"",
)
NAMES = (
    b"nats-msg-id", b"Nats-Trace-Only", b"nats-rollup", b"NATS-Expected-Stream", b"nats-service-error",
    b"grpc-status", b"grpc-message", b"grpc-status-details-bin", b"grpc-encoding", b"mesh-instance", b"mesh-reply",
    b"mesh-window", b"mesh-frame", b"x-claim-sub", b"X-Claim-Sub", b"x-auth-key", b"traceparent", b"tracestate",
    b"baggage", b"connect-x", b":path", b":authority", b"x-forwarded-for", b"forwarded", b"x-real-ip", b"cookie",
    b"authorization", b"x-a-bin", b"te", b"trailer", b"connection", b"upgrade", b"keep-alive", b"proxy-connection",
    b"expect", b"max-forwards", b"content-encoding", b"accept-encoding", b"if-none-match", b"range", b"origin",
    b"access-control-request-method", b"last-event-id", b"host", b"x-http-method-override", b"accept",
    b"content-type", b"sec-websocket-key",
)  # fmt: skip
_VALUES = (
    b"chunked", b"close", b"upgrade", b"websocket", b"h2c", b"100-continue", b"*", b"trailers", b"identity", b"gzip",
    b"gzip, gzip, gzip, gzip", b"application/json", b"application/grpc-web", b"text/event-stream", b"0", b"-1",
    b"9" * 40, b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"a=b,c=d;e", b"=?utf-8?q?=66?=",
)  # fmt: skip


def request(
    method: bytes,
    target: bytes,
    headers: Headers,
    body: bytes = b"",
    *,
    version: bytes = b"HTTP/1.1",
    length: bool = True,
) -> bytes:
    """A request as it should be."""
    lines = [method + b" " + target + b" " + version, *(name + b": " + value for name, value in headers)]
    if body and length:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def head(tag: str, number: int = 0) -> Headers:
    """The headers that every request has."""
    return [(b"host", b"x"), (b"x-request-id", f"{tag}-{number}".encode())]


def ordinary(rng: Random, tag: str, number: int = 0, *, close: bool = False) -> bytes:
    """A request that there is nothing wrong with."""
    headers = head(tag, number) + ([(b"connection", b"close")] if close else [])
    if rng.random() < 0.5:
        return request(b"POST", ECHO, headers + JSON, BODY)
    return request(b"GET", rng.choice((b"/v1/books/b", b"/v1/search?query=a", b"/healthz", b"/nope")), headers)


def request_lines(rng: Random, tag: str) -> Attack:
    method, target, version = rng.choice(METHODS), rng.choice(TARGETS), rng.choice(VERSIONS)
    parts = [method, target, version]
    for _ in range(rng.randrange(3)):
        index = rng.randrange(3)
        parts[index] = mangled(rng, parts[index])
    line = rng.choice((b" ", b" ", b" ", b"  ", b"\t", b"", b"\r")).join(parts)
    lines = [line, *(name + b": " + value for name, value in head(tag))]
    end = rng.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"))
    return Attack("request line", cut(rng, end.join(lines) + end * 2 + ordinary(rng, tag, 1, close=True)), inputs=2)


def header_fields(rng: Random, tag: str) -> Attack:
    lines: list[bytes] = []
    for name, value in [*head(tag), *JSON]:
        lines.append(name + b": " + value)
    for _ in range(rng.choice((1, 2, 5, 20))):
        name = rng.choice(NAMES)
        value = rng.choice((FORGED, rng.choice(_VALUES), FORGED + nasty(rng) + FORGED, rng.choice(FORGERIES)))
        if rng.random() < 0.2:
            name = mangled(rng, name)
        if rng.random() < 0.2:
            value = mangled(rng, value)
        lines.append(name + rng.choice((b": ", b":", b": ", b" : ", b"", b":\t")) + value)
        if rng.random() < 0.05:
            lines.append(b" folded " + FORGED)
    first, rest = lines[0], lines[1:]
    rng.shuffle(rest)
    text = b"POST " + ECHO + b" HTTP/1.1\r\n" + b"\r\n".join([first, *rest])
    body = BODY if rng.random() < 0.8 else b""
    text += b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    return Attack("headers", cut(rng, text + ordinary(rng, tag, 1, close=True)), inputs=2)


def smuggling(rng: Random, tag: str) -> Attack:
    """Two lengths for one body, and a request in what only one of them takes for the body's rest."""
    hidden = request(b"GET", b"/v1/books/" + SMUGGLED, [(b"host", b"x"), (b"x-request-id", SMUGGLED)])
    coding = rng.choice(
        (
            b"transfer-encoding: chunked", b"Transfer-Encoding: Chunked", b"transfer-encoding : chunked",
            b"transfer-encoding:chunked", b"transfer-encoding:\tchunked", b"transfer-encoding: chunked\r\n ",
            b"transfer-encoding: x\r\ntransfer-encoding: chunked",
            b"transfer-encoding: chunked\r\ntransfer-encoding: x", b"transfer-encoding: identity, chunked",
            b"transfer-encoding: chunked, identity", b"transfer-encoding:\x0bchunked",
            b'transfer-encoding: "chunked"', b"transfer-encoding\0: chunked", b"x: y\ntransfer-encoding: chunked",
            b"x: y\rtransfer-encoding: chunked", b"transfer-encoding: chunked;q=1", b" transfer-encoding: chunked",
            b"transfer-encoding: xchunked", b"transfer-encoding: chunkedx",
        )
    )  # fmt: skip
    length = rng.choice(
        (b"%d", b"%d", b"%d", b"+%d", b" %d ", b"0%d", b"%d, %d", b"-%d", b"%d\r\ncontent-length: %d", b"%d.0", b"0x%x")
    )
    if rng.random() < 0.5:  # The length says: all of it is body. The chunks say: it ended, and a request follows.
        body = b"0\r\n\r\n" + hidden
        size = len(body)
    else:  # The chunks say: all of it is body. The length says: a few bytes, then a request.
        body = b"%x\r\n" % len(hidden) + hidden + b"\r\n0\r\n\r\n"
        size = body.index(b"GET")
    number = length % ((size,) * length.count(b"%"))
    fields = [coding, b"content-length: " + number]
    rng.shuffle(fields)
    lines = [b"POST " + ECHO + b" HTTP/1.1", b"host: x", b"content-type: application/json", *fields]
    text = b"\r\n".join(lines) + b"\r\n\r\n" + body
    return Attack("smuggling", cut(rng, text + ordinary(rng, tag, 1, close=True)), inputs=2)


def chunks(rng: Random, tag: str) -> Attack:
    sizes = (
        b"%x", b"%X", b"0%x", b"000000000%x", b"%x;a=b", b'%x; a="b\r\nc"', b"%x ", b" %x", b"%xg", b"-%x", b"+%x",
        b"0x%x", b"%x\t", b"%x;" + b"e" * 9000, b"ffffffffffffffff%x", b"8000000000000000", b"%x\0", b"%x\n", b"",
    )  # fmt: skip
    parts: list[bytes] = []
    for _ in range(rng.choice((1, 2, 3, 40))):
        data = rng.choice((BODY, b"x", b"", rng.randbytes(50), b"a" * 5000))
        size = b"%x" if rng.random() < 0.8 else rng.choice(sizes)
        announced = max(0, len(data) + rng.choice((0, 0, 0, 0, 0, 0, 1, -1, 1000)))
        parts.append(
            (size % announced if b"%" in size else size)
            + b"\r\n"
            + data
            + rng.choice((b"\r\n",) * 9 + (b"\n", b"", b"\0\0"))
        )
    last = (
        b"0\r\n\r\n",
        b"0\r\n\r\n",
        b"0\r\nx: y\r\n\r\n",
        b"0\r\nnats-msg-id: f0rged\r\n\r\n",
        b"0\r\n",
        b"",
        b"00\r\n\r\n",
    )
    parts.append(
        rng.choice(
            (*last, b"0\r\ncontent-length: 3\r\n\r\nabc", b"0\r\n" + b"a: b\r\n" * rng.choice((10, 3000)) + b"\r\n")
        )
    )
    start = request(
        b"POST",
        rng.choice((ECHO, b"/v1/upload", b"/nope", b"/v1/echo")),
        [*head(tag), *JSON, (b"transfer-encoding", b"chunked")],
    )
    end = b"" if rng.random() < 0.3 else ordinary(rng, tag, 1, close=True)
    return Attack("chunks", cut(rng, start + b"".join(parts) + end), inputs=2 if end else 1, owned=False)


def sizes(rng: Random, tag: str) -> Attack:
    """Too much of everything."""
    size = rng.choice((5_000, 17_000, 70_000, 300_000))
    how = rng.randrange(7)
    headers = [*head(tag), *JSON]
    if how == 0:
        text = request(b"GET", b"/v1/books/" + b"a" * size, headers)
    elif how == 1:
        text = request(b"GET", b"/v1/search?" + b"&".join([b"query=a"] * (size // 8)), headers)
    elif how == 2:
        text = request(b"GET", b"/healthz", [*headers, (b"x-long", b"a" * size)])
    elif how == 3:
        text = request(b"GET", b"/healthz", [*headers, *((b"x-%d" % each, b"a") for each in range(size // 10))])
    elif how == 4:
        text = request(b"POST", ECHO, headers, b'{"string":"' + b"a" * size + b'"}')
    elif how == 5:
        text = request(
            b"POST", ECHO, [*headers, (b"content-length", b"9" * rng.choice((9, 18, 30, 500)))], b"x", length=False
        )
    else:
        text = b"\r\n" * (size // 2) + request(b"GET", b"/healthz", headers)
    return Attack("sizes", cut(rng, text + ordinary(rng, tag, 1, close=True)), inputs=2)


def pipelines(rng: Random, tag: str) -> Attack:
    """Many requests before the first answer, one of them broken, the last perhaps incomplete."""
    number = rng.choice((2, 5, 20, 40))
    parts = [ordinary(rng, tag, each, close=each == number - 1) for each in range(number)]
    if rng.random() < 0.7:
        broken = rng.randrange(number)
        parts[broken] = mangled(rng, parts[broken])
    text = b"".join(parts)
    if rng.random() < 0.3:
        text = text[: rng.randrange(len(text))]
    return Attack("pipelines", cut(rng, text), inputs=number, hangs_up=rng.random() < 0.1, owned=False)


def broken_bytes(rng: Random, tag: str) -> Attack:
    return Attack("broken bytes", cut(rng, mangled(rng, ordinary(rng, tag))), end=rng.random() < 0.9, owned=False)


def garbage(rng: Random, tag: str) -> Attack:
    starts = (
        b"",
        b"",
        b"GET ",
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"INFO {}\r\nPING\r\nPUB f0rged.x 1\r\nx\r\n",
        b"{",
        b"\0",
    )
    text = rng.choice(starts) + rng.randbytes(rng.choice((0, 1, 10, 1000)))
    return Attack("garbage", [text] if text else [b"\r"], end=True)


def unfinished(rng: Random, tag: str) -> Attack:
    """It stops in the middle and stays: the gateway has to end it."""
    text = ordinary(rng, tag)
    return Attack("unfinished", [text[: rng.randrange(1, len(text))]], owned=False)


ATTACKS: list[tuple[Make, int]] = [
    (request_lines, 10),
    (header_fields, 14),
    (smuggling, 10),
    (chunks, 10),
    (sizes, 2),
    (pipelines, 6),
    (broken_bytes, 10),
    (garbage, 3),
    (unfinished, 1),
]
"""How each is made, and how often."""
