"""Handing mails over to a server by SMTP, and what its refusals mean for a mail that waits.

A mail is handed over when the server has answered the end of DATA with 250: from then on it is the server's (RFC 5321,
section 4.2.5). Before, nothing has happened that could not be begun anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import aiosmtplib
from grpc import StatusCode

PATIENCE = 60.0
"""Seconds that the server may take to answer."""

DATA_PATIENCE = 10
"""How much longer it may take to answer the end of DATA. If we gave up too early it would have the mail, and we would
send it again: so 10 minutes, as RFC 5321 has it in section 4.5.3.2.6."""

_WIRE = SMTP_POLICY.clone(cte_type="7bit")
_QUIT_PATIENCE = 5.0
_MAX_REPLY = 300
_ENHANCED = re.compile(r"5\.(\d{1,3})\.\d{1,3}\b")  # RFC 3463

_STARTTLS: dict[str, bool | None] = {"auto": None, "required": True, "never": False}


class SmtpError(Exception):
    """The mail was not handed over. ``code`` says whether it may go better later: UNAVAILABLE."""

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mails are handed over, and how."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    implicit_tls: bool = False
    starttls: Literal["auto", "required", "never"] = "auto"
    timeout: float = PATIENCE

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read ``smtp://[user:password@]host[:port][?starttls=required][&timeout=60]``; ``smtps://`` is TLS at once.

        The ports are 587 and 465 if none is given, STARTTLS is required if there is a password, else taken if offered.
        Raises ValueError that does not repeat the URL: there may be a password in it.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            raise ValueError("SMTP_URL: the port is no number; %-encode what is special in the password") from None
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname or parts.path not in {"", "/"} or parts.fragment:
            raise ValueError("SMTP_URL: write smtp://user:password@host:587, or smtps://...; %-encode what is special")
        implicit_tls = parts.scheme == "smtps"
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        starttls = options.pop("starttls", "never" if implicit_tls else "required" if parts.password else "auto")
        if starttls not in _STARTTLS or (implicit_tls and starttls != "never"):
            raise ValueError("SMTP_URL: starttls is auto, required or never, and for smtp:// only")
        try:
            timeout = float(options.pop("timeout", PATIENCE))
        except ValueError:
            timeout = 0.0
        if not 0 < timeout <= 3600:
            raise ValueError("SMTP_URL: timeout is a number of seconds, at most 3600")
        if options:
            raise ValueError(f"SMTP_URL: {min(options)[:20]!r} is no option: there are starttls and timeout")
        return cls(
            host=parts.hostname,
            port=port or (465 if implicit_tls else 587),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password or "") if parts.username else None,
            implicit_tls=implicit_tls,
            starttls=starttls,  # type: ignore[arg-type]  # checked above
            timeout=timeout,
        )

    def deliver(self, sender: str, recipient: str) -> Delivery:
        """Begin to hand over a mail: ``async with server.deliver(sender, recipient) as delivery``."""
        return Delivery(self, sender, recipient)


class Delivery:
    """One mail on its way: within the block the server is connected, and has agreed to sender and recipient.

    Entering it, and ``hand_over``, raise ``SmtpError``; leaving it never does.
    """

    def __init__(self, server: SmtpServer, sender: str, recipient: str) -> None:
        self._server = server
        self._sender = sender
        self._recipient = recipient
        self._client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.implicit_tls,
            start_tls=_STARTTLS[server.starttls],
            timeout=server.timeout,
        )

    async def __aenter__(self) -> Self:
        try:
            with self._explained():
                await self._client.connect()
                await self._client.mail(self._sender)
                await self._client.rcpt(self._recipient)
        except SmtpError:
            await self._leave()
            raise
        except BaseException:
            self._client.close()
            raise
        return self

    async def hand_over(self, message: EmailMessage) -> str:
        """Send the mail itself, and return the server's words once it has taken it over."""
        data = message.as_bytes(policy=_WIRE)
        with self._explained():
            reply = await self._client.data(data, timeout=self._server.timeout * DATA_PATIENCE)
        return readable(reply.message)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, SmtpError):
            await self._leave()
        else:
            self._client.close()

    async def _leave(self) -> None:
        try:
            if self._client.is_connected:
                with suppress(aiosmtplib.SMTPException, OSError):
                    await self._client.quit(timeout=_QUIT_PATIENCE)
        finally:
            self._client.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (aiosmtplib.SMTPException, OSError) as error:
            raise SmtpError(code_of(error), f"{self._server.host}:{self._server.port}: {_text_of(error)}") from error


def code_of(error: Exception) -> StatusCode:
    """Say by a gRPC code whether a mail that was not handed over may be handed over later.

    4xx means later, and so does everything that is not about this mail: no connection, silence, a server that refuses
    all of us (its greeting, EHLO, STARTTLS, AUTH). Postfix, a client of the same kind, waits then as well
    (``smtp_skip_5xx_greeting``, ``smtp_sasl_auth_soft_bounce``). 5xx to MAIL, RCPT or DATA is final: INVALID_ARGUMENT
    if the address is to blame, by its enhanced status (RFC 3463: 5.1.x) or as reply to RCPT, else FAILED_PRECONDITION.
    """
    of_this_mail = (aiosmtplib.SMTPSenderRefused, aiosmtplib.SMTPRecipientRefused, aiosmtplib.SMTPDataError)
    if not isinstance(error, of_this_mail) or not 500 <= error.code <= 599:
        return StatusCode.UNAVAILABLE
    if enhanced := _ENHANCED.match(error.message):
        return StatusCode.INVALID_ARGUMENT if enhanced[1] == "1" else StatusCode.FAILED_PRECONDITION
    is_address = isinstance(error, aiosmtplib.SMTPRecipientRefused) and error.code in {550, 551, 553}
    return StatusCode.INVALID_ARGUMENT if is_address else StatusCode.FAILED_PRECONDITION


def readable(text: str) -> str:
    """Make what a server said one line of bounded length, printable throughout."""
    shown = "".join(each if each.isprintable() else " " for each in text)
    return " ".join(shown.split())[:_MAX_REPLY]


def _text_of(error: Exception) -> str:
    if isinstance(error, aiosmtplib.SMTPResponseException):
        step = {
            aiosmtplib.SMTPSenderRefused: "refuses the sender",
            aiosmtplib.SMTPRecipientRefused: "refuses the recipient",
            aiosmtplib.SMTPDataError: "refuses the mail",
            aiosmtplib.SMTPAuthenticationError: "refuses our user name or password",
        }.get(type(error), "refuses us")
        return f"{step}: {error.code} {readable(error.message)}"
    return readable(str(error)) or type(error).__name__
