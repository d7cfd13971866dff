"""Rate limits of one gateway: what is counted apart, what clients are told, what is remembered."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from gateway.client_address import ClientAddress, parse_networks
from gateway.config import ConfigError
from gateway.filters.auth_options import AuthOptions
from gateway.filters.rate_limit_options import LimitRule, RateLimitOptions
from gateway.filters.rate_limit_table import LocalTable, Quota
from rpc.testing import MemoryMesh
from tests.gateway.asgi import Answer, Client
from tests.gateway.credentials import write_keys
from tests.gateway.streaming import SERVICE, STREAMS
from tests.gateway.worlds import World

ASK = f"/{SERVICE}/Ask"


@pytest.fixture
async def start(memory_mesh: MemoryMesh) -> AsyncIterator[Callable[..., Any]]:
    async def connect() -> Any:
        connection = memory_mesh.connection()
        await connection.connect()
        return connection

    world = World(connect, "")
    await world.backend(SERVICE, STREAMS)

    async def start(*rules: LimitRule, auth: AuthOptions | None = None, **options: Any) -> Client:
        return await world.ready_gateway(rate_limit=RateLimitOptions(rules=rules, **options), auth=auth)

    yield start
    await world.close()


def rule(limit: int, **options: Any) -> LimitRule:
    return LimitRule(**{"name": "r", "limit": limit, "window": 3600.0, **options})


async def ask(client: Client, address: str = "192.0.2.1", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(ASK, json={}, headers=named, scope={"client": (address, 1234)})


async def allowed(client: Client, times: int = 20, address: str = "192.0.2.1", **headers: str) -> int:
    """How many of some requests pass."""
    answers = [await ask(client, address, **headers) for _ in range(times)]
    assert {answer.status for answer in answers} <= {200, 429}
    return sum(answer.status == 200 for answer in answers)


# -------------------------------------------------------------------------------------------------- what is counted


async def test_callers_are_counted_apart(start: Callable[..., Any], tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", one={}, two={}, gold={"group": "gold"}, free={"group": "free"})
    auth = AuthOptions(api_keys=keys, public=("streams.v1.*",))
    client = await start(rule(3, groups={"gold": 5, "free": 0}), auth=auth)
    assert await allowed(client, x_api_key="one") == 3
    assert await allowed(client, x_api_key="two", address="192.0.2.2") == 3
    assert await allowed(client, x_api_key="two", address="192.0.2.3") == 0
    assert await allowed(client, x_api_key="gold") == 5
    assert await allowed(client, x_api_key="free") == 20
    # Who has no credential goes by the address; a wrong one does not help.
    assert await allowed(client) == 3
    assert await allowed(client, x_api_key="wrong") == 0
    assert await allowed(client, address="192.0.2.2") == 3


async def test_addresses(start: Callable[..., Any]) -> None:
    client = await start(rule(2, per=("ip",)))
    assert await allowed(client) == 2
    assert await allowed(client, x_forwarded_for="198.51.100.1") == 0
    assert await allowed(client, address="2001:db8:0:1::1") == 2
    assert await allowed(client, address="2001:db8:0:1:ffff::2") == 0
    assert await allowed(client, address="2001:db8:0:2::1") == 2
    assert await allowed(client, address="::ffff:192.0.2.1") == 0


async def test_methods_and_paths(start: Callable[..., Any]) -> None:
    client = await start(
        rule(2, name="a", per=("ip", "method"), match=("streams.v1.Streams/Ask", "streams.v1.Streams/Gather")),
        rule(3, name="b", per=(), match=("/metrics", "/v1/tell/**")),
    )
    assert await allowed(client) == 2
    assert await allowed(client, address="192.0.2.9") == 2
    statuses = [(await client.get("/metrics")).status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert (await client.get("/v1/tell/x")).status == 429
    # What fits no rule is not counted, nor are those who ask how the gateway is.
    for _ in range(5):
        assert (await client.get("/v1/numbers/x")).status != 429
        assert (await client.get("/healthz")).status == 200


async def test_health_is_never_refused(start: Callable[..., Any]) -> None:
    client = await start(rule(1, per=(), match=("*", "/**")))
    for _ in range(3):
        assert (await client.get("/readyz")).status == 200
        assert (await client.post("/grpc.health.v1.Health/Check", json={})).status == 200
    assert await allowed(client) == 1


async def test_a_request_counts_for_all_rules_or_for_none(start: Callable[..., Any]) -> None:
    client = await start(rule(5, name="all", per=()), rule(2, name="each", per=("ip",)))
    assert await allowed(client) == 2
    # Those that were refused for one rule have taken nothing of the other.
    assert await allowed(client, address="192.0.2.2") == 2
    assert await allowed(client, address="192.0.2.3") == 1


async def test_credentials_come_first(start: Callable[..., Any], tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", one={})
    client = await start(rule(1), auth=AuthOptions(api_keys=keys))
    assert [(await ask(client)).status for _ in range(3)] == [401] * 3
    assert await allowed(client, x_api_key="one") == 1


# --------------------------------------------------------------------------------------------- what clients are told


async def test_headers(start: Callable[..., Any]) -> None:
    client = await start(
        rule(2, name="per-ip", per=("ip",), window=60.0), rule(100, name="all", per=(), window=0.5), x_headers=True
    )
    answer = await ask(client)
    assert answer.header("ratelimit-policy") == '"per-ip";q=2;w=60, "all";q=100;w=1'
    assert answer.header("ratelimit") == '"per-ip";r=1;t=30, "all";r=99;t=1'
    assert [answer.header(f"x-ratelimit-{name}") for name in ("limit", "remaining", "reset")] == ["2", "1", "30"]
    assert answer.header("retry-after") is None
    await ask(client)
    refused = await ask(client)
    assert refused.status == 429
    assert refused.json["code"] == "resource_exhausted"
    assert refused.json["message"] == "the limit 'per-ip' of 2 requests in 60 s is reached: try again in 30 s"
    assert refused.header("retry-after") == "30"
    assert refused.header("ratelimit") == '"per-ip";r=0;t=30'
    assert refused.header("x-ratelimit-remaining") == "0"
    assert refused.header("x-request-id")


async def test_headers_can_be_left_out(start: Callable[..., Any]) -> None:
    client = await start(rule(1), headers=False)
    names = {name for name, _ in (await ask(client)).headers} | {name for name, _ in (await ask(client)).headers}
    assert not {"ratelimit", "ratelimit-policy", "x-ratelimit-limit"} & names
    assert "retry-after" in names


async def test_every_protocol_says_it_in_its_own_form(start: Callable[..., Any]) -> None:
    client = await start(rule(1, per=()))
    assert await allowed(client) == 1
    rest = await client.get("/v1/tell/x")
    assert (rest.status, rest.json["code"]) == (429, 8)
    assert rest.json["details"][0]["@type"] == "type.googleapis.com/google.rpc.RetryInfo"
    body = b"\0\0\0\0\0"
    for kind in ("application/grpc", "application/grpc-web+proto"):
        answer = await client.request("POST", ASK, body, headers={"content-type": kind})
        assert (answer.status, answer.header("grpc-status"), answer.header("retry-after")) == (200, "8", "3600")
        details = status_pb2.Status.FromString(
            base64.b64decode((answer.header("grpc-status-details-bin") or "") + "==")
        )
        info = error_details_pb2.RetryInfo()
        assert details.details[0].Unpack(info)
        assert info.retry_delay.seconds == 3600
    stream = await client.request(
        "POST", f"/{SERVICE}/Tell", body, headers={"content-type": "application/connect+proto"}
    )
    assert (stream.status, stream.body[0]) == (200, 2)
    assert b'"code":"resource_exhausted"' in stream.body


# ------------------------------------------------------------------------------------------------------ the algorithm


def test_a_burst_and_then_one_at_a_time() -> None:
    table, quota = LocalTable(10), Quota(60, 60.0, 3)
    taken = [table.take("k", quota, 100.0).is_allowed for _ in range(5)]
    assert taken == [True] * 3 + [False] * 2
    refused = table.take("k", quota, 100.5)
    assert (refused.is_allowed, refused.left, refused.wait, refused.reset) == (False, 0, 0.5, 2.5)
    assert table.take("k", quota, 101.0).is_allowed
    assert not table.take("k", quota, 101.9).is_allowed
    assert table.take("k", quota, 200.0).left == 2


@given(
    limit=st.integers(1, 50),
    window=st.floats(0.5, 1000),
    burst=st.one_of(st.none(), st.integers(1, 60)),
    gaps=st.lists(st.floats(0, 20), max_size=300),
)
def test_never_more_than_was_said(limit: int, window: float, burst: int | None, gaps: list[float]) -> None:
    """In any stretch of time: a burst, and what the rate gives meanwhile. And who waits as told is let in."""
    table, quota = LocalTable(10), Quota(limit, window, burst)
    now, passed = 1000.0, []
    for gap in gaps:
        now += gap
        decision = table.take("k", quota, now)
        if decision.is_allowed:
            passed.append(now)
        else:
            now += decision.wait + 1e-5 * quota.interval
            assert table.take("k", quota, now).is_allowed
            passed.append(now)
    for first in range(0, len(passed), 7):
        for last in range(first, len(passed)):
            seconds = passed[last] - passed[first]
            assert last - first + 1 <= quota.burst + seconds / quota.interval + 1.01


def test_what_is_remembered_is_bounded() -> None:
    table, quota = LocalTable(100), Quota(1, 60.0, None)
    for number in range(1000):
        assert table.take(number, quota, 0.0).is_allowed
    assert len(table) == 100
    assert not table.take(999, quota, 1.0).is_allowed
    assert table.take(0, quota, 1.0).is_allowed


async def test_time_gives_back(start: Callable[..., Any]) -> None:
    client = await start(rule(1, window=0.3))
    assert (await ask(client)).status == 200
    assert (await ask(client)).status == 429
    limit = time.monotonic() + 3
    while (await ask(client)).status == 429:
        assert time.monotonic() < limit
        await asyncio.sleep(0.02)


# --------------------------------------------------------------------------------------------------- whose address

TRUSTED = ("10.0.0.0/8", "2001:db8:ffff::/48", "192.0.2.7")

# Each row: peer, the X-Forwarded-For headers, the client.
ADDRESSES: list[tuple[str, list[str], str]] = [
    ("203.0.113.9", [], "203.0.113.9"),
    ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
    ("10.1.2.3", [], "10.1.2.3"),
    ("10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
    ("192.0.2.7", ["198.51.100.1"], "198.51.100.1"),
    # What stands before the first address that is not trusted, anybody may have written.
    ("10.1.2.3", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
    ("10.1.2.3", ["1.1.1.1, 198.51.100.1, 10.9.9.9"], "198.51.100.1"),
    ("10.1.2.3", ["1.1.1.1", "198.51.100.1 ,10.9.9.9"], "198.51.100.1"),
    ("10.1.2.3", ["10.4.4.4, 10.9.9.9"], "10.4.4.4"),
    ("10.1.2.3", ["198.51.100.1:4711"], "198.51.100.1"),
    ("10.1.2.3", ["[2001:db8:1::1]:4711"], "2001:db8:1::/64"),
    ("10.1.2.3", ["::ffff:198.51.100.1"], "198.51.100.1"),
    ("::ffff:10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
    ("2001:db8:ffff::1", ["2001:db8:5:6:7::"], "2001:db8:5:6::/64"),
    ("fe80::1%eth0", [], "fe80::/64"),
    # What is no address ends it.
    ("10.1.2.3", ["198.51.100.1, unknown"], "10.1.2.3"),
    ("10.1.2.3", ["198.51.100.1, unknown, 10.9.9.9"], "10.9.9.9"),
    ("10.1.2.3", [""], "10.1.2.3"),
    ("10.1.2.3", ["\xff, ,,"], "10.1.2.3"),
    ("10.1.2.3", ["1.1.1.1," + "10.0.0.1," * 5000 + "10.0.0.2"], "10.0.0.1"),
    ("not an address", ["198.51.100.1"], ""),
]


@pytest.mark.parametrize(("peer", "forwarded", "client"), ADDRESSES)
def test_whose_address_it_is(peer: str, forwarded: list[str], client: str) -> None:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    scope = {"client": (peer, 1), "headers": headers}
    assert ClientAddress(parse_networks(TRUSTED)).of(scope) == client


def test_servers_that_know_no_address() -> None:
    assert ClientAddress(parse_networks(TRUSTED)).of({"client": None, "headers": []}) == ""


async def test_behind_a_proxy(start: Callable[..., Any]) -> None:
    client = await start(rule(2, per=("ip",)), trusted_proxies=TRUSTED)
    assert await allowed(client, address="10.0.0.1", x_forwarded_for="198.51.100.1") == 2
    assert await allowed(client, address="10.0.0.2", x_forwarded_for="1.2.3.4, 198.51.100.1") == 0
    assert await allowed(client, address="10.0.0.1", x_forwarded_for="198.51.100.2") == 2


# ------------------------------------------------------------------------------------------------------------ options

BAD_RULES = [
    ({"name": "a b"}, "name"),
    ({"limit": 0}, "limit"),
    ({"window": 0.0}, "window"),
    ({"window": float("nan")}, "window"),
    ({"burst": 0}, "burst"),
    ({"per": ("ip", "ip")}, "per"),
    ({"per": ("user",)}, "per"),
    ({"match": ("/a/**/b",)}, "match"),
    ({"groups": {"x": -1}}, "groups"),
]


@pytest.mark.parametrize(("wrong", "name"), BAD_RULES)
def test_wrong_rules(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        LimitRule(**{"name": "r", "limit": 1, **wrong})


BAD_OPTIONS = [
    ({"rules": ()}, "rules"),
    ({"rules": (LimitRule(name="r", limit=1), LimitRule(name="r", limit=2))}, "rules"),
    ({"trusted_proxies": ("10.0.0.0/33",)}, "trusted_proxies"),
    ({"trusted_proxies": ("10.0.0.1/8",)}, "trusted_proxies"),
    ({"max_entries": 0}, "max_entries"),
    ({"bucket": "a.b"}, "bucket"),
    ({"when_away": "ajar"}, "when_away"),
]


@pytest.mark.parametrize(("wrong", "name"), BAD_OPTIONS)
def test_wrong_options(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        RateLimitOptions(**{"rules": (LimitRule(name="r", limit=1),), **wrong})
