"""Tokens that must not be accepted, and credentials that are none: clear refusals, nothing of ours fails."""

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import ConfigError
from gateway.filters import reloading
from gateway.filters.auth_options import AuthOptions, JwtOptions
from gateway.filters.identity import Identity
from gateway.filters.jwt_tokens import MAX_TOKEN, TokenError, TokenVerifier
from rpc.testing import MemoryMesh
from tests.gateway.asgi import Answer, Client
from tests.gateway.credentials import AUDIENCE, ISSUER, jwk, key_set, private_key, token, write_keys
from tests.gateway.streaming import SERVICE, STREAMS
from tests.gateway.worlds import World

ASK = f"/{SERVICE}/Ask"


def jwt_options(folder: Path, *keys: dict[str, Any], **options: Any) -> JwtOptions:
    (folder / "jwks.json").write_bytes(key_set(*(keys or (jwk("RS256", "one"), jwk("ES256", "two")))))
    return JwtOptions(**{"issuer": ISSUER, "audience": (AUDIENCE,), "jwks_file": folder / "jwks.json", **options})


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at more often than every second."""
    monkeypatch.setattr(reloading, "INTERVAL", 0.05)


@pytest.fixture
async def client(memory_mesh: MemoryMesh, tmp_path: Path) -> AsyncIterator[Client]:
    async def connect() -> Any:
        connection = memory_mesh.connection()
        await connection.connect()
        return connection

    world = World(connect, "")
    await world.backend(SERVICE, STREAMS)
    keys = write_keys(tmp_path / "keys.toml", key={})
    yield await world.ready_gateway(auth=AuthOptions(jwt=jwt_options(tmp_path), api_keys=keys))
    await world.close()


async def ask(client: Client, *headers: tuple[str, str | bytes]) -> Answer:
    raw = [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in headers]
    raw.append((b"content-type", b"application/json"))
    return await client.request("POST", ASK, b"{}", scope={"headers": raw})


def unsigned(header: Any, claims: Any, signature: str = "") -> str:
    def part(value: Any) -> str:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}.{signature}"


def good_claims() -> dict[str, Any]:
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": int(time.time()) + 300}


def pem() -> bytes:
    public = private_key("RS256", "one", 2048).public_key()
    pem: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def hmac_with(key: bytes, algorithm: str = "HS256") -> str:
    """A token whose secret is what everybody can read: PyJWT itself refuses to make it of a PEM, so by hand."""
    import hashlib
    import hmac

    signed = unsigned({"alg": algorithm, "kid": "one"}, good_claims())[:-1]
    digest = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


# Each row: what is wrong; the token; what the answer says of it. Source: RFC 8725, 2 and 3; RFC 7519, 4.1 and 7.2.
BAD_TOKENS: list[tuple[str, Any, str]] = [
    ("no signature", lambda: unsigned({"alg": "none", "kid": "one"}, good_claims()), "algorithm"),
    ("no signature, spelt oddly", lambda: unsigned({"alg": "nOnE", "kid": "one"}, good_claims()), "algorithm"),
    ("signature taken away", lambda: token().rpartition(".")[0] + ".", "signature"),
    ("the public key as a secret", lambda: hmac_with(pem()), "algorithm"),
    ("the key set as a secret", lambda: hmac_with(json.dumps(jwk("RS256", "one")).encode()), "algorithm"),
    ("the algorithm relabelled", lambda: hmac_with(pem(), "RS256"), "signature"),
    ("an algorithm that is not allowed", lambda: token("PS256", key=private_key("RS256", "one", 2048)), "algorithm"),
    ("another key's algorithm", lambda: token("ES256", "one", key=private_key("ES256", "two", 2048)), "another alg"),
    ("another key's signature", lambda: token("RS256", key=private_key("RS256", "stranger", 2048)), "signature"),
    ("an unknown key", lambda: token(headers={"kid": "x"}), "not known"),
    ("a key of its own", lambda: token(headers={"kid": "x", "jwk": jwk("RS256", "stranger")}), "not known"),
    ("a key from elsewhere", lambda: token(headers={"kid": "x", "jku": "http://127.0.0.1:1/"}), "not known"),
    ("a path as key id", lambda: token(headers={"kid": "../../dev/null"}), "not known"),
    ("an expired one", lambda: token(exp=int(time.time()) - 31), "expired"),
    ("one that never expires", lambda: token(exp=None), "lacks the claim exp"),
    ("odd times", lambda: token(exp="tomorrow"), "malformed"),
    ("endless times", lambda: token(exp=float("inf")), "malformed"),
    ("one for later", lambda: token(nbf=int(time.time()) + 31), "not valid yet"),
    ("one from the future", lambda: token(iat=int(time.time()) + 31), "not valid yet"),
    ("another issuer", lambda: token(iss="https://issuer.test.evil"), "another issuer"),
    ("a list of issuers", lambda: token(iss=[ISSUER]), "another issuer"),
    ("no issuer", lambda: token(iss=None), "lacks the claim iss"),
    ("another audience", lambda: token(aud="payments"), "another audience"),
    ("other audiences", lambda: token(aud=["payments", "x"]), "another audience"),
    ("no audience", lambda: token(aud=None), "lacks the claim aud"),
    ("an odd audience", lambda: token(aud={"orders": 1}), "another audience"),
    ("nobody", lambda: token(sub=None), "lacks the claim sub"),
    ("an odd subject", lambda: token(sub=5), "malformed"),
    ("what must be understood", lambda: token(headers={"crit": ["x"], "x": 1}), "malformed"),
    ("an unencoded payload", lambda: token(headers={"crit": ["b64"], "b64": False}), "malformed"),
    ("an odd key id", lambda: unsigned({"alg": "RS256", "kid": 5}, good_claims(), "AA"), "malformed"),
    ("an odd algorithm", lambda: unsigned({"alg": ["RS256"], "kid": "one"}, good_claims(), "AA"), "malformed"),
    ("no algorithm", lambda: unsigned({"kid": "one"}, good_claims(), "AA"), "malformed"),
    ("a header that is no object", lambda: unsigned([], good_claims(), "AA"), "no JWT"),
    ("a header that is no JSON", lambda: unsigned(b"\xff\xfe", good_claims(), "AA"), "no JWT"),
    ("a header too deep", lambda: unsigned(b"[" * 5000, good_claims(), "AA"), "no JWT"),
    ("two parts", lambda: token().rpartition(".")[0], "no JWT"),
    ("five parts", lambda: f"{token()}.x.x", "no JWT"),
    ("one part", lambda: "x", "no JWT"),
    ("a signature cut short", lambda: token()[:-4], "the token"),
]  # fmt: skip


async def test_tokens_that_are_not_accepted(client: Client) -> None:
    for what, make, reason in BAD_TOKENS:
        answer = await ask(client, ("authorization", f"Bearer {make()}"))
        assert answer.status == 401, (what, answer)
        assert answer.json["code"] == "unauthenticated"
        assert reason in answer.json["message"], (what, answer.json)
        assert 'error="invalid_token"' in (answer.header("www-authenticate") or "")
    assert (await ask(client, ("authorization", f"Bearer {token()}"))).status == 200


# Each row: the headers, the status.
BAD_CREDENTIALS: list[tuple[list[tuple[str, Any]], int]] = [
    ([("authorization", "Bearer")], 400),
    ([("authorization", "Bearer ")], 400),
    ([("authorization", "Bearer a b")], 400),
    ([("authorization", "Bearer a, Bearer b")], 400),
    ([("authorization", "Bearer é")], 400),
    ([("authorization", b"Bearer \xff\xfe")], 400),
    ([("authorization", 'Bearer a"b')], 400),
    ([("authorization", "Bearer a\r\nx-claim-sub: root")], 400),
    ([("authorization", "Bearer " + "a" * MAX_TOKEN)], 400),
    ([("authorization", "Bearer " + "a." * 3000 + "a")], 401),
    ([("authorization", "Bearer x"), ("authorization", "Bearer x")], 400),
    ([("authorization", "Basic eDp5"), ("authorization", "Bearer x")], 400),
    ([("authorization", "Bearer x"), ("x-api-key", "key")], 400),
    ([("x-api-key", "key"), ("x-api-key", "key")], 400),
    ([("x-api-key", "")], 400),
    ([("x-api-key", "k" * 513)], 400),
    ([("x-api-key", "k" * 512)], 401),
    ([("x-api-key", "key ")], 401),
    ([("x-api-key", "KEY")], 401),
    ([("x-api-key", b"\xff\x00\r\n")], 401),
    ([("authorization", "Basic eDp5")], 401),
    ([("authorization", "Digest x"), ("authorization", "Basic x")], 401),
    ([("authorization", "")], 401),
    ([("authorization", "bearerx")], 401),
]


async def test_credentials_that_are_none(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for headers, status in BAD_CREDENTIALS:
        answer = await ask(client, *headers)
        assert answer.status == status, (headers, answer)
        assert answer.json["code"] == ("invalid_argument" if status == 400 else "unauthenticated")
        for name, value in answer.headers:
            assert value.isprintable(), (name, value)
        # What was sent is in no answer.
        assert all(str(value) not in str(answer.json) for _, value in headers if len(value) > 8)
    assert (await ask(client, ("authorization", f"bEARER   {token()} "))).status == 200
    assert (await ask(client, ("x-api-key", "key"))).status == 200
    assert [record for record in caplog.records if record.name.startswith("gateway")] == []


async def test_a_leeway_for_clocks(client: Client) -> None:
    now = int(time.time())
    for claims in ({"exp": now - 20}, {"nbf": now + 20}, {"iat": now + 20}, {"aud": ["x", AUDIENCE]}):
        assert (await ask(client, ("authorization", f"Bearer {token(**claims)}"))).status == 200, claims


async def verifier(options: JwtOptions) -> TokenVerifier:
    def identify(claims: Any) -> Identity:
        return Identity("jwt", str(claims["sub"]), "", frozenset())

    verifier = TokenVerifier(options, identify)
    await verifier.source.start()
    return verifier


async def refused(tokens: TokenVerifier, good: bytes) -> str:
    """Wait until a token is not accepted any more; return why."""
    limit = time.monotonic() + 5
    while True:
        try:
            tokens.verify(good)
        except TokenError as error:
            return str(error)
        assert time.monotonic() < limit
        await asyncio.sleep(0.02)


async def test_what_has_expired_is_not_remembered(tmp_path: Path) -> None:
    tokens = await verifier(jwt_options(tmp_path, leeway=0.0))
    good = token(exp=int(time.time()) + 2).encode()
    assert tokens.verify(good) is tokens.verify(good)
    assert await refused(tokens, good) == "the token has expired"
    await tokens.source.close()


async def test_what_a_key_has_signed_ends_with_it(tmp_path: Path) -> None:
    tokens = await verifier(jwt_options(tmp_path))
    good = token().encode()
    tokens.verify(good)
    jwt_options(tmp_path, jwk("ES256", "two"))
    assert "not known" in await refused(tokens, good)
    assert tokens.verify(token("ES256", "two").encode()).name == "ada"
    await tokens.source.close()


ALL_KINDS = ["RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA"]


@pytest.mark.parametrize("algorithm", ALL_KINDS)
async def test_algorithms(tmp_path: Path, algorithm: str) -> None:
    keys = [jwk(each, each) for each in ALL_KINDS]
    tokens = await verifier(jwt_options(tmp_path, *keys, algorithms=(algorithm,)))
    for each in ALL_KINDS:
        try:
            tokens.verify(token(each, each).encode())
        except TokenError:
            assert each != algorithm
        else:
            assert each == algorithm
    await tokens.source.close()


# Each row: what is in the key beside the key; whether it verifies. Source: RFC 7517, 4.
KEYS: list[tuple[dict[str, Any], bool]] = [
    ({"use": "sig", "alg": "RS256", "key_ops": ["verify"]}, True),
    ({"use": "enc"}, False),
    ({"alg": "RS512"}, False),
    ({"key_ops": ["encrypt"]}, False),
    ({"kty": "oct", "k": "AAAA"}, False),
    ({"n": "%%%"}, False),
    ({"e": 5}, False),
    ({"d": "AQAB"}, False),
    ({"bits": 1024}, False),
]


@pytest.mark.parametrize(("more", "is_good"), KEYS)
async def test_keys_that_are_not_for_it_are_passed_over(tmp_path: Path, more: dict[str, Any], is_good: bool) -> None:
    bits = more.get("bits", 2048)
    keys = ["x", {}, {"kty": 5}, jwk("RS256", "one", **more), jwk("ES256", "two")]
    tokens = await verifier(jwt_options(tmp_path, *keys))  # type: ignore[arg-type]
    signed = token(key=private_key("RS256", "one", 2048)).encode() if bits == 2048 else b"e30.e30.e30"
    try:
        tokens.verify(signed)
    except TokenError:
        assert not is_good
    else:
        assert is_good
    assert tokens.verify(token("ES256", "two").encode())
    # Without an id the key is clear as long as there is but one for the algorithm.
    anonymous = jwt.encode(good_claims(), private_key("ES256", "two", 2048), algorithm="ES256")
    assert tokens.verify(anonymous.encode())
    await tokens.source.close()


async def test_claims_can_be_required(tmp_path: Path) -> None:
    tokens = await verifier(jwt_options(tmp_path, required=("tenant.id",), audience=()))
    assert tokens.verify(token(tenant={"id": 1}, aud="whatever").encode())
    for wrong in ({}, {"tenant": 5}, {"tenant": {"id": None}}):
        with pytest.raises(TokenError, match=r"tenant\.id"):
            tokens.verify(token(**wrong).encode())
    await tokens.source.close()


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenVerifier:
    async def make() -> TokenVerifier:
        tokens = await verifier(jwt_options(tmp_path_factory.mktemp("jwks")))
        await tokens.source.close()
        return tokens

    return asyncio.run(make())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"]),
        st.one_of(st.sampled_from(["RS256", "ES256", "none", "one", "two"]), st.integers(), st.lists(st.text())),
    ),
    payload=st.one_of(
        st.binary(max_size=50), st.dictionaries(st.text(), st.integers()).map(json.dumps).map(str.encode)
    ),
    signature=st.binary(max_size=300),
)
def test_whatever_is_sent_is_a_token_or_not(
    tokens: TokenVerifier, header: dict[str, Any], payload: bytes, signature: bytes
) -> None:
    text = unsigned(header, payload, base64.urlsafe_b64encode(signature).rstrip(b"=").decode())
    with pytest.raises(TokenError):
        tokens.verify(text.encode())


BAD_OPTIONS = [
    ({"issuer": ""}, "issuer"),
    ({"jwks_file": None}, "jwks_url"),
    ({"jwks_url": "https://x.test/keys"}, "jwks_url"),
    *(
        ({"jwks_file": None, "jwks_url": url}, "jwks_url")
        for url in ("ftp://x/", "file:///etc/passwd", "x.test", "http://")
    ),
    *(({"algorithms": (name,)}, "algorithms") for name in ("none", "HS256", "HS512", "rs256", "")),
    ({"algorithms": ()}, "algorithms"),
    ({"leeway": -1.0}, "leeway"),
    ({"leeway": float("nan")}, "leeway"),
    ({"refresh": 0.0}, "refresh"),
]


@pytest.mark.parametrize(("wrong", "name"), BAD_OPTIONS)
def test_wrong_options(tmp_path: Path, wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        jwt_options(tmp_path, **wrong)
