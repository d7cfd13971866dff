"""TLS with real certificates and real clients: HTTP/1.1, HTTP/2 and gRPC on one port, mTLS, new certificates."""

import asyncio
import logging
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.option_types import ConfigError
from gateway.tls import Certificates, TlsError, TlsOptions
from tests.gateway.processes import GatewayProcess
from tests.gateway.test_server import PATH, Servicer

CHECK = 0.05


class Files:
    """An authority, and the files that a gateway reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.certificate, self.key, self.client_ca = (folder / name for name in ("tls.crt", "tls.key", "clients.pem"))
        self.authority.cert_pem.write_to_path(self.client_ca)
        self.renew()

    def renew(self) -> bytes:
        """Write a new certificate and its key; returns the certificate as DER."""
        issued = self.authority.issue_cert("127.0.0.1", "localhost")
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

    def options(self, **more: Any) -> dict[str, Any]:
        return {"certificate": str(self.certificate), "key": str(self.key), "check_every": CHECK, **more}

    def client(self, *, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """What a client trusts, and who it says it is."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        return context


class Echo(Servicer):
    async def _do(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return request


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def prefix() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def servicer(nats_url: str, prefix: str) -> Iterator[Servicer]:
    servicer = Echo(nats_url, prefix)
    yield servicer
    servicer.close()


@pytest.fixture(scope="module")
def start(
    files: Files, tmp_path_factory: pytest.TempPathFactory, nats_url: str, prefix: str, servicer: Servicer
) -> Iterator[Callable[..., GatewayProcess]]:
    running: list[GatewayProcess] = []

    def start(verify: ssl.SSLContext, **options: Any) -> GatewayProcess:
        process = GatewayProcess(tmp_path_factory.mktemp("log"), nats_url, prefix, **options)
        process.verify = verify
        running.append(process)
        return process.start()

    yield start
    for process in running:
        process.close()


@pytest.fixture(scope="module")
def gateway(start: Callable[..., GatewayProcess], files: Files) -> GatewayProcess:
    return start(files.client(), tls=files.options())


@pytest.fixture(scope="module")
def strict(start: Callable[..., GatewayProcess], files: Files) -> GatewayProcess:
    """Two workers, and nobody without a certificate is let in."""
    own = files.client(certificate=files.authority.issue_cert("me@example.com"))
    tls = files.options(client_ca=str(files.client_ca), min_version="1.3")
    return start(own, tls=tls, workers=2)


# ------------------------------------------------------------------------------------------------------------- clients


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_clients_choose_their_http(gateway: GatewayProcess, files: Files, http2: bool) -> None:
    with httpx.Client(verify=files.client(), http2=http2) as client:
        answer = client.post(f"{gateway.url}{PATH}", json={"name": "Ada"})
        assert answer.json() == {"name": "Ada"}
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        large = {"name": "x" * 200_000}
        assert client.post(f"{gateway.url}{PATH}", json=large).json() == large
        assert client.get(f"{gateway.url}/served/Ada").json() == {"name": "Ada"}


def test_one_who_names_no_protocol_gets_http1(gateway: GatewayProcess, files: Files) -> None:
    with (
        socket.create_connection(("127.0.0.1", gateway.port), 5) as plain,
        files.client().wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        assert connection.selected_alpn_protocol() is None
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


async def test_grpc(gateway: GatewayProcess, files: Files) -> None:
    trust = grpc.ssl_channel_credentials(files.client_ca.read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{gateway.port}", trust) as channel:
        call: Any = channel.unary_unary(PATH)
        assert await asyncio.wait_for(call(b"\x0a\x03Ada"), 10) == b"\x0a\x03Ada"
    with grpc.secure_channel(f"localhost:{gateway.port}", trust) as blocking:
        call = blocking.unary_unary(PATH)
        assert await asyncio.to_thread(call, b"\x0a\x03Bob", timeout=10) == b"\x0a\x03Bob"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_versions_are_not_spoken(gateway: GatewayProcess, strict: GatewayProcess, files: Files) -> None:
    for process, version in ((gateway, ssl.TLSVersion.TLSv1_1), (strict, ssl.TLSVersion.TLSv1_2)):
        context = files.client()
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        with socket.create_connection(("127.0.0.1", process.port), 5) as plain, pytest.raises(ssl.SSLError):
            context.wrap_socket(plain, server_hostname="localhost")


def test_who_speaks_no_tls_is_cut_off(gateway: GatewayProcess, files: Files) -> None:
    gateway.forget_log()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{gateway.port}/healthz")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{gateway.url}/healthz")
    assert httpx.get(f"{gateway.url}/healthz", verify=files.client()).status_code == 200
    assert "Traceback" not in gateway.log


# ---------------------------------------------------------------------------------------------------------------- mTLS


def refused(process: GatewayProcess, context: ssl.SSLContext) -> bool:
    # In TLS 1.3 a client learns only after its handshake that it was refused.
    try:
        httpx.get(f"{process.url}/healthz", verify=context)
    except httpx.TransportError:
        return True
    return False


def test_clients_need_a_certificate_of_the_authority(strict: GatewayProcess, files: Files) -> None:
    strict.forget_log()
    stranger = trustme.CA().issue_cert("me@example.com")
    assert refused(strict, files.client())
    assert refused(strict, files.client(certificate=stranger))
    known = files.client(certificate=files.authority.issue_cert("you@example.com"))
    with httpx.Client(verify=known, http2=True) as client:
        assert client.post(f"{strict.url}{PATH}", json={"name": "Ada"}).json() == {"name": "Ada"}
    assert "Traceback" not in strict.log


async def test_grpc_with_a_certificate_and_without(strict: GatewayProcess, files: Files) -> None:
    trust = files.client_ca.read_bytes()
    mine = files.authority.issue_cert("grpc@example.com")
    chain = b"".join(blob.bytes() for blob in mine.cert_chain_pems)
    for own, ok in (((mine.private_key_pem.bytes(), chain), True), ((None, None), False)):
        credentials = grpc.ssl_channel_credentials(trust, *own)
        async with grpc.aio.secure_channel(f"localhost:{strict.port}", credentials) as channel:
            method: Any = channel.unary_unary(PATH)
            call = method(b"\x0a\x03Ada", timeout=5)
            if ok:
                assert await call == b"\x0a\x03Ada"
            else:
                assert await call.code() is grpc.StatusCode.UNAVAILABLE


@asynccontextmanager
async def listening(certificates: Certificates) -> AsyncIterator[int]:
    """Echo lines behind these certificates, on uvloop or asyncio, whichever runs."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    context = certificates(None, None)
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def connected(port: int, context: ssl.SSLContext) -> AsyncIterator[Callable[[], Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")

    async def shown() -> Any:
        writer.write(b"still there?\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"still there?\n"
        return writer.get_extra_info("ssl_object").getpeercert(binary_form=True)

    try:
        yield shown
    finally:
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


def options(files: Files, **more: Any) -> TlsOptions:
    return TlsOptions(certificate=files.certificate, key=files.key, **more)


async def test_a_certificate_may_be_optional_but_never_wrong(files: Files) -> None:
    certificates = Certificates(options(files, client_ca=files.client_ca, client_certificates="optional"))
    async with listening(certificates) as port:
        async with connected(port, files.client()) as shown:
            assert await shown()
        async with connected(port, files.client(certificate=files.authority.issue_cert("a@b.c"))) as shown:
            assert await shown()
        async with connected(port, files.client(certificate=trustme.CA().issue_cert("a@b.c"))) as shown:
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                await shown()


async def test_an_authority_can_be_forgotten(tmp_path: Path) -> None:
    files = Files(tmp_path)
    known = files.client(certificate=files.authority.issue_cert("a@b.c"))
    certificates = Certificates(options(files, client_ca=files.client_ca))
    async with listening(certificates) as port, connected(port, known) as first:
        assert await first()
        trustme.CA().cert_pem.write_to_path(files.client_ca)
        assert certificates.reload()
        async with connected(port, known) as shown:
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                await shown()
        assert await first()


# ---------------------------------------------------------------------------------------------------- new certificates


def shown_certificate(process: GatewayProcess, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", process.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_new_certificates_come_into_use_and_connections_go_on(gateway: GatewayProcess, files: Files) -> None:
    with httpx.Client(verify=files.client(), http2=True) as client:
        assert client.get(f"{gateway.url}/healthz").status_code == 200
        stream = client.get(f"{gateway.url}/healthz").extensions["network_stream"]
        old = shown_certificate(gateway, files.client())
        new = files.renew()
        wait_for(lambda: shown_certificate(gateway, files.client()) == new)
        answer = client.get(f"{gateway.url}/healthz")
        assert answer.extensions["network_stream"] is stream
        assert stream.get_extra_info("ssl_object").getpeercert(True) == old
    assert "new connections use" in gateway.log


def test_broken_ones_are_logged_and_the_old_ones_stay(gateway: GatewayProcess, files: Files) -> None:
    gateway.forget_log()
    before = shown_certificate(gateway, files.client())
    files.certificate.write_bytes(b"garbage")
    wait_for(lambda: "cannot be used" in gateway.log)
    assert f"certificate {files.certificate}: holds no certificate in PEM form" in gateway.log
    assert shown_certificate(gateway, files.client()) == before
    new = files.renew()
    wait_for(lambda: shown_certificate(gateway, files.client()) == new)


def test_a_signal_reloads_them_in_all_workers(start: Callable[..., GatewayProcess], files: Files) -> None:
    context = files.client()
    process = start(context, tls=files.options(check_every=3600), workers=2)
    wait_for(lambda: process.log.count("Application startup complete") == 2)
    with httpx.Client(verify=context) as client:
        assert client.get(f"{process.url}/healthz").status_code == 200
        new = files.renew()
        process.signal(signal.SIGHUP)
        wait_for(lambda: process.log.count("new connections use") == 2)
        assert [shown_certificate(process, context) for _ in range(20)] == [new] * 20
        assert client.get(f"{process.url}/healthz").status_code == 200
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "Traceback" not in process.log
    assert "died" not in process.log


def test_a_signal_reloads_them_in_one_process(start: Callable[..., GatewayProcess], files: Files) -> None:
    process = start(files.client(), tls=files.options(check_every=3600))
    new = files.renew()
    process.signal(signal.SIGHUP)
    wait_for(lambda: shown_certificate(process, files.client()) == new)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


async def test_files_that_are_being_written_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What changes at each look is not read: a key without its certificate would be one error, at least."""
    files = Files(tmp_path)
    certificates = Certificates(options(files, check_every=0.02))
    caplog.set_level(logging.INFO)
    async with listening(certificates):
        looks = 0
        look = certificates._look

        def counted() -> tuple[object, ...]:
            nonlocal looks
            looks += 1
            if looks < 10:
                files.certificate.write_bytes(b"x" * looks)
            elif looks == 10:
                files.renew()
            return look()

        certificates._look = counted  # type: ignore[method-assign]
        task = asyncio.create_task(certificates.watch())
        async with asyncio.timeout(10):
            while "new connections use" not in caplog.text:
                await asyncio.sleep(0.01)
        task.cancel()
    assert "cannot be used" not in caplog.text


# ------------------------------------------------------------------------------------------------------------ mistakes


def complaint(**fields: Any) -> str:
    with pytest.raises(TlsError) as raised:
        Certificates(TlsOptions(**fields)).check()
    return str(raised.value)


def test_missing_files_are_named(files: Files, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.pem"
    for name in ("certificate", "key", "client_ca"):
        fields: dict[str, Any] = {"certificate": files.certificate, "key": files.key, name: nowhere}
        assert complaint(**fields) == f"{name} {nowhere}: No such file or directory"
    assert complaint(certificate=tmp_path).startswith(f"certificate {tmp_path}: Is a directory")


def test_what_a_file_lacks_is_said(files: Files, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    assert complaint(certificate=empty) == f"certificate {empty}: holds no certificate in PEM form"
    assert complaint(certificate=files.certificate, key=empty) == f"key {empty}: holds no private key in PEM form"
    assert "holds no private key: name it with key" in complaint(certificate=files.certificate)
    text = complaint(certificate=files.certificate, key=files.key, client_ca=empty)
    assert text == f"client_ca {empty}: holds no certificate in PEM form"


def test_a_key_of_another_certificate(files: Files, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    other.write_bytes(files.authority.issue_cert("localhost").private_key_pem.bytes())
    text = complaint(certificate=files.certificate, key=other)
    assert text == f"key {other}: is not the key of certificate {files.certificate}"


@pytest.mark.parametrize("name", ["certificate", "key", "client_ca"])
def test_damaged_files_are_named(files: Files, tmp_path: Path, name: str) -> None:
    fields = {"certificate": files.certificate, "key": files.key, "client_ca": files.client_ca}
    damaged = tmp_path / "damaged.pem"
    lines = fields[name].read_text().splitlines()
    damaged.write_text("\n".join([*lines[:2], "AAAA", *lines[3:]]))
    assert complaint(**{**fields, name: damaged}).startswith(f"{name} {damaged}: ")


def test_encrypted_keys(files: Files, tmp_path: Path) -> None:
    """Nobody is asked at the terminal."""
    key = load_pem_private_key(files.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    encrypted.write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
    password = tmp_path / "password"
    password.write_text("secret\n")
    fields: dict[str, Any] = {"certificate": files.certificate, "key": encrypted}
    Certificates(TlsOptions(**fields, key_password_file=password)).check()
    assert complaint(**fields).startswith(f"key {encrypted}: is encrypted: name the file that holds its password")
    password.write_text("wrong")
    text = complaint(**fields, key_password_file=password)
    assert text.startswith(f"key {encrypted}: cannot be decrypted with the password in {password}")
    assert "wrong" not in text
    missing = tmp_path / "missing"
    assert complaint(**fields, key_password_file=missing).startswith(f"key_password_file {missing}: No such file")


def test_one_file_may_hold_both(files: Files, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(files.key.read_bytes() + files.certificate.read_bytes())
    Certificates(TlsOptions(certificate=both)).check()


def test_options_that_make_no_sense(files: Files) -> None:
    for fields in ({"check_every": 0}, {"min_version": "1.1"}, {"client_certificates": "perhaps"}):
        with pytest.raises(ConfigError, match=next(iter(fields))):
            options(files, **fields)


def test_the_command_says_what_is_wrong(nats_url: str, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.pem"
    command = [sys.executable, "-m", "natsmesh", "gateway", "--nats", nats_url, "--port", "0", "--tls-cert"]
    done = subprocess.run([*command, str(nowhere)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert f"--tls-cert {nowhere}: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr
