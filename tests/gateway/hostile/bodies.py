"""Well-framed requests whose content is wrong: JSON, paths, queries, compressed bodies, metadata."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.gateway.hostile.attack import Attack, Make, cut, mangled, nasty
from tests.gateway.hostile.http1 import ECHO, JSON, Headers, head, request

PER_CONNECTION = 12

FIELDS = (
    "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "fixed64", "bool", "string", "bytes", "colour",
    "time", "duration", "fieldMask", "wrappedInt64", "wrappedString", "wrappedBool", "wrappedBytes", "wrappedDouble",
    "nested", "numbers", "strings", "colours", "durations", "nesteds", "map", "maybe", "left", "right", "struct",
    "value", "nestedMap", "nope", "", "__proto__", "@type", "string.x", "\\u0000", "\\ud800",
)  # fmt: skip
LEAVES = (
    "0", "-0", "1", "-1", "1e400", "-1e400", "1e-400", "9" * 400, "0." + "1" * 400, "1E+2147483648",
    "9223372036854775808", "18446744073709551616", "2147483648", "1.5", "01", "+1", ".5", "5.", "0x10", "1_000",
    "NaN", "Infinity", "-Infinity", "null", "true", "false", "True", "nul", '""', '"a"', "'a'", '"\\ud800"',
    '"\\udc00\\ud800"', '"\\u0000"', '"\\x41"', '"\\u12"', '"\n"', '"\0"', '"', '"a', '"NaN"', '"Infinity"', '"1"',
    '"1e3"', '" 1"', '"RED"', '"PURPLE"', '"YWJj"', '"YW=Jj"', '"!!"', '"2024-01-01T00:00:00Z"',
    '"2024-13-01T00:00:00Z"', '"10000-01-01T00:00:00Z"', '"0000-01-01T00:00:00Z"', '"1s"', '"1e3s"',
    '"-315576000001s"', '"1.0000000001s"', '"a,b.c"', '"a..b"', '"aB"', "[]", "{}", "[[]]", '{"a":{}}', "[null]",
    '[1,"1",null]', '{"value":1}', '{"@type":"x"}', '{"@type":"type.googleapis.com/library.v1.Book","name":"a"}', "",
    ",", "}", "]", "//", "/**/",
)  # fmt: skip


def json_value(rng: Random, depth: int = 0) -> str:
    """Something like JSON."""
    draw = rng.random()
    if depth > 3 or draw < 0.6:
        return rng.choice(LEAVES)
    if draw < 0.7:
        return "[" + ",".join(json_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))) + "]"
    return json_object(rng, depth + 1)


def json_object(rng: Random, depth: int = 0) -> str:
    fields = [f'"{rng.choice(FIELDS)}":{json_value(rng, depth + 1)}' for _ in range(rng.choice((0, 1, 1, 1, 2, 5)))]
    if fields and rng.random() < 0.1:
        fields.append(fields[0])
    return "{" + ",".join(fields) + "}"


def nested(rng: Random) -> bytes:
    depth = rng.choice((63, 64, 65, 100, 1000, 20_000))
    begin, end = rng.choice(
        (
            (b"[", b"]"),
            (b'{"nested":{"deeper":' * 1, b"}}"),
            (b'{"a":', b"}"),
            (b'{"struct":{"a":', b"}}"),
            (b'{"value":[', b"]}"),
        )
    )
    inner = begin * depth + (b"1" if rng.random() < 0.5 else b"") + (end * depth if rng.random() < 0.7 else b"")
    return rng.choice((b"%s", b'{"value":%s}', b'{"nested":{"deeper":%s}}', b'{"string":"%s"}')) % inner


def json_bytes(rng: Random) -> bytes:
    draw = rng.random()
    if draw < 0.03:
        return nested(rng)
    text = json_object(rng).encode()
    if draw < 0.3:
        text = mangled(rng, text)
    elif draw < 0.33:
        text = text.decode().encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig")))
    elif draw < 0.34:
        text = rng.choice((b"[1]", b"1", b'"a"', b"null", b"", b" ", b"\xef\xbb\xbf{}", b"{}{}", b"{} x"))
    return text


TYPES = (
    b"application/json", b"application/json; charset=utf-8", b"application/json;charset=latin-1", b"APPLICATION/JSON",
    b"text/json", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"multipart/form-data",
    b"text/plain", b"/", b"", b";", b"application/proto", b"application/octet-stream",
    b"application/json, application/json", b"application/json\xff", b"image/png",
)  # fmt: skip
POSTS = (
    ECHO,
    ECHO,
    ECHO,
    b"/v1/echo",
    b"/v1/echo",
    b"/v1/shelves/1/books",
    b"/v1/shelves/1/books/2:move",
    b"/streams.v1.Streams/Ask",
    b"/v1/upload",
    b"/v1/tell",
)


def documents(rng: Random, tag: str) -> Attack:
    """JSON, more or less, for all that takes some."""
    return _in_a_row("documents", rng, tag, _document)


def _document(rng: Random, headers: Headers) -> bytes:
    method, target = rng.choice(
        ((b"POST", rng.choice(POSTS)),) * 5 + ((b"PUT", b"/v1/books/b/tags"), (b"PATCH", b"/v1/shelves/1/books/2"))
    )
    content_type = JSON if rng.random() < 0.9 else [(b"content-type", rng.choice(TYPES))]
    return request(method, target, [*headers, *content_type], json_bytes(rng))


SEGMENTS = (
    b"v1", b"v1", b"v1", b"books", b"shelves", b"1", b"path", b"echo", b"search", b"watch", b"tell", b"x:move", b":",
    b"", b".", b"..", b"%2f", b"%2F..%2f", b"%", b"%4", b"%zz", b"%00", b"%0d%0a", b"%0D%0APUB%20f0rged.x%201%0D%0Aa",
    b"%ff", b"%c0%af", b"%e0%80%af", b"%ed%a0%80", b"%f4%90%80%80", b"%C3%A9", b"a" * 5000, b"%41" * 3000, b"$SRV",
    b"_INBOX", b">", b"*", b"+", b"'", b'"', b"<script>", b"library.v1.Library", b"Echo", b"f0rged.>", b"{name}",
    b"**", b";a=b", b"@", b"\\", b"|", b"^",
)  # fmt: skip
PARAMETERS = (
    b"query", b"string", b"int32", b"int64", b"double", b"float", b"bool", b"bytes", b"colour", b"time", b"duration",
    b"field_mask", b"fieldMask", b"wrapped_int64", b"wrappedBytes", b"nested", b"nested.text", b"nested.deeper.text",
    b"nested.deeper" * 1, b"numbers", b"nesteds.text", b"map", b"map.a", b"struct", b"value", b"value.x", b"left",
    b"right", b"nope", b"", b".", b"nested.", b".text", b"name", b"read_mask", b"%6eame", b"string%00",
    b"nested" + b".deeper" * 60 + b".text", b"[string]", b"__class__", b"@type",
)  # fmt: skip


def targets(rng: Random, tag: str) -> Attack:
    """Paths and queries."""
    return _in_a_row("paths and queries", rng, tag, _target)


def _target(rng: Random, headers: Headers) -> bytes:
    known = (
        b"/v1/echo",
        b"/v1/search",
        b"/v1/books/b",
        b"/v1/path/1/true/1/YQ/RED/x/1/t",
        b"/library.v1.Library/GetBook",
        b"/v1/numbers/1",
    )
    path = (
        rng.choice(known)
        if rng.random() < 0.5
        else b"/" + b"/".join(rng.choice(SEGMENTS) for _ in range(rng.choice((1, 2, 3, 5, 9))))
    )
    if rng.random() < 0.1:
        path = b"/" + b"a/" * rng.choice((100, 3000))
    if rng.random() < 0.7:
        pairs = []
        for _ in range(rng.choice((1, 1, 2, 4))):
            value = rng.choice(LEAVES).encode() if rng.random() < 0.7 else nasty(rng)
            pairs.append(rng.choice(PARAMETERS) + rng.choice((b"=", b"=", b"=", b"", b"==")) + value)
        path += b"?" + rng.choice((b"&", b"&", b"&&", b";")).join(pairs)
    if rng.random() < 0.2:
        path = mangled(rng, path)
    # What would end the request line is for the grammar of request lines.
    path = bytes(each for each in path if each > 0x20 and each != 0x7F) or b"/"
    return request(rng.choice((b"GET",) * 8 + (b"POST", b"PUT", b"REPORT", b"OPTIONS")), path, headers)


def _in_a_row(kind: str, rng: Random, tag: str, make: Callable[[Random, Headers], bytes]) -> Attack:
    parts = []
    for number in range(PER_CONNECTION):
        headers = head(tag, number)
        if number == PER_CONNECTION - 1:
            headers.append((b"connection", b"close"))
        parts.append(make(rng, headers))
    return Attack(kind, cut(rng, b"".join(parts)), inputs=PER_CONNECTION)


ATTACKS: list[tuple[Make, int]] = [(documents, 16), (targets, 16)]
"""How each is made, and how often."""
