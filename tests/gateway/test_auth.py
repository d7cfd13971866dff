"""Who may call, by every front-end: what is public, what needs a credential or a scope, and what services learn."""

import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError
from gateway.filters.auth_options import AuthOptions, JwtOptions
from rpc import Connection
from rpc.testing import MemoryMesh
from tests.gateway.asgi import Answer, Client
from tests.gateway.credentials import AUDIENCE, ISSUER, bearer, jwk, key_set, token, write_keys
from tests.gateway.streaming import Context, Item, Items, serve
from tests.gateway.worlds import World

ASK, TELL = "/streams.v1.Streams/Ask", "/streams.v1.Streams/Tell"


def metadata_of(context: Context) -> str:
    """The metadata that a service sees, as JSON; bytes as text."""
    pairs = context.invocation_metadata() or ()
    return json.dumps([[key, value if isinstance(value, str) else value.decode()] for key, value in pairs])


async def ask(request: Any, context: Context) -> Any:
    return Item(text=metadata_of(context))


async def tell(request: Any, context: Context) -> Items:
    yield Item(text=metadata_of(context))


@pytest.fixture
async def world(memory_mesh: MemoryMesh) -> AsyncIterator[World]:
    """The bus in memory alone: nothing here depends on which one it is."""

    async def connect() -> Connection:
        connection = memory_mesh.connection()
        await connection.connect()
        return connection

    world = World(connect, "")
    yield world
    await world.close()


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options of a gateway that takes both kinds of credentials."""
    (tmp_path / "jwks.json").write_bytes(key_set(jwk("RS256", "one"), jwk("ES256", "two")))
    return {
        "api_keys": write_keys(
            tmp_path / "keys.toml",
            billing={"scopes": ["items.read"], "claims": {"tenant": "acme"}},
            old={"expires": "2020-01-01T00:00:00Z"},
        ),
        "jwt": JwtOptions(issuer=ISSUER, audience=(AUDIENCE,), jwks_file=tmp_path / "jwks.json"),
    }


@pytest.fixture
async def start(world: World) -> AsyncIterator[Callable[..., Any]]:
    servers = []

    async def start(**options: Any) -> Client:
        servers.append(await serve(await world.connection(), world.prefix, ask=ask, tell=tell))
        return await world.ready_gateway(auth=AuthOptions(**options))

    yield start
    for server in servers:
        await server.stop(0)


def seen(answer: Answer) -> list[list[str]]:
    """The metadata that a unary call had."""
    assert answer.status == 200, answer
    found: list[list[str]] = json.loads(answer.json["text"])
    return found


def envelope(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


class FrontEnd:
    """One way to call, and how it says no."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def rest(self, headers: dict[str, str]) -> tuple[Any, Answer]:
        answer = await self.client.get("/v1/tell/x", headers=headers)
        return answer.json["code"] if answer.status != 200 else None, answer

    async def connect(self, headers: dict[str, str]) -> tuple[Any, Answer]:
        answer = await self.client.post(ASK, json={}, headers=headers)
        return answer.json["code"] if answer.status != 200 else None, answer

    async def connect_stream(self, headers: dict[str, str]) -> tuple[Any, Answer]:
        all_headers = {"content-type": "application/connect+json", **headers}
        answer = await self.client.request("POST", TELL, envelope(b"{}"), headers=all_headers)
        assert answer.status == 200
        assert answer.header("content-type") == "application/connect+json"
        size = 5 + int.from_bytes(answer.body[1:5], "big")
        first, rest = answer.body[:size], answer.body[size:]
        end = json.loads((first if first[0] & 2 else rest)[5:])
        return end.get("error", {}).get("code"), answer

    async def grpc(self, headers: dict[str, str], kind: str = "application/grpc") -> tuple[Any, Answer]:
        scope = {"extensions": {"http.response.trailers": {}}}
        all_headers = {"content-type": kind, **headers}
        answer = await self.client.request("POST", ASK, envelope(b""), headers=all_headers, scope=scope)
        assert answer.status == 200
        if kind == "application/grpc":
            answer.headers += answer.trailers
        status = answer.header("grpc-status")
        return None if status == "0" or answer.body.endswith(b"grpc-status: 0\r\n") else status, answer

    async def grpc_web(self, headers: dict[str, str]) -> tuple[Any, Answer]:
        return await self.grpc(headers, "application/grpc-web")


# Each row: front-end; what it calls INVALID_ARGUMENT, UNAUTHENTICATED, PERMISSION_DENIED; whether the status is HTTP's.
FRONT_ENDS = [
    ("rest", 3, 16, 7, True),
    ("connect", "invalid_argument", "unauthenticated", "permission_denied", True),
    ("connect_stream", "invalid_argument", "unauthenticated", "permission_denied", False),
    ("grpc", "3", "16", "7", False),
    ("grpc_web", "3", "16", "7", False),
]


@pytest.mark.parametrize(("front_end", "malformed", "unauthenticated", "forbidden", "by_status"), FRONT_ENDS)
async def test_every_front_end_says_no_in_its_own_form(
    start: Callable[..., Any],
    options: dict[str, Any],
    front_end: str,
    malformed: Any,
    unauthenticated: Any,
    forbidden: Any,
    by_status: bool,
) -> None:
    client = await start(**options, scopes={"streams.v1.*": ("items.read",)})
    call = getattr(FrontEnd(client), front_end)
    for headers, code, status, error in (
        ({}, unauthenticated, 401, ""),
        ({"x-api-key": "wrong"}, unauthenticated, 401, "invalid_token"),
        ({"x-api-key": "old"}, unauthenticated, 401, "invalid_token"),
        (bearer(token(exp=1)), unauthenticated, 401, "invalid_token"),
        (bearer("what is this"), malformed, 400, "invalid_request"),
        (bearer(token()), forbidden, 403, "insufficient_scope"),
        (bearer(token(scope="other items.read")), None, 200, ""),
        ({"x-api-key": "billing"}, None, 200, ""),
    ):
        found, answer = await call(headers)
        assert found == code, (headers, answer)
        assert answer.status == (status if by_status else 200)
        assert answer.header("x-request-id")
        challenges = [value for name, value in answer.headers if name == "www-authenticate"]
        if code is None:
            assert challenges == []
            continue
        assert challenges[0].startswith('Bearer realm="natsmesh"')
        assert challenges[1].startswith('ApiKey realm="natsmesh"')
        assert challenges[1].endswith('header="x-api-key"')
        assert ('error="' in challenges[0]) is bool(error)
        assert not error or f'error="{error}"' in challenges[0]
        assert ('scope="items.read"' in challenges[0]) is (status == 403)


async def test_what_services_learn(start: Callable[..., Any], options: dict[str, Any]) -> None:
    claims = {
        "sub": "sub",
        "tenant": "tenant",
        "realm.roles": "roles",
        "https://x.test/name": "name",
        "name": "name-bin",
        "n": "n",
        "flag": "flag",
        "object": "object",
        "absent": "absent",
    }
    client = await start(**options, claims=claims)
    claimed = {
        "sub": "auth0|ada",
        "realm": {"roles": ["a", "b c", None, 3]},
        "https://x.test/name": 'Ä "50%"\r\nx: y',
        "name": "Ä",
        "n": 1.5,
        "flag": True,
        "object": {"ö": [1]},
        "other": "x",
    }
    assert seen(await client.post(ASK, json={}, headers=bearer(token(**claimed)))) == [
        ["x-claim-credential", "jwt"],
        ["x-claim-sub", "auth0|ada"],
        ["x-claim-roles", "a"],
        ["x-claim-roles", "b c"],
        ["x-claim-roles", "3"],
        ["x-claim-name", '%C3%84 "50%25"%0D%0Ax: y'],
        ["x-claim-name-bin", "Ä"],
        ["x-claim-n", "1.5"],
        ["x-claim-flag", "true"],
        ["x-claim-object", '{"\\u00f6":[1]}'],
    ]
    assert seen(await client.post(ASK, json={}, headers={"x-api-key": "billing"})) == [
        ["x-claim-credential", "api-key"],
        ["x-claim-sub", "billing"],
        ["x-claim-tenant", "acme"],
    ]


FORGED = {
    "x-claim-sub": "root",
    "x-claim-sub-bin": base64.b64encode(b"root").decode(),
    "x-claim-credential": "jwt",
    "x_claim_sub": "root",
    "x-claim_sub": "root",
    "x.claim.sub": "root",
    "X-Claim-Sub": "root",
    "x-claim-": "root",
    "mesh-dup-1-x-claim-sub": "root",
    "mesh-trailer-x-claim-sub": "root",
    "nats-x-claim-sub": "root",
    "x-claim-sub ": "root",
    "\0x-claim-sub": "root",
    secrets.token_hex(16) + ":x-claim-sub": "root",
}


@pytest.mark.parametrize("front_end", [row[0] for row in FRONT_ENDS])
@pytest.mark.parametrize("mode", ["off", "public", "on"])
async def test_nobody_can_say_who_he_is_but_the_gateway(
    world: World, options: dict[str, Any], front_end: str, mode: str
) -> None:
    server = await serve(await world.connection(), world.prefix, ask=ask, tell=tell)
    auth = {
        "off": None,
        "public": AuthOptions(**options, public=("streams.v1.*",)),
        "on": AuthOptions(**options),
    }[mode]
    client = await world.ready_gateway(auth=auth)
    credential = bearer(token()) if mode == "on" else {}
    code, answer = await getattr(FrontEnd(client), front_end)({**FORGED, **credential, "x-tenant": "t"})
    assert code is None, answer
    await server.stop(0)
    assert b"root" not in answer.body
    assert b"x-tenant" in answer.body
    assert (b"x-claim-sub" in answer.body) is (mode == "on")


async def test_the_credential_stays_at_the_gateway(start: Callable[..., Any], options: dict[str, Any]) -> None:
    client = await start(**options, public=("streams.v1.Streams/Ask",))
    good = token()
    for headers in (bearer(good), {"x-api-key": "billing"}, {"x-api-key": "wrong"}, bearer("wrong")):
        names = [name for name, _ in seen(await client.post(ASK, json={}, headers=headers))]
        assert not {"authorization", "x-api-key"} & set(names)
    # What is none of the gateway's passes as ever.
    basic = {"authorization": "Basic eDp5"}
    assert ["authorization", "Basic eDp5"] in seen(await client.post(ASK, json={}, headers=basic))


async def test_services_may_see_the_credential_by_option(start: Callable[..., Any], options: dict[str, Any]) -> None:
    client = await start(**options, forward_credentials=True)
    headers = bearer(token())
    assert ["authorization", headers["authorization"]] in seen(await client.post(ASK, json={}, headers=headers))


async def test_public_methods_know_who_is_known(start: Callable[..., Any], options: dict[str, Any]) -> None:
    client = await start(**options, public=("streams.v1.Streams/Ask",))
    assert ["x-claim-sub", "ada"] in seen(await client.post(ASK, json={}, headers=bearer(token())))
    # A credential that is no good is none: whoever wants to log in again may send an old one.
    for headers in (bearer(token(exp=1)), bearer(token(headers={"kid": "unknown"})), {"x-api-key": "wrong"}):
        assert seen(await client.post(ASK, json={}, headers=headers)) == []
    assert (await client.get("/v1/tell/x")).status == 401


async def test_paths_may_be_public_while_their_methods_are_not(
    start: Callable[..., Any], options: dict[str, Any]
) -> None:
    client = await start(**options, public=("/v1/tell/**",))
    assert (await client.get("/v1/tell/x")).status == 200
    assert (await client.post("/v1/tell", json={})).status == 200
    assert (await client.get("/v1/inner/x")).status == 401
    head = await client.request("HEAD", "/v1/inner/x")
    assert (head.status, head.header("www-authenticate") is not None) == (401, True)
    code, _ = await FrontEnd(client).connect_stream({})
    assert code == "unauthenticated"


async def test_scopes_hold_for_all_paths_of_a_method(start: Callable[..., Any], options: dict[str, Any]) -> None:
    client = await start(**options, scopes={"streams.v1.*": ("a",), "streams.v1.Streams/Tell": ("b", "c")})
    for claims, allowed_to_ask, allowed_to_tell in (
        ({}, False, False),
        ({"scope": "a"}, True, False),
        ({"scope": "a b"}, True, False),
        ({"scope": "c b a"}, True, True),
        ({"scp": ["a", "b", "c"]}, True, True),
        ({"scope": ["a", 1], "scp": 5}, True, False),
        ({"scope": "b c"}, False, False),
    ):
        headers = bearer(token(**claims))
        assert (await client.post(ASK, json={}, headers=headers)).status == (200 if allowed_to_ask else 403), claims
        for path in ("/v1/tell/x", "/v1/inner/x"):
            assert (await client.get(path, headers=headers)).status == (200 if allowed_to_tell else 403), claims
        code, _ = await FrontEnd(client).connect_stream(headers)
        assert code == (None if allowed_to_tell else "permission_denied")


async def test_the_gateways_own_paths(start: Callable[..., Any], options: dict[str, Any]) -> None:
    client = await start(**options, public=("/docs/**", "grpc.reflection.v1.*"))
    for path in ("/healthz", "/readyz", "/docs"):
        assert (await client.get(path)).status == 200, path
    for path in ("/metrics", "/openapi.json"):
        answer = await client.get(path)
        assert (answer.status, answer.json["code"]) == (401, 16), path
        assert (await client.get(path, headers={"x-api-key": "billing"})).status == 200, path
    assert (await client.post("/grpc.health.v1.Health/Check", json={})).status == 200
    # Nothing is known of what there is not: no need to say who asks.
    assert (await client.get("/nothing")).status == 404
    preflight = await client.request("OPTIONS", ASK)
    assert preflight.status == 204


async def test_refusals_are_counted(start: Callable[..., Any], options: dict[str, Any]) -> None:
    client = await start(**options)

    async def refused() -> float:
        text = (await client.get("/metrics", headers={"x-api-key": "billing"})).body.decode()
        lines = [line for line in text.splitlines() if "_count{" in line and ASK in line and '"401"' in line]
        return float(lines[0].rpartition(" ")[2])

    await client.post(ASK, json={})
    before = await refused()
    for _ in range(3):
        await client.post(ASK, json={})
    assert await refused() == before + 3


BAD_OPTIONS = [
    ({"jwt": None, "api_keys": None}, "api_keys"),
    ({"api_key_header": "authorization"}, "api_key_header"),
    ({"api_key_header": "X-Key"}, "api_key_header"),
    ({"api_key_header": "a b"}, "api_key_header"),
    ({"realm": 'a"b'}, "realm"),
    ({"public": ("a/b/c",)}, "public"),
    ({"public": ("/a/**/b",)}, "public"),
    ({"public": ("/a{b}",)}, "public"),
    ({"scopes": {"/v1/x": ("a",)}}, "scopes"),
    ({"scopes": {"a.B": ()}}, "scopes"),
    ({"scopes": {"a.B": ("a b",)}}, "scopes"),
    ({"claims": {"sub": "Sub"}}, "claims"),
    ({"claims": {"sub": "credential"}}, "claims"),
    ({"api_keys": Path("/nowhere")}, "api_keys"),
    ({"api_keys": Path(__file__)}, "api_keys"),
]


@pytest.mark.parametrize(("wrong", "name"), BAD_OPTIONS)
def test_wrong_options(options: dict[str, Any], wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        AuthOptions(**{**options, **wrong})
