"""Handing mails over: to a real server that refuses, stalls and breaks off."""

import asyncio
import datetime as dt
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme
from grpc import StatusCode

from services import smtp
from services.smtp import SmtpError, SmtpServer
from services.welcome_mail import welcome_mail
from tests.services.mail_server import CUT, TAKE_AND_CUT, MailServer

ADA = "ada@example.com"
SENDER = Address("Acme", "hello", "example.org")


def mail(name: str = "Ada") -> EmailMessage:
    return welcome_mail(SENDER, ADA, name, "<17@example.org>", dt.datetime(2026, 11, 24, tzinfo=dt.UTC))


@pytest.fixture
def start() -> Iterator[Callable[..., MailServer]]:
    servers: list[MailServer] = []

    def start(**options: object) -> MailServer:
        servers.append(MailServer(**options).start())  # type: ignore[arg-type]
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(start: Callable[..., MailServer]) -> MailServer:
    return start()


async def send(url: str, message: EmailMessage | None = None) -> str:
    async with SmtpServer.from_url(url).deliver(SENDER.addr_spec, ADA) as delivery:
        return await delivery.hand_over(message or mail())


async def failure(url: str) -> tuple[StatusCode, str]:
    with pytest.raises(SmtpError) as caught:
        await send(url)
    return caught.value.code, str(caught.value)


async def test_a_mail_is_handed_over(server: MailServer) -> None:
    assert await send(server.url) == "2.0.0 OK queued as 1"
    (sent,) = server.mails
    assert (sent.sender, sent.recipients) == ("hello@example.org", [ADA])
    assert sent.message["From"] == "Acme <hello@example.org>"
    assert sent.message["To"] == "Ada <ada@example.com>"
    assert sent.message["Subject"] == "Welcome!"
    assert sent.message["Message-ID"] == "<17@example.org>"
    assert sent.message["Auto-Submitted"] == "auto-generated"
    assert sent.message.get_content().startswith("Hello Ada,")
    assert all(len(line) <= 998 for line in sent.raw.split(b"\r\n"))


async def test_names_of_all_kinds_arrive_as_they_are(server: MailServer) -> None:
    for name in ["Þórbergur 🧊 Þórðarson", 'Ada "the first", Countess <of> Lovelace', ".", "x" * 64]:
        await send(server.url, mail(name))
        message = server.mails[-1].message
        assert server.mails[-1].raw.isascii()
        assert [(to.display_name, to.addr_spec) for to in message["To"].addresses] == [(name, ADA)]
        assert message.get_content().startswith(f"Hello {name},")


@pytest.mark.parametrize("name", ["Ada\r\nBcc: eve@example.com", "Ada\nBcc: eve@example.com", "Ada\r\n\r\nBuy this"])
def test_no_name_becomes_a_header(name: str) -> None:
    with pytest.raises(ValueError, match="CR or LF"):
        mail(name)


@pytest.mark.parametrize(
    ("command", "reply", "code", "said"),
    [
        ("RCPT", "451 4.7.1 Greylisted", StatusCode.UNAVAILABLE, "refuses the recipient: 451 4.7.1 Greylisted"),
        ("RCPT", "450 mailbox busy", StatusCode.UNAVAILABLE, "450 mailbox busy"),
        ("MAIL", "421 4.3.2 Going down", StatusCode.UNAVAILABLE, "refuses the sender: 421 4.3.2 Going down"),
        ("DATA", "452 4.3.1 Disk full", StatusCode.UNAVAILABLE, "refuses the mail: 452 4.3.1 Disk full"),
        ("RCPT", "550 5.1.1 No such user", StatusCode.INVALID_ARGUMENT, "550 5.1.1 No such user"),
        ("RCPT", "550 no such user", StatusCode.INVALID_ARGUMENT, "550 no such user"),
        ("RCPT", "550 5.7.1 Relaying denied", StatusCode.FAILED_PRECONDITION, "550 5.7.1 Relaying denied"),
        ("RCPT", "552 5.2.2 Mailbox full", StatusCode.FAILED_PRECONDITION, "552 5.2.2 Mailbox full"),
        ("MAIL", "550 go away", StatusCode.FAILED_PRECONDITION, "refuses the sender: 550 go away"),
        ("MAIL", "553 5.1.8 Bad sender", StatusCode.INVALID_ARGUMENT, "553 5.1.8 Bad sender"),
        ("DATA", "554 5.6.0 Spam", StatusCode.FAILED_PRECONDITION, "refuses the mail: 554 5.6.0 Spam"),
        ("DATA", "554", StatusCode.FAILED_PRECONDITION, "refuses the mail: 554"),
        ("RCPT", CUT, StatusCode.UNAVAILABLE, ""),
        ("DATA", CUT, StatusCode.UNAVAILABLE, ""),
    ],
)
async def test_what_a_refusal_means(server: MailServer, command: str, reply: str, code: StatusCode, said: str) -> None:
    server.replies[command].append(reply)
    found, text = await failure(server.url)
    assert found is code
    assert text.startswith(f"127.0.0.1:{server.port}: ")
    assert said in text
    assert server.mails == []
    await send(server.url)  # and the next one is none the worse for it
    assert len(server.mails) == 1


async def test_a_mail_may_have_been_taken_although_nobody_says_so(server: MailServer) -> None:
    """What no protocol could change: the server's last word is lost."""
    server.replies["DATA"].append(TAKE_AND_CUT)
    assert (await failure(server.url))[0] is StatusCode.UNAVAILABLE
    assert len(server.mails) == 1


async def test_nobody_listens(server: MailServer) -> None:
    server.stop()
    code, text = await failure(server.url)
    assert code is StatusCode.UNAVAILABLE
    assert "onnect" in text


async def test_the_name_of_the_server_is_not_known() -> None:
    assert (await failure("smtp://mx.invalid:25"))[0] is StatusCode.UNAVAILABLE


async def test_a_server_that_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        code, text = await failure(f"smtp://127.0.0.1:{silent.getsockname()[1]}?timeout=0.3")
    assert code is StatusCode.UNAVAILABLE
    assert "Timed out" in text
    assert time.monotonic() - started < 3


async def test_a_server_that_stalls_over_the_mail(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of DATA has more time than all else."""
    monkeypatch.setattr(smtp, "DATA_PATIENCE", 3)
    server.stall(ADA)
    started = time.monotonic()
    code, text = await failure(f"{server.url}?timeout=0.2")
    assert (code, "Timed out" in text) == (StatusCode.UNAVAILABLE, True)
    assert time.monotonic() - started >= 0.6
    assert server.mails == []


@pytest.mark.parametrize(
    "greeting", [b"554 5.3.2 No service\r\n", b"421 busy\r\n", b"hello?\r\n", b"\xff\xfe\r\n", b"220" + b"-" * 9000]
)
async def test_a_server_that_does_not_want_us_at_all(greeting: bytes) -> None:
    """It is not about this mail, so the mail waits, whatever the code."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as rude:
        code, text = await failure(f"smtp://127.0.0.1:{rude.sockets[0].getsockname()[1]}?timeout=2")
    assert code is StatusCode.UNAVAILABLE
    assert text.isprintable()
    assert len(text) < 500


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


def server_tls(authority: trustme.CA, host: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


async def test_starttls_is_taken_where_it_is_offered(start: Callable[..., MailServer], authority: trustme.CA) -> None:
    server = start(tls=server_tls(authority), require_tls=True)
    await send(server.url)
    assert server.was_tls == [True]
    code, text = await failure(f"{server.url}?starttls=never")
    assert (code, "530" in text) == (StatusCode.FAILED_PRECONDITION, True)


async def test_tls_from_the_start(start: Callable[..., MailServer], authority: trustme.CA) -> None:
    server = start(implicit_tls=server_tls(authority))
    assert server.url.startswith("smtps://")
    await send(server.url)
    assert server.was_tls == [True]


@pytest.mark.parametrize("name", ["tls", "implicit_tls"])
async def test_a_certificate_of_another_host(
    start: Callable[..., MailServer], authority: trustme.CA, name: str
) -> None:
    server = start(**{name: server_tls(authority, "mx.example.net")})
    code, text = await failure(server.url)
    assert (code, "certificate verify failed" in text) == (StatusCode.UNAVAILABLE, True)


async def test_a_password_never_travels_in_the_clear(start: Callable[..., MailServer], authority: trustme.CA) -> None:
    plain = start(login=(b"me@example.org", b"s3cr3t/&"))
    url = plain.url.replace("//", "//me%40example.org:s3cr3t%2F%26@")
    code, text = await failure(url)
    assert (code, "STARTTLS" in text) == (StatusCode.UNAVAILABLE, True)
    await send(f"{url}?starttls=never")  # unless somebody wants it
    server = start(tls=server_tls(authority), login=(b"me@example.org", b"s3cr3t/&"))
    await send(server.url.replace("//", "//me%40example.org:s3cr3t%2F%26@"))
    assert server.was_tls == [True]


async def test_a_wrong_password_is_no_reason_to_give_up_the_mail(start: Callable[..., MailServer]) -> None:
    server = start(login=(b"me", b"right"))
    code, text = await failure(server.url.replace("//", "//me:wrong@") + "?starttls=never")
    assert code is StatusCode.UNAVAILABLE
    assert "refuses our user name or password: 535" in text
    assert "wrong" not in text
