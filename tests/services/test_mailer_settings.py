"""What `SMTP_URL` and `MAIL_FROM` say."""

import pytest

from services.mailer import Mailer
from services.smtp import SmtpServer


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mx.example.com", SmtpServer("mx.example.com", 587)),
        ("smtp://mx.example.com:25", SmtpServer("mx.example.com", 25)),
        ("smtp://[::1]:2525/", SmtpServer("::1", 2525)),
        ("smtps://mx.example.com", SmtpServer("mx.example.com", 465, implicit_tls=True, starttls="never")),
        ("smtp://me:pass@mx", SmtpServer("mx", 587, "me", "pass", starttls="required")),
        ("smtp://me%40x:p%2F%3A@mx?timeout=5", SmtpServer("mx", 587, "me@x", "p/:", starttls="required", timeout=5)),
        ("smtp://me:p@mx?starttls=never", SmtpServer("mx", 587, "me", "p", starttls="never")),
        ("smtp://mx?starttls=required", SmtpServer("mx", 587, starttls="required")),
    ],
)
def test_where_mails_are_handed_over(url: str, server: SmtpServer) -> None:
    assert SmtpServer.from_url(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mx.example.com",
        "mx.example.com:25",
        "http://mx",
        "smtp://",
        "smtp://me:s3cr3t@mx:port",
        "smtp://me:s3cr3t@mx:70000",
        "smtp://me:s3cr3t/t@mx",
        "smtp://me:s3cr3t@mx?tls=1",
        "smtp://me:s3cr3t@mx?starttls=maybe",
        "smtps://me:s3cr3t@mx?starttls=required",
        "smtp://me:s3cr3t@mx?timeout=soon",
        "smtp://me:s3cr3t@mx?timeout=0",
        "smtp://me:s3cr3t@mx?timeout=nan",
    ],
)
def test_a_mistake_is_told_and_the_password_is_not(url: str) -> None:
    with pytest.raises(ValueError, match=r"^SMTP_URL: ") as caught:
        SmtpServer.from_url(url)
    assert "s3cr3t" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    assert "s3cr3t" not in repr(SmtpServer.from_url("smtp://me:s3cr3t@mx"))


def test_who_has_a_server_says_who_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_URL", "smtp://mx.example.com")
    monkeypatch.delenv("MAIL_FROM", raising=False)
    with pytest.raises(ValueError, match=r"^MAIL_FROM: it is missing"):
        Mailer()
    monkeypatch.setenv("MAIL_FROM", "Acme <hello@example.com>")
    Mailer()
