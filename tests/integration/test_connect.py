"""Connecting: with credentials, without permission, to nobody."""

import asyncio
import base64
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import nkeys
import pytest

import rpc
from rpc.embedded import Broker
from tests.dev import free_port
from tests.integration import drill
from tests.integration.processes import Backends


@pytest.mark.parametrize("what", ["connect", "server", "channel"])
async def test_an_unreachable_broker_is_named_at_once(what: str) -> None:
    url = f"nats://ada:secret@127.0.0.1:{free_port()}"
    begin = time.monotonic()
    if what == "connect":
        with pytest.raises(ConnectionError) as error:
            await rpc.connect(url)
        text = str(error.value)
    elif what == "server":
        server = rpc.Server(url)
        server.add_generic_rpc_handlers([drill.handlers(lambda request, context: request)])
        with pytest.raises(ConnectionError) as error:
            await server.start()
        text = str(error.value)
        await server.stop(None)
    else:
        async with rpc.Channel(url) as channel:
            call = drill.method(channel)({})
            assert await call.code() is rpc.StatusCode.UNAVAILABLE
            text = await call.details()
    assert time.monotonic() - begin < 2
    assert url.rpartition("@")[2] in text
    assert "refused" in text.lower()
    assert "secret" not in text
    assert "ada" not in text


async def test_a_server_that_is_no_nats_server_is_told() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(other, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{port}"):
            await rpc.connect(f"nats://127.0.0.1:{port}")


async def test_user_and_password_stand_in_the_url(backends_at: Callable[[str], Backends], prefix: str) -> None:
    with Broker(port=0, config='authorization: {user: "ada", password: "secret"}') as broker:
        with pytest.raises(ConnectionError, match=r"(?i)authorization"):
            await rpc.connect(broker.url)
        with pytest.raises(ConnectionError, match=r"(?i)authorization") as error:
            await rpc.connect(broker.url.replace("://", "://ada:wrong@"))
        assert "wrong" not in str(error.value)
        url = broker.url.replace("://", "://ada:secret@")
        await backends_at(url).start("b1")
        async with rpc.Channel(url, prefix=prefix) as channel:
            assert (await drill.method(channel)({}, timeout=5))["by"] == "b1"
        connection = await rpc.connect(url)
        assert connection.url == broker.url
        await connection.close()


def _jwt(claims: dict[str, object], issuer: nkeys.KeyPair) -> str:
    """A NATS JWT (nats-io/jwt, version 2), signed by ``issuer``."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = {"iat": int(time.time()), "iss": issuer.public_key.decode(), "jti": "test", **claims}
    head = part(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    body = part(json.dumps(claims).encode())
    return f"{head}.{body}.{part(issuer.sign(f'{head}.{body}'.encode()))}"


def _key(kind: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


async def test_a_credentials_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, user = _key(nkeys.PREFIX_BYTE_OPERATOR), _key(nkeys.PREFIX_BYTE_USER)
    system, account = _key(nkeys.PREFIX_BYTE_ACCOUNT), _key(nkeys.PREFIX_BYTE_ACCOUNT)

    def jwt(subject: nkeys.KeyPair, issuer: nkeys.KeyPair, kind: str, **claims: object) -> str:
        nats = {"type": kind, "version": 2, **claims}
        return _jwt({"sub": subject.public_key.decode(), "name": kind, "nats": nats}, issuer)

    unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    operator_jwt = jwt(operator, operator, "operator")
    accounts = {
        key.public_key.decode(): jwt(key, operator, "account", limits={**unlimited, "wildcards": True})
        for key in (system, account)
    }
    user_jwt = jwt(user, account, "user", subs=-1, data=-1, payload=-1, pub={}, sub={})
    credentials = tmp_path / "user.creds"
    credentials.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    config = f"""
operator: "{operator_jwt}"
system_account: {system.public_key.decode()}
resolver: MEMORY
resolver_preload: {json.dumps(accounts)}
"""
    with Broker(port=0, config=config) as broker:
        with pytest.raises(ConnectionError, match=r"(?i)authorization"):
            await rpc.connect(broker.url)
        connection = await rpc.connect(broker.url, credentials=credentials)
        assert connection.is_connected
        await connection.close()
        with pytest.raises(ConnectionError, match=r"absent\.creds"):
            await rpc.connect(broker.url, credentials=tmp_path / "absent.creds")
        monkeypatch.setenv("NATS_CREDS", str(credentials))

        async def echo(request: object, context: object) -> object:
            return request

        server = rpc.Server(broker.url)
        server.add_generic_rpc_handlers([drill.handlers(echo)])
        await server.start()
        async with rpc.Channel(broker.url) as channel:
            assert await drill.method(channel)("hello", timeout=5) == "hello"
        await server.stop(1)


async def test_missing_permissions_are_in_the_log_and_the_rest_works(
    caplog: pytest.LogCaptureFixture, backends_at: Callable[[str], Backends], prefix: str
) -> None:
    users = """authorization: {users: [
      {user: "all", password: "x"},
      {user: "few", password: "x", permissions: {publish: {deny: "forbidden.>"}, subscribe: {deny: "forbidden.>"}}}]}
    """
    with Broker(port=0, config=users) as broker, caplog.at_level(logging.WARNING):
        await backends_at(broker.url.replace("://", "://all:x@")).start("b1")
        connection = await rpc.connect(broker.url.replace("://", "://few:x@"))
        await connection.subscribe("forbidden.subject", lambda message: None)
        await connection.publish("forbidden.thing", b"")
        await connection.flush()
        for what in ('subscription to "forbidden.subject"', 'publish to "forbidden.thing"'):
            assert f"permissions violation for {what}" in caplog.text.lower()
        assert connection.is_connected
        async with rpc.Channel(connection, prefix=prefix) as channel:
            assert (await drill.method(channel)({}, timeout=5))["by"] == "b1"
        await connection.close()
