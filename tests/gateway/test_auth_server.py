"""Authentication and limits at a gateway that runs, as its configuration file says: real clients, bare sockets."""

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import httpx
import pytest
import websockets
from grpc import StatusCode
from grpc.aio import AioRpcError

from gateway.websocket_handshake import BEARER, JSON_SUBPROTOCOL
from tests.gateway.credentials import AUDIENCE, ISSUER, bearer, jwk, key_set, token, write_keys
from tests.gateway.processes import GatewayProcess, RawClient
from tests.gateway.streaming import SERVICE, Context, Item, Items, as_bytes, serve

ASK = f"/{SERVICE}/Ask"

CONFIG = f"""
forward_headers = ["x-forwarded-for"]
access_log = "combined"

[auth]
api_keys = "keys.toml"
public = ["/v1/numbers/**"]

[auth.claims]
sub = "sub"
"https://x.test/tenant" = "tenant"

[auth.scopes]
"streams.v1.Streams/Tell" = ["tell"]

[auth.jwt]
issuer = "{ISSUER}"
audience = ["{AUDIENCE}"]
jwks_file = "jwks.json"
leeway = "10s"

[rate_limit]
trusted_proxies = ["127.0.0.0/8"]

[[rate_limit.rules]]
name = "per-caller"
limit = 1000
window = "1m"
groups = {{ few = 2 }}

[[rate_limit.rules]]
name = "per-address"
limit = 3
window = "1h"
per = ["ip"]
match = ["streams.v1.Streams/Gather"]
"""


@pytest.fixture(scope="module")
def prefix() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, nats_url: str, prefix: str) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "gateway.toml").write_text(CONFIG)
    (folder / "jwks.json").write_bytes(key_set(jwk("RS256", "one")))
    write_keys(folder / "keys.toml", good={"scopes": ["tell"]}, few={"group": "few"})
    gateway = GatewayProcess(folder, nats_url, prefix, config=str(folder / "gateway.toml")).start()
    yield gateway
    gateway.close()


def seen(context: Context) -> Any:
    """All that a service sees of a request besides the message."""
    return Item(text=json.dumps([[key, str(value)] for key, value in context.invocation_metadata() or ()]))


async def ask(request: Any, context: Context) -> Any:
    return seen(context)


async def tell(request: Any, context: Context) -> Items:
    yield seen(context)


async def gather(requests: Items, context: Context) -> Any:
    async for _ in requests:
        pass
    return seen(context)


async def talk(requests: Items, context: Context) -> Items:
    async for _ in requests:
        yield seen(context)


@pytest.fixture(autouse=True)
async def _service(gateway: GatewayProcess, nats_url: str, prefix: str) -> AsyncIterator[None]:
    server = await serve(nats_url, prefix, ask=ask, tell=tell, gather=gather, talk=talk)
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        for _ in range(500):
            if (await client.post(ASK, json={}, headers={"x-api-key": "good"})).status_code == 200:
                break
    yield
    await server.stop(0)


async def test_http(gateway: GatewayProcess) -> None:
    for options in ({}, {"http1": False, "http2": True}):
        async with httpx.AsyncClient(base_url=gateway.url, **options) as client:
            refused = await client.post(ASK, json={})
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
            assert refused.headers.get_list("www-authenticate") == [
                'Bearer realm="natsmesh"',
                'ApiKey realm="natsmesh", header="x-api-key"',
            ]
            claims = {"https://x.test/tenant": "acme"}
            answer = await client.post(ASK, json={}, headers={**bearer(token(**claims)), "X-Claim-Sub": "root"})
            assert ["x-claim-tenant", "acme"] in json.loads(answer.json()["text"])
            assert "root" not in answer.text
            assert (await client.get("/v1/tell/x", headers=bearer(token()))).status_code == 403
            assert (await client.get("/v1/tell/x", headers={"x-api-key": "good"})).status_code == 200
            assert (await client.get("/v1/numbers/x")).status_code == 200


async def test_grpc(gateway: GatewayProcess) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        unary = channel.unary_unary(ASK, request_serializer=as_bytes, response_deserializer=Item.FromString)
        stream = channel.stream_stream(
            f"/{SERVICE}/Talk", request_serializer=as_bytes, response_deserializer=Item.FromString
        )
        metadata = (("authorization", f"Bearer {token()}"), ("x-claim-sub", "root"), ("x-claim-sub-bin", b"root"))
        answer = await unary(Item(), metadata=metadata)
        assert ["x-claim-sub", "ada"] in json.loads(answer.text)
        assert "root" not in answer.text
        call = stream(metadata=metadata)
        await call.write(Item())
        assert "ada" in (await call.read()).text
        await call.done_writing()
        for wrong, code in (
            ((), StatusCode.UNAUTHENTICATED),
            ((("x-api-key", "wrong"),), StatusCode.UNAUTHENTICATED),
            ((("authorization", "Bearer a b"),), StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(AioRpcError) as caught:
                await unary(Item(), metadata=wrong)
            assert caught.value.code() is code
            assert any(name == "www-authenticate" for name, _ in caught.value.trailing_metadata() or ())
            with pytest.raises(AioRpcError) as caught:
                await stream(metadata=wrong).read()
            assert caught.value.code() is code


async def test_websockets(gateway: GatewayProcess) -> None:
    url = f"ws://127.0.0.1:{gateway.port}/{SERVICE}/Talk"
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(url)
    assert caught.value.response.status_code == 401
    assert caught.value.response.headers.get_all("www-authenticate")[0] == 'Bearer realm="natsmesh"'
    headers = {**bearer(token()), "x-claim-sub": "root"}
    async with websockets.connect(url, additional_headers=headers) as socket:
        assert socket.response is not None
        assert '"per-caller"' in socket.response.headers["ratelimit"]
        await socket.send("{}")
        text = json.loads(await socket.recv())["text"]
        assert ["x-claim-sub", "ada"] in json.loads(text)
        assert "root" not in text
    # As a page of a browser does it, which cannot send headers.
    subprotocols = [websockets.Subprotocol(each) for each in (JSON_SUBPROTOCOL, BEARER + token())]
    async with websockets.connect(url, subprotocols=subprotocols) as socket:
        await socket.send("{}")
        assert "ada" in await socket.recv()


# Each line is one header, or what somebody might take for one.
SMUGGLED = [
    b"X-Claim-Sub: root",
    b"x-claim-sub : root",
    b"x-other: a\r\n x-claim-sub: root",
    b"x-other: a\nx-claim-sub: root",
    b"x-other: a\rx-claim-sub: root",
    b"x-claim-sub\0: root",
    b"\tx-claim-sub: root",
    b"x-claim-sub\xa0: root",
    b"connection: x-claim-sub\r\nx-claim-sub: root",
    b"trailer: x-claim-sub",
    b"x_claim_sub: root",
]


@pytest.mark.parametrize("line", SMUGGLED)
async def test_claims_on_a_bare_socket(gateway: GatewayProcess, line: bytes) -> None:
    body = b"2\r\n{}\r\n0\r\nx-claim-sub: root\r\n\r\n"
    async with RawClient(gateway.port) as client:
        await client.send(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-api-key: good\r\n"
            b"transfer-encoding: chunked\r\n%b\r\n\r\n%b" % (ASK.encode(), line, body)
        )
        status, _, answer = await client.answer()
        assert status in (200, 400)
        assert b"root" not in answer
        assert status == 400 or b"x-claim-sub" in answer  # the true one


async def test_limits(gateway: GatewayProcess) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        few = [(await client.post(ASK, json={}, headers={"x-api-key": "few"})).status_code for _ in range(4)]
        assert few == [200, 200, 429, 429]

        async def gather(address: str) -> httpx.Response:
            headers = {"x-api-key": "good", "x-forwarded-for": address, "content-type": "application/x-ndjson"}
            headers["content-type"] = "application/connect+json"
            return await client.post(f"/{SERVICE}/Gather", content=b"\0\0\0\0\2{}", headers=headers)

        refused = [b"resource_exhausted" in (await gather("198.51.100.1")).content for _ in range(4)]
        assert refused == [False] * 3 + [True]
        last = await gather("198.51.100.1")
        assert 1190 <= int(last.headers["retry-after"]) <= 1200
        assert b"resource_exhausted" not in (await gather("198.51.100.2")).content


async def test_the_log_has_no_secrets(gateway: GatewayProcess) -> None:
    good = token()
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        for headers in (bearer(good), bearer("a-secret-of-mine"), {"x-api-key": "another-secret"}):
            for _ in range(20):
                await client.post(ASK, json={}, headers=headers)
    for secret in (good, "a-secret-of-mine", "another-secret"):
        assert secret not in gateway.log
    assert "Traceback" not in gateway.log
    # But it has who it was.
    assert "127.0.0.1 - ada [" in gateway.log
    assert f'"POST {ASK} HTTP/1.1" 401 ' in gateway.log
