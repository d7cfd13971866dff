"""Which headers pass, which never do, and what the gateway reads of them itself."""

import asyncio

import pytest
from grpc import StatusCode

from gateway.config import Config, ConfigError
from gateway.errors import HttpError
from gateway.headers import MAX_NAMES_KNOWN, HeaderReader, answer_headers, new_request_id
from rpc import StatusError
from tests.gateway.conftest import CannedGateway


def read(*headers: tuple[str, str], forward: tuple[str, ...] = ()) -> dict[str, str | bytes]:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return dict(HeaderReader(forward).read(pairs).metadata or [])


PASS = [
    ("authorization", "Bearer x"),
    ("cookie", "a=b"),
    ("x-tenant", "t"),
    ("x-request-id", "abc"),
    ("custom.name_1", ""),
    ("idempotency-key", "k"),
]

NEVER = [
    # Hop-by-hop and message framing: RFC 9110, 7.6.1.
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host"),
    *("expect", "content-length", "content-type", "content-encoding", "proxy-authorization"),
    # The bus's and the protocol's own: facts, "Inbound HTTP must never set Nats-* headers".
    *("nats-msg-id", "nats-trace-only", "nats-rollup", "nats-ttl", "nats-expected-stream", "nats-service-error"),
    *("grpc-status", "grpc-timeout", "grpc-message", "grpc-status-details-bin", "mesh-refused", "mesh-accepted"),
    *("mesh-dup-1-authorization", "mesh-trailer-x"),
    # Browsers' and tools' own, negotiation, the proxy chain.
    *("user-agent", "accept", "accept-encoding", "origin", "referer", "sec-fetch-mode", "x-forwarded-for", "forwarded"),
    # Trace context: telemetry decides.
    *("traceparent", "tracestate", "baggage"),
    # The gateway's word about who calls, in every spelling that somebody behind it might take for it.
    *("x-claim-sub", "x-claim-", "x-claim-sub-bin", "x_claim_sub", "x-claim_sub", "x.claim.sub", "X-Claim-Sub"),
    # What is no metadata key.
    *("a b", "x!", ":path", "x'y", ""),
]


@pytest.mark.parametrize(("name", "value"), PASS)
def test_pass(name: str, value: str) -> None:
    assert read((name, value)) == {name: value}


@pytest.mark.parametrize("name", NEVER)
def test_never_pass(name: str) -> None:
    value = {"content-length": "1", "grpc-timeout": "1S"}.get(name, "x")
    assert read((name, value)) == {}


def test_operators_can_let_some_more_pass() -> None:
    forward = ("User-Agent", "x-forwarded-for")
    assert read(("user-agent", "curl"), ("x-forwarded-for", "1"), ("accept", "x"), forward=forward) == {
        "user-agent": "curl",
        "x-forwarded-for": "1",
    }


@pytest.mark.parametrize(
    "name",
    ["Nats-Msg-Id", "grpc-status", "mesh-x", "connection", "content-length", "X-Claim-Sub", "x_claim_sub", "a b", ""],
)
def test_some_must_not_pass_whoever_asks(name: str) -> None:
    with pytest.raises(ConfigError, match="forward_headers"):
        Config(forward_headers=(name,))


@pytest.mark.parametrize("value", ["a\r\nNats-Msg-Id: 1", "a\nb", "a\0b", "\xff", "\x7f"])
def test_values_that_are_no_metadata_are_left_out(value: str) -> None:
    assert read(("x-a", value), ("x-b", "1")) == {"x-b": "1"}


def test_binary_metadata() -> None:
    reader = HeaderReader()
    assert reader.read([(b"x-a-bin", b"/w=="), (b"x-a-bin", b"AA, AQ")]).metadata == [
        ("x-a-bin", b"\xff"),
        ("x-a-bin", b"\x00"),
        ("x-a-bin", b"\x01"),
    ]
    with pytest.raises(HttpError, match="base64"):
        reader.read([(b"x-a-bin", b"%%")])


def test_metadata_is_bounded() -> None:
    with pytest.raises(HttpError) as caught:
        read(*((f"x-{number}", "v" * 1000) for number in range(17)))
    assert caught.value.status == 431


def test_what_is_known_of_names_is_bounded() -> None:
    reader = HeaderReader()
    for number in range(MAX_NAMES_KNOWN * 2):
        name = f"x-{number}"
        assert reader.read([(name.encode(), b"v")]).metadata == [(name, "v")]
    assert len(reader._verdicts) <= MAX_NAMES_KNOWN


def test_what_the_gateway_itself_says() -> None:
    reader = HeaderReader()
    name, binary = reader.sealed("x-claim-sub"), reader.sealed("x-claim-sub-bin")
    headers = [(b"x-claim-sub", b"forged"), (name, b"ada"), (binary, b"w6Q="), (b"x-claim-sub", b"forged")]
    assert reader.read(headers).metadata == [("x-claim-sub", "ada"), ("x-claim-sub-bin", "ä".encode())]
    # Each reader knows its own only.
    assert HeaderReader().read([(name, b"ada")]).metadata is None
    assert reader.sealed("x-claim-sub") == name


# Each row: header, value, seconds. Source: gRPC over HTTP/2, "Timeout"; Connect, "Timeout-Milliseconds".
TIMEOUTS = [
    ("grpc-timeout", "1S", 1.0),
    ("grpc-timeout", "99999999m", 99999.999),
    ("grpc-timeout", "0n", 0.0),
    ("connect-timeout-ms", "1500", 1.5),
    ("connect-timeout-ms", "9999999999", 9999999.999),
]


@pytest.mark.parametrize(("name", "value", "seconds"), TIMEOUTS)
def test_timeouts(name: str, value: str, seconds: float) -> None:
    assert HeaderReader().read([(name.encode(), value.encode())]).timeout == pytest.approx(seconds)


BAD_TIMEOUTS = [
    *(
        ("grpc-timeout", value)
        for value in ("", "1", "S", "123456789S", "-1S", "+1S", "1_0S", "1.5S", " 1S", "1s", "\xb2S")
    ),
    *(("connect-timeout-ms", value) for value in ("", "12345678901", "-1", "+1", "1_0", "1.5", " 1", "\xb2", "1ms")),
]


@pytest.mark.parametrize(("name", "value"), BAD_TIMEOUTS)
def test_malformed_timeouts_are_refused(name: str, value: str) -> None:
    with pytest.raises(HttpError, match=name) as caught:
        HeaderReader().read([(name.encode(), value.encode("latin-1"))])
    assert caught.value.status == 400


@pytest.mark.parametrize("value", [b"+1", b"1_0", b" 1", b"x", b"-1"])
def test_malformed_lengths_are_refused(value: bytes) -> None:
    with pytest.raises(HttpError, match="content-length"):
        HeaderReader().read([(b"content-length", value)])


def test_the_shortest_timeout_counts() -> None:
    assert HeaderReader().read([(b"grpc-timeout", b"2S"), (b"connect-timeout-ms", b"500")]).timeout == 0.5


async def test_deadlines(canned: CannedGateway) -> None:
    loop = asyncio.get_running_loop()

    async def seconds(**headers: str) -> float:
        before = loop.time()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        assert (await canned.client.get("/v1/books/2", headers=named)).status == 200
        deadline = canned.calls[-1].deadline
        assert deadline is not None
        return deadline - before

    assert await seconds() == pytest.approx(30, abs=1)
    assert await seconds(grpc_timeout="5S") == pytest.approx(5, abs=1)
    assert await seconds(connect_timeout_ms="7000") == pytest.approx(7, abs=1)
    assert await seconds(grpc_timeout="9999H") == pytest.approx(600, abs=1)


async def test_request_ids(canned: CannedGateway) -> None:
    answers = [await canned.client.get("/v1/books/2") for _ in range(3)]
    ids = {answer.header("x-request-id") for answer in answers}
    assert len(ids) == 3
    assert canned.calls[-1].metadata == ()
    answer = await canned.client.get("/v1/books/2", headers={"x-request-id": "mine/1"})
    assert answer.header("x-request-id") == "mine/1"
    assert canned.calls[-1].metadata == (("x-request-id", "mine/1"),)
    for value in ("a b", "", "x" * 129, "\xe4", 'a"\tb'):
        answer = await canned.client.get("/v1/books/2", headers={"x-request-id": value})
        assert answer.header("x-request-id") not in (value, None)
    # Errors have one, too, even when the headers are what is wrong.
    for headers in ({"grpc-timeout": "x"}, {"x-a-bin": "%"}):
        answer = await canned.client.get("/v1/books/2", headers=headers)
        assert answer.status == 400
        assert answer.header("x-request-id")
    assert len({new_request_id() for _ in range(100)}) == 100


def test_answered_metadata() -> None:
    initial = (
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("location", "/x"),
        ("x-bytes-bin", b"\xff"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("grpc-status", "0"),
        ("x-request-id", "forged"),
        ("x-split", "a\r\nb: c"),
        ("x-uml", "ä"),
        ("Bad Name", "x"),
    )
    trailing = (("x-cost", "3"), ("grpc-status-details-bin", b"x"))
    assert answer_headers(initial, trailing) == [
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"location", b"/x"),
        (b"x-bytes-bin", b"/w"),
        (b"trailer-x-cost", b"3"),
    ]


async def test_metadata_of_errors_is_answered(canned: CannedGateway) -> None:
    canned.fail(StatusError(StatusCode.UNAVAILABLE, "later"), (("retry-after", "3"),))
    answer = await canned.client.get("/v1/books/2")
    assert answer.header("trailer-retry-after") == "3"


async def test_header_limits_over_http(canned: CannedGateway) -> None:
    headers = {f"x-{number}": "v" * 1000 for number in range(17)}
    answer = await canned.client.get("/v1/books/2", headers=headers)
    assert answer.status == 431
    assert canned.calls == []


def test_bad_options_are_refused() -> None:
    for options, name in (
        ({"port": 70000}, "port"),
        ({"workers": 0}, "workers"),
        ({"timeout": 0}, "timeout"),
        ({"max_timeout": -1}, "max_timeout"),
        ({"grace": -1}, "grace"),
        ({"max_body": 0}, "max_body"),
        ({"max_response": 0}, "max_response"),
        ({"max_streams": 0}, "max_streams"),
        ({"stream_timeout": 0}, "stream_timeout"),
        ({"heartbeat": 0}, "heartbeat"),
        ({"write_patience": 0}, "write_patience"),
        ({"max_held": 1}, "max_held"),
        ({"body_patience": 0}, "body_patience"),
        ({"keep_alive": float("nan")}, "keep_alive"),
    ):
        with pytest.raises(ConfigError, match=name):
            Config(**options)
