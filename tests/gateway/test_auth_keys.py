"""Where keys come from, and what becomes of it: files that change, issuers that are slow, wrong or away."""

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config_file import load_config
from gateway.filters import jwks, reloading
from gateway.filters.api_keys import ApiKeyFile, load_api_keys
from gateway.filters.auth_options import AuthOptions, JwtOptions
from gateway.option_types import ConfigError
from rpc.testing import MemoryMesh
from tests.gateway.asgi import Client
from tests.gateway.credentials import AUDIENCE, ISSUER, JwksServer, bearer, jwk, jwks_server, key_set, token, write_keys
from tests.gateway.streaming import SERVICE, STREAMS
from tests.gateway.worlds import World

ASK = f"/{SERVICE}/Ask"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at more often than every second."""
    monkeypatch.setattr(reloading, "INTERVAL", 0.05)


@pytest.fixture
async def start(memory_mesh: MemoryMesh) -> AsyncIterator[Callable[..., Any]]:
    async def connect() -> Any:
        connection = memory_mesh.connection()
        await connection.connect()
        return connection

    world = World(connect, "")
    await world.backend(SERVICE, STREAMS)

    async def start(**options: Any) -> Client:
        return await world.ready_gateway(auth=AuthOptions(**options))

    yield start
    await world.close()


@pytest.fixture
def issuer() -> Iterator[JwksServer]:
    with jwks_server() as server:
        yield server


def tokens_of(server: JwksServer, **options: Any) -> JwtOptions:
    return JwtOptions(issuer=ISSUER, audience=(AUDIENCE,), jwks_url=server.url, **options)


async def status(client: Client, headers: dict[str, str]) -> int:
    return (await client.post(ASK, json={}, headers=headers)).status


async def until(client: Client, headers: dict[str, str], wanted: int, seconds: float = 5) -> None:
    limit = time.monotonic() + seconds
    while (found := await status(client, headers)) != wanted:
        assert time.monotonic() < limit, f"still {found}"
        await asyncio.sleep(0.02)


# ------------------------------------------------------------------------------------------------------------- files


async def test_a_file_of_api_keys_is_followed(
    start: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_keys(tmp_path / "keys.toml", one={}, gone={})
    client = await start(api_keys=path)
    assert await status(client, {"x-api-key": "gone"}) == 200
    write_keys(path, one={}, two={})
    await until(client, {"x-api-key": "two"}, 200)
    assert await status(client, {"x-api-key": "gone"}) == 401
    # A mistake, or no file at all: what it said before holds on, and the log says so once.
    caplog.clear()
    path.write_text('[keys.one]\nsha256 = "x"\n')
    await _until_logged(caplog, "cannot be used")
    path.unlink()
    await _until_logged(caplog, "No such file")
    assert await status(client, {"x-api-key": "two"}) == 200
    complaints = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(complaints) == 2
    assert "keys.toml:2: keys.one.sha256: expected 64 hexadecimal digits" in complaints[0]
    write_keys(path, three={})
    await until(client, {"x-api-key": "three"}, 200)
    assert await status(client, {"x-api-key": "two"}) == 401


async def _until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    limit = time.monotonic() + 5
    while text not in caplog.text:
        assert time.monotonic() < limit
        await asyncio.sleep(0.02)


async def test_a_file_of_public_keys_is_followed(start: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(jwk("RS256", "one")))
    client = await start(jwt=JwtOptions(issuer=ISSUER, audience=(AUDIENCE,), jwks_file=path))
    new = bearer(token("ES256", "two"))
    assert (await status(client, bearer(token())), await status(client, new)) == (200, 401)
    path.write_bytes(key_set(jwk("ES256", "two")))
    await until(client, new, 200)
    assert await status(client, bearer(token())) == 401
    path.write_text("{")
    await asyncio.sleep(0)
    assert await status(client, new) == 200


BAD_FILES = [
    ('[keys.a]\nsha256 = "00"\n', 2, "sha256: expected 64 hexadecimal digits"),
    ("[keys.a]\n", 1, "sha256 is missing"),
    (f'[keys.a]\nsha256 = "{"0" * 64}"\nscope = "x"\n', 3, "did you mean scopes"),
    (f'[keys.a]\nsha256 = "{"0" * 64}"\nexpires = "soon"\n', 3, "expected a time"),
    (f'[keys.a]\nsha256 = "{"0a" * 32}"\n[keys.b]\nsha256 = "{"0A" * 32}"\n', 1, "a and b are one and the same key"),
    ("[keys.a\n", 1, "no valid TOML"),
]


@pytest.mark.parametrize(("text", "line", "what"), BAD_FILES)
def test_mistakes_in_a_file_of_keys_have_their_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_api_keys(path)
    assert f"keys.toml:{line}: " in str(caught.value)
    assert what in str(caught.value)


def test_expiry(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys.toml", a={"expires": "2027-01-31T00:00:00+01:00"}, b={"expires": "2027-01-31"})
    keys = load_config(path, ApiKeyFile).keys
    assert (keys["a"].end, keys["b"].end) == (1801350000.0, 1801353600.0)
    found = load_api_keys(path)
    assert found.find(b"a", 1801349999) is not None
    assert found.find(b"a", 1801350000) is None


def test_what_is_not_used_is_not_imported() -> None:
    program = "import sys, gateway; print([name for name in ('jwt', 'cryptography') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20)
    assert result.stdout.strip() == "[]"


# ----------------------------------------------------------------------------------------------------------- issuers


async def test_an_issuer_is_asked_again(start: Callable[..., Any], issuer: JwksServer) -> None:
    client = await start(jwt=tokens_of(issuer, refresh=1.0))
    new = bearer(token("ES256", "two"))
    issuer.body = key_set(jwk("ES256", "two"))
    await until(client, bearer(token()), 401)
    assert await status(client, new) == 200


async def test_an_unknown_key_is_asked_for_at_once(start: Callable[..., Any], issuer: JwksServer) -> None:
    client = await start(jwt=tokens_of(issuer))
    filter_ = client.application._filters[0]
    assert (await status(client, bearer(token())), issuer.requests) == (200, 1)
    issuer.body = key_set(jwk("RS256", "one"), jwk("ES256", "two"))
    # As if the issuer had been asked some time ago.
    filter_._tokens.source._asked_at -= jwks.UNKNOWN_SECONDS
    issuer.may_answer.clear()
    many = [asyncio.create_task(status(client, bearer(token("ES256", "two")))) for _ in range(20)]
    limit = time.monotonic() + 5
    while issuer.requests < 2:
        assert time.monotonic() < limit
        await asyncio.sleep(0.01)
    # Others do not wait meanwhile.
    assert await status(client, bearer(token())) == 200
    issuer.may_answer.set()
    assert await asyncio.gather(*many) == [200] * 20
    # And whatever else clients make up is asked for once in a while only.
    for number in range(20):
        assert await status(client, bearer(token(headers={"kid": f"made up {number}"}))) == 401
    assert issuer.requests == 2


async def test_those_who_wait_for_an_issuer_are_few(
    start: Callable[..., Any], issuer: JwksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "MAX_WAITING", 3)
    client = await start(jwt=tokens_of(issuer))
    source = client.application._filters[0]._tokens.source
    source._asked_at -= jwks.UNKNOWN_SECONDS
    issuer.may_answer.clear()
    unknown = bearer(token(headers={"kid": "unknown"}))
    waiting = [asyncio.create_task(status(client, unknown)) for _ in range(3)]
    limit = time.monotonic() + 5
    while source._waiting < 3:
        assert time.monotonic() < limit
        await asyncio.sleep(0.01)
    assert await status(client, unknown) == 401
    assert not any(task.done() for task in waiting)
    issuer.may_answer.set()
    assert await asyncio.gather(*waiting) == [401] * 3


# Each row: how the issuer is wrong; what the log says.
WRONG = [
    ({"status": 500}, "500"),
    ({"status": 404}, "404"),
    ({"status": 302, "headers": {"location": "http://127.0.0.1:1/"}}, "302"),
    ({"raw": b"what is this"}, "what is this"),
    ({"raw": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"}, "100 headers"),
    ({"raw": b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000 + b"\r\n\r\n"}, "65536"),
    ({"raw": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}"}, "a key set is"),
    ({"body": b"<html>"}, "a key set is JSON"),
    ({"body": b"[" * 100_000}, "a key set is JSON"),
    ({"body": b"[]"}, "a key set is an object"),
    ({"body": key_set()}, "none of the 0 keys"),
    ({"body": json.dumps({"keys": [{}] * 201}).encode()}, "at most 200 keys"),
    ({"body": b" " * (jwks.MAX_BYTES + 1)}, "more than"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
async def test_an_issuer_that_is_wrong_changes_nothing(
    start: Callable[..., Any],
    issuer: JwksServer,
    caplog: pytest.LogCaptureFixture,
    wrong: dict[str, Any],
    said: str,
) -> None:
    client = await start(jwt=tokens_of(issuer))
    source = client.application._filters[0]._tokens.source
    for name, value in wrong.items():
        setattr(issuer, name, value)
    for _ in range(3):
        await source._ask()
    assert await status(client, bearer(token())) == 200
    complaints = [record.getMessage() for record in caplog.records if record.name == "gateway.filters.jwks"]
    assert len(complaints) == 1
    assert said in complaints[0]
    assert "the keys before hold on" in complaints[0]


async def test_an_issuer_that_is_away_at_the_start(
    start: Callable[..., Any], issuer: JwksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway starts all the same; who has a token is told to come back, who has none is told that he needs one."""
    monkeypatch.setattr(jwks, "RETRY_SECONDS", (0.1, 0.2))
    issuer.status = 503
    client = await start(jwt=tokens_of(issuer))
    answer = await client.post(ASK, json={}, headers=bearer(token()))
    assert (answer.status, answer.json["code"], answer.header("retry-after")) == (503, "unavailable", "1")
    assert await status(client, {}) == 401
    issuer.status = 200
    await until(client, bearer(token()), 200)


async def test_an_issuer_that_says_nothing(
    start: Callable[..., Any], issuer: JwksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.3)
    issuer.may_answer.clear()
    started = time.monotonic()
    client = await start(jwt=tokens_of(issuer))
    assert time.monotonic() - started < 3
    assert await status(client, bearer(token())) == 503


async def test_nobody_is_there(start: Callable[..., Any]) -> None:
    client = await start(jwt=JwtOptions(issuer=ISSUER, audience=(), jwks_url="http://127.0.0.1:1/"))
    assert await status(client, bearer(token())) == 503
