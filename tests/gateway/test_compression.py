"""Compression both ways: content codings of requests and responses, messages in envelopes."""

import asyncio
import gzip
import io
import json
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import Config
from gateway.compression import CODINGS, Coding, CompressionOptions, MalformedError, TooLargeError, choose
from gateway.compression_asgi import is_compressible
from tests.gateway.asgi import Answer
from tests.gateway.conftest import CannedGateway
from tests.gateway.contracts import library
from tests.gateway.worlds import World

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

JSON = {"content-type": "application/json"}
GET_BOOK = "/library.v1.Library/GetBook"
TITLE = "All work and no play makes Jack a dull boy. " * 100
LIMIT = Config().max_body

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "br": lambda data: bytes(brotli.compress(data, quality=1)),
    "zstd": zstd.compress,
}
DECOMPRESS: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": zstd.decompress,
}
EACH = pytest.mark.parametrize("coding", CODINGS, ids=[coding.name for coding in CODINGS])
NAMES = pytest.mark.parametrize("name", list(COMPRESS))


def content(answer: Answer) -> Any:
    return json.loads(DECOMPRESS[answer.header("content-encoding")](answer.body))


# ------------------------------------------------------------------------------------------------------------- codings


@EACH
@given(data=st.binary(max_size=5000))
def test_what_goes_in_comes_out(coding: Coding, data: bytes) -> None:
    compressed = coding.compress(data)
    assert coding.decompress(compressed, len(data)) == data
    assert DECOMPRESS[coding.name](compressed) == data
    assert coding.decompress(COMPRESS[coding.name](data), len(data)) == data


@EACH
@given(data=st.binary(min_size=1, max_size=200))
def test_garbage_is_malformed(coding: Coding, data: bytes) -> None:
    try:
        coding.decompress(data, 10_000)
    except (MalformedError, TooLargeError):
        return


@EACH
def test_data_that_ends_too_early_is_malformed(coding: Coding) -> None:
    compressed = coding.compress(TITLE.encode())
    for end in range(1, len(compressed)):
        with pytest.raises(MalformedError):
            coding.decompress(compressed[:end], 10_000)


@EACH
def test_no_more_comes_out_than_is_allowed(coding: Coding) -> None:
    compressed = coding.compress(bytes(10_000))
    assert coding.decompress(compressed, 10_000) == bytes(10_000)
    with pytest.raises(TooLargeError):
        coding.decompress(compressed, 9_999)


@EACH
def test_a_bomb_takes_no_memory(coding: Coding) -> None:
    bomb = COMPRESS[coding.name](bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        coding.decompress(bomb, 100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@EACH
@pytest.mark.parametrize("size", [0, 1, 5000])
def test_parts_that_follow_each_other_count_as_one(coding: Coding, size: int) -> None:
    """Members of gzip, frames of zstd; br has no such thing, and there what follows the end is refused or ignored."""
    if coding.name == "br":
        return
    compressed = coding.compress(bytes(size)) + coding.compress(b"b")
    assert coding.decompress(compressed, size + 1) == bytes(size) + b"b"
    with pytest.raises(TooLargeError):
        coding.decompress(compressed, size)


def test_nobody_makes_us_set_aside_large_windows() -> None:
    options = {int(zstd.CompressionParameter.window_log): 27, int(zstd.CompressionParameter.content_size_flag): 0}
    with zstd.open(target := io.BytesIO(), "wb", options=options) as file:
        file.write(bytes(9_000_000))
    zstd_coding = next(coding for coding in CODINGS if coding.name == "zstd")
    with pytest.raises(MalformedError, match=r"[Ww]indow|memory"):
        zstd_coding.decompress(target.getvalue(), 10_000_000)


# --------------------------------------------------------------------------------------------------------- negotiation


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("gzip, deflate", "gzip"),
        ("deflate", None),
        ("gzip, deflate, br, zstd", "zstd"),  # as browsers say it
        ("gzip, br", "br"),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("gzip;q=0.5 , br ; q=0.8", "br"),
        ("gzip;q=0", None),
        ("gzip;q=0, *", "zstd"),
        ("*;q=0", None),
        ("*;q=0, br", "br"),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity, gzip", "gzip"),
        ("identity;q=0.5, gzip;q=0.5, *;q=0", "gzip"),
        ("gzip;q=2", None),
        ("gzip;q=nan", None),
        ("gzip;q=x", None),
        (",,;;=,", None),
    ],
)
def test_the_client_says_what_it_likes(accept: str, expected: str | None) -> None:
    coding = choose(accept.encode())
    assert (coding.name if coding is not None else None) == expected


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ("Application/JSON", True),
        ("application/problem+json", True),
        ("application/vnd.oai.openapi+json;version=3.1", True),
        ("application/proto", True),
        ("text/html; charset=utf-8", True),
        ("text/plain", True),
        ("text/csv", True),
        ("image/svg+xml", True),
        ("image/png", False),
        ("image/jpeg", False),
        ("video/mp4", False),
        ("application/zip", False),
        ("application/gzip", False),
        ("application/jsonx", False),
        ("application/octet-stream", False),
        ("text/event-stream", False),
        ("application/x-ndjson", False),
        ("application/grpc", False),
        ("application/grpc+json", False),
        ("application/grpc-web+json", False),
        ("application/connect+json", False),
        ("", False),
    ],
)
def test_what_is_compressed_already_is_not_compressed(content_type: str, expected: bool) -> None:
    assert is_compressible(content_type.encode()) is expected


# ----------------------------------------------------------------------------------------------------------- responses


@NAMES
@pytest.mark.parametrize("target", ["/v1/books/2", GET_BOOK, f"{GET_BOOK}?encoding=json&message=%7B%7D"])
async def test_answers_are_compressed_for_those_who_like_it(canned: CannedGateway, name: str, target: str) -> None:
    canned.answer({"title": TITLE})
    method = "POST" if target == GET_BOOK else "GET"
    answer = await canned.client.request(
        method, target, json={} if method == "POST" else None, headers={"accept-encoding": name}
    )
    assert answer.status == 200
    assert answer.header("content-encoding") == name
    assert answer.header("vary") == "accept-encoding"
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.header("x-request-id")
    assert len(answer.body) < 500
    assert content(answer) == {"title": TITLE}
    names = [key for key, _ in answer.headers]
    assert len(names) == len(set(names))


async def test_binary_answers_too(canned: CannedGateway) -> None:
    canned.answer({"title": TITLE})
    headers = {"content-type": "application/proto", "accept-encoding": "gzip"}
    answer = await canned.client.post(GET_BOOK, b"", headers=headers)
    assert canned.messages.read("library.v1.Book", gzip.decompress(answer.body)) == {"title": TITLE}


async def test_nobody_gets_what_they_did_not_ask_for(canned: CannedGateway) -> None:
    canned.answer({"title": TITLE})
    answer = await canned.client.get("/v1/books/2")
    assert answer.header("content-encoding") is None
    assert answer.header("vary") is None
    # Caches must know that the same request with another header may get other bytes.
    answer = await canned.client.get("/v1/books/2", headers={"accept-encoding": "identity"})
    assert answer.header("content-encoding") is None
    assert answer.header("vary") == "accept-encoding"
    assert content(answer) == {"title": TITLE}


@pytest.mark.parametrize("more", [0, 1])
async def test_small_answers_are_left_alone(canned: CannedGateway, more: int) -> None:
    overhead = len('{"title":""}')
    canned.answer({"title": "x" * (1024 - overhead - 1 + more)})
    answer = await canned.client.get("/v1/books/2", headers={"accept-encoding": "gzip"})
    assert answer.header("content-encoding") == (None, "gzip")[more]
    assert answer.header("vary") == (None, "accept-encoding")[more]


async def test_what_would_not_get_smaller_is_left_alone() -> None:
    canned = CannedGateway(library(), "library.v1.Library", Config(compression=CompressionOptions(minimum=1)))
    canned.answer({"contentType": "text/plain", "data": "/////w=="})
    answer = await canned.client.get("/v1/books/2/file", headers={"accept-encoding": "gzip"})
    assert answer.header("content-encoding") is None


@pytest.mark.parametrize(("content_type", "expected"), [("text/plain", "gzip"), ("image/png", None)])
async def test_raw_bytes_by_their_type(canned: CannedGateway, content_type: str, expected: str | None) -> None:
    canned.answer({"contentType": content_type, "data": "AAAA" * 1000})
    answer = await canned.client.get("/v1/books/2/file", headers={"accept-encoding": "gzip"})
    assert answer.status == 200
    assert answer.header("content-type") == content_type
    assert answer.header("content-encoding") == expected
    assert DECOMPRESS[expected](answer.body) == bytes(3000)


async def test_what_a_service_forbids_to_change_is_left_alone(canned: CannedGateway) -> None:
    def respond(call: Any) -> None:
        call.response = canned.messages.write("library.v1.Book", {"title": TITLE})
        call.initial_metadata = (("cache-control", "public, No-Transform"),)

    canned.respond = respond
    answer = await canned.client.get("/v1/books/2", headers={"accept-encoding": "gzip"})
    assert answer.header("content-encoding") is None


async def test_the_gateway_s_own_answers_are_compressed_as_well(world: World) -> None:
    client = await world.ready_gateway()
    plain = await client.get("/openapi.json")
    answer = await client.get("/openapi.json", headers={"accept-encoding": "gzip"})
    assert answer.header("content-encoding") == "gzip"
    assert content(answer) == json.loads(plain.body)
    tag = answer.header("etag")
    assert tag is not None
    assert tag == plain.header("etag")
    headers = {"accept-encoding": "gzip", "if-none-match": tag}
    assert (await client.get("/openapi.json", headers=headers)).status == 304
    assert (await client.get("/healthz", headers=headers)).header("content-encoding") is None


async def test_other_headers_stay_as_they_are(canned: CannedGateway) -> None:
    def respond(call: Any) -> None:
        call.response = canned.messages.write("library.v1.Book", {"title": TITLE})
        call.initial_metadata = (("cache-control", "public"), ("x-other", "1"), ("etag", '"v1"'))

    canned.respond = respond
    answer = await canned.client.get("/v1/books/2", headers={"accept-encoding": "br"})
    assert answer.header("content-encoding") == "br"
    assert answer.header("cache-control") == "public"
    assert answer.header("x-other") == "1"
    # A strong tag would promise the same bytes.
    assert answer.header("etag") == 'W/"v1"'
    assert (await canned.client.get("/v1/books/2")).header("etag") == '"v1"'


async def test_large_answers_do_not_hold_up_others(canned: CannedGateway) -> None:
    """Threads compress them: the event loop goes on meanwhile."""
    canned.answer({"title": "".join(chr(33 + number * 7919 % 90) for number in range(4_000_000))})
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)

    headers = {"accept-encoding": "gzip"}
    plain = await canned.client.get("/v1/books/2")
    begin = time.perf_counter()
    zlib.compress(plain.body, 1)
    alone = time.perf_counter() - begin
    task = asyncio.ensure_future(tick())
    answer = await canned.client.get("/v1/books/2", headers=headers)
    task.cancel()
    assert gzip.decompress(answer.body) == plain.body
    assert longest < alone + 0.2


async def test_it_can_be_turned_off() -> None:
    config = Config(compression=CompressionOptions(responses=False))
    canned = CannedGateway(library(), "library.v1.Library", config)
    canned.answer({"title": TITLE})
    headers = {"accept-encoding": "gzip"}
    assert (await canned.client.get("/v1/books/2", headers=headers)).json == {"title": TITLE}
    assert (await canned.client.post(GET_BOOK, json={}, headers=headers)).json == {"title": TITLE}
    web = {"content-type": "application/grpc-web+proto", "grpc-accept-encoding": "gzip"}
    answer = await canned.client.post(GET_BOOK, bytes(5), headers=web)
    assert answer.body[0] == 0
    # Requests are understood all the same.
    answer = await canned.client.post(
        GET_BOOK, gzip.compress(b'{"name": "7"}'), headers={**JSON, "content-encoding": "gzip"}
    )
    assert answer.status == 200
    assert canned.request() == {"name": "7"}


def test_a_minimum_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="minimum 0"):
        CompressionOptions(minimum=0)


# ------------------------------------------------------------------------------------------------------------ requests


@NAMES
@pytest.mark.parametrize("target", ["/v1/echo", "/library.v1.Library/Echo"])
@pytest.mark.parametrize("size", [1, 100_000])
async def test_requests_are_decompressed(canned: CannedGateway, name: str, target: str, size: int) -> None:
    body = json.dumps({"string": "x" * size}).encode()
    answer = await canned.client.post(target, COMPRESS[name](body), headers={**JSON, "content-encoding": name.upper()})
    assert answer.status == 200
    assert canned.request() == {"string": "x" * size}


async def test_requests_that_come_in_pieces(canned: CannedGateway) -> None:
    body = gzip.compress(b'{"string": "abc"}')
    pieces = [body[:5], b"", body[5:11], body[11:]]
    answer = await canned.client.post("/v1/echo", pieces, headers={**JSON, "content-encoding": "x-gzip"})
    assert answer.status == 200
    assert canned.request() == {"string": "abc"}


async def test_an_empty_body_is_never_decompressed(canned: CannedGateway) -> None:
    headers = {"content-type": "application/proto", "content-encoding": "gzip"}
    assert (await canned.client.post(GET_BOOK, b"", headers=headers)).status == 200
    assert (await canned.client.post("/v1/echo", b"", headers={**JSON, "content-encoding": "br"})).status == 200


@NAMES
@pytest.mark.parametrize("target", ["/v1/echo", "/library.v1.Library/Echo"])
async def test_bombs_are_refused(canned: CannedGateway, name: str, target: str) -> None:
    bomb = COMPRESS[name](b" " * (LIMIT + 1))
    answer = await canned.client.post(target, bomb, headers={**JSON, "content-encoding": name})
    assert answer.status == 413
    assert f"{LIMIT} bytes" in answer.json["message"]
    assert canned.calls == []
    assert canned.gateway._unary is not None
    assert canned.gateway._unary.bodies._held == 0


@NAMES
@pytest.mark.parametrize("target", ["/v1/echo", "/library.v1.Library/Echo"])
async def test_bodies_that_are_not_what_they_say(canned: CannedGateway, name: str, target: str) -> None:
    answer = await canned.client.post(target, b'{"string": "a"}', headers={**JSON, "content-encoding": name})
    assert answer.status == 400
    assert f"not {name}" in answer.json["message"]
    assert canned.calls == []


@pytest.mark.parametrize("name", ["compress", "deflate", "gzip, br", "x" * 1000])
async def test_other_ways_to_compress_are_refused(canned: CannedGateway, name: str) -> None:
    answer = await canned.client.post("/v1/echo", b"x", headers={**JSON, "content-encoding": name})
    assert answer.status == 415
    assert answer.header("accept-encoding") == "gzip, br, zstd"
    assert "gzip, br, zstd" in answer.json["message"]
    answer = await canned.client.post("/library.v1.Library/Echo", b"x", headers={**JSON, "content-encoding": name})
    assert answer.status == 501
    assert answer.json["code"] == "unimplemented"
    assert canned.calls == []


async def test_a_body_that_nobody_reads_may_be_anything(canned: CannedGateway) -> None:
    answer = await canned.client.get("/v1/books/2", body=b"x", headers={"content-encoding": "compress"})
    assert answer.status == 200


# ----------------------------------------------------------------------------------------------- messages in envelopes


def envelopes(data: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        found.append((data[0], data[5 : 5 + size]))
        data = data[5 + size :]
    return found


@NAMES
@pytest.mark.parametrize("large", [True, False])
async def test_messages_of_grpc_web(canned: CannedGateway, name: str, large: bool) -> None:
    title = TITLE if large else "T"
    canned.answer({"title": title})
    request = COMPRESS[name](canned.messages.write("library.v1.GetBookRequest", {"name": "9"}))
    headers = {"content-type": "application/grpc-web+proto", "grpc-encoding": name, "grpc-accept-encoding": name}
    answer = await canned.client.post(GET_BOOK, b"\x01" + len(request).to_bytes(4, "big") + request, headers=headers)
    assert answer.header("grpc-encoding") == name
    (flags, message), (_, trailers) = envelopes(answer.body)
    assert flags == int(large)
    data = DECOMPRESS[name if large else None](message)
    assert canned.messages.read("library.v1.Book", data) == {"title": title}
    assert b"grpc-status: 0" in trailers
    assert canned.request() == {"name": "9"}


@NAMES
async def test_bombs_and_garbage_in_envelopes(canned: CannedGateway, name: str) -> None:
    headers = {"content-type": "application/grpc-web+proto", "grpc-encoding": name}
    for body, code in ((COMPRESS[name](bytes(LIMIT + 1)), 8), (b"garbage", 3)):
        answer = await canned.client.post(GET_BOOK, b"\x01" + len(body).to_bytes(4, "big") + body, headers=headers)
        assert b"grpc-status: %d" % code in answer.body or answer.header("grpc-status") == str(code)
    assert canned.calls == []


# ------------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_streams_are_left_alone(canned: CannedGateway, accept: str) -> None:
    config = Config()
    assert config.compression.responses
    headers = {"accept": accept, "accept-encoding": "gzip, br, zstd"}
    answer = await canned.client.request("HEAD", "/v1/watch/2", headers=headers)
    assert answer.status == 200
    assert answer.header("content-type") == accept
    assert answer.header("content-encoding") is None
