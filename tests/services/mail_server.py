"""A real mail server for tests, in a thread of its own: it does what it is told, and remembers what happened."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

CUT = "CUT"
"""Instead of a reply: the server ends the connection."""

TAKE_AND_CUT = "TAKE_AND_CUT"
"""In place of the reply to a mail: the server takes it over, and its word of that is lost."""

HOLD = "HOLD"
"""Instead of a reply at once: a good one, after ``release``."""


@dataclass
class Mail:
    """A mail that the server took over."""

    time: float
    sender: str
    recipients: list[str]
    raw: bytes

    @property
    def message(self) -> EmailMessage:
        message = email.message_from_bytes(self.raw, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return message


class MailServer:
    """aiosmtpd on a port of 127.0.0.1. ``replies["RCPT"].append("451 later")`` decides one reply to RCPT, and so on."""

    def __init__(
        self,
        port: int = 0,
        *,
        tls: ssl.SSLContext | None = None,
        implicit_tls: ssl.SSLContext | None = None,
        login: tuple[bytes, bytes] | None = None,
        require_tls: bool = False,
    ) -> None:
        self.port = port
        self.replies: dict[str, deque[str]] = {"MAIL": deque(), "RCPT": deque(), "DATA": deque()}
        self.mails: list[Mail] = []
        self.attempts: list[float] = []
        """When somebody named a recipient, as ``time.monotonic()``."""
        self.was_tls: list[bool] = []
        """For each attempt, whether it came encrypted."""
        self.stalling = threading.Event()
        """Set while the server does not answer: it holds, or a mail has come whole and it stalls."""
        self.slowness = 0.0
        """Seconds from taking a mail over to saying so."""
        self._stalls: set[str] = set()
        self._login = login
        self._options: dict[str, Any] = {
            "hostname": "mx.example.com",
            "tls_context": tls,
            "require_starttls": require_tls,
        }
        if login is not None:
            self._options |= {"authenticator": self._authenticate, "auth_require_tls": False}
        self._implicit_tls = implicit_tls
        self._thread: threading.Thread | None = None
        self._end: Callable[[], object] = lambda: None
        self.release: Callable[[], object] = lambda: None
        """Let all that is held go on."""

    def start(self) -> Self:
        """Listen: on the port of the last time, if there was one."""
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def stop(self) -> None:
        """End all connections; new ones are refused from now on."""
        if self._thread is not None:
            self._end()
            self._thread.join(10)
            self._thread = None

    async def _serve(self, started: threading.Event) -> None:
        loop, end, released = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._end = lambda: loop.call_soon_threadsafe(end.set)
        self.release = lambda: loop.call_soon_threadsafe(released.set)
        self._released = released
        sessions: list[SMTP] = []

        def session() -> SMTP:
            sessions.append(SMTP(self, **self._options))
            return sessions[-1]

        server = await loop.create_server(session, "127.0.0.1", self.port, ssl=self._implicit_tls)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await end.wait()
        server.close()
        for each in sessions:
            if each.transport is not None:
                each.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0)  # what was aborted is told of it

    def stall(self, recipient: str) -> None:
        """Leave the next mail for somebody without an answer, when it has come whole, until its sender is gone."""
        self._stalls.add(recipient)

    @property
    def url(self) -> str:
        return f"{'smtp' if self._implicit_tls is None else 'smtps'}://127.0.0.1:{self.port}"

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        return AuthResult(success=(data.login, data.password) == self._login, handled=False)

    # -------------------------------------------------------------------------------------------- aiosmtpd's hooks

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._login is not None and not session.authenticated:
            return "530 5.7.0 Authentication required"
        envelope.mail_from = address
        return await self._reply("MAIL", server, "250 OK")

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.attempts.append(time.monotonic())
        self.was_tls.append(session.ssl is not None or self._implicit_tls is not None)
        envelope.rcpt_tos.append(address)
        return await self._reply("RCPT", server, "250 OK")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if stalled := self._stalls & set(envelope.rcpt_tos):
            self._stalls -= stalled
            self.stalling.set()
            try:
                await asyncio.sleep(60)  # cancelled when the sender is gone
            finally:
                self.stalling.clear()
        assert isinstance(envelope.content, bytes)
        mail = Mail(time.monotonic(), envelope.mail_from or "", list(envelope.rcpt_tos), envelope.content)
        reply = await self._reply("DATA", server, f"250 2.0.0 OK queued as {len(self.mails) + 1}")
        if reply.startswith("250"):
            self.mails.append(mail)
            await asyncio.sleep(self.slowness)
        return reply

    async def _reply(self, command: str, server: SMTP, default: str) -> str:
        reply = self.replies[command].popleft() if self.replies[command] else default
        if reply == HOLD:
            self.stalling.set()
            await self._released.wait()
            self.stalling.clear()
            return default
        if reply in {CUT, TAKE_AND_CUT}:
            assert server.transport is not None
            server.transport.abort()
            return "250 nobody hears this" if reply == TAKE_AND_CUT else "451 nobody hears this"
        return reply
