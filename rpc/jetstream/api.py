"""Requests to JetStream: its JSON API, and messages that it confirms to have stored.

One inbox and one table serve all requests of a connection. Source: NATS ADR-1 (JetStream JSON API), ADR-31 (direct
get), and nats-server's ``jetstream_api.go``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from itertools import count
from math import inf
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from rpc.transport.base import Connection, Headers, Message, Subscription

T = TypeVar("T")

API: Final = "$JS.API."

MESSAGE_ID: Final = "Nats-Msg-Id"
EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
TTL: Final = "Nats-TTL"

MAX_PENDING: Final = 4096
"""Publishes of one connection that may wait for their confirmation; further ones wait for their turn."""

ATTEMPT_TIMEOUT: Final = 5.0
"""Seconds after which an unconfirmed publish is sent again, with the same id."""

WRONG_SEQUENCE: Final = frozenset({10071, 10164})
"""JetStream's codes for a subject whose last message is another one than expected."""

NO_MESSAGE: Final = 10037
STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014

_UNANSWERED: Final = (
    "JetStream does not answer: no stream takes this, or JetStream is off (nats-server has it with `jetstream {}` in "
    "its configuration, `natsmesh broker` always)"
)

_SWEEP: Final = 0.25
_ENSURED_FOR: Final = 0.5
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_LASTING: Final = frozenset({400, 403, 404, 409})
_INBOXES = count(1)


class JetStreamError(Exception):
    """JetStream refused: ``code`` is like an HTTP status, ``err_code`` JetStream's own (``errors.json``)."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description


class JetStreamUnavailableError(ConnectionError):
    """Nobody took the request: JetStream is off, the stream does not exist, or has no leader just now."""


class PubAck(NamedTuple):
    """JetStream has stored a message, at ``sequence`` of ``stream``; ``duplicate``: it had it before."""

    stream: str
    sequence: int
    duplicate: bool


class StoredMessage(NamedTuple):
    """A message as a stream holds it."""

    subject: str
    sequence: int
    time: str
    """RFC 3339, when it was stored."""
    data: bytes
    headers: dict[str, str]


class _Collector:
    """Takes the answers to a request that has several, up to the end that the last one marks."""

    def __init__(self, future: asyncio.Future[list[Message]]) -> None:
        self.future = future
        self.messages: list[Message] = []

    def take(self, message: Message) -> bool:
        """Take one answer; True when it was the last."""
        if message.headers is not None and message.headers.get("Status"):
            if message.headers["Status"] not in {"204", "404"}:
                self.messages.append(message)
            if not self.future.done():
                self.future.set_result(self.messages)
            return True
        self.messages.append(message)
        return False


class JetStream:
    """JetStream as one connection reaches it. Started and closed by its owner; used from one event loop."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._waiting: dict[str, tuple[asyncio.Future[Any], float, _Collector | None]] = {}
        self._slots = asyncio.Semaphore(MAX_PENDING)
        self._ensuring = asyncio.Lock()
        self._ensured = -inf
        self._inbox = ""
        self._sequence = 0
        self._subscription: Subscription | None = None
        self._starting = asyncio.Lock()
        self._remove_listener: Callable[[], None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._closed = False

    async def start(self) -> None:
        """Subscribe to the inbox, unless that is done. The connection is connected already."""
        async with self._starting:
            if self._subscription is None:
                self._loop = asyncio.get_running_loop()
                self._inbox = f"{self.connection.inbox}.js-{next(_INBOXES)}."
                self._remove_listener = self.connection.on_state_change(self._state_changed)
                self._subscription = await self.connection.subscribe(f"{self._inbox}*", self._receive)

    async def close(self) -> None:
        """End what waits with ``ConnectionError``, and unsubscribe."""
        self._closed = True
        self._fail_all("the connection to JetStream was closed")
        if self._remove_listener is not None:
            self._remove_listener()
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    # ------------------------------------------------------------------------------------------------ the JSON API

    async def request(
        self, subject: str, body: dict[str, Any] | None = None, *, timeout: float = 5.0
    ) -> dict[str, Any]:
        """Ask ``$JS.API.<subject>`` and return the answer.

        Raises ``JetStreamError`` for an error reply, ``ConnectionError`` when JetStream cannot be reached or does not
        answer within ``timeout`` seconds; what was asked may have been done then.
        """
        data = b"" if body is None else json.dumps(body).encode()
        reply = await self._ask(API + subject, data, None, timeout)
        return _object(reply)

    # ------------------------------------------------------------------------------------------------- publishing

    async def publish(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str],
        *,
        timeout: float = ATTEMPT_TIMEOUT,
        ensure: Callable[[], Awaitable[None]] | None = None,
    ) -> PubAck:
        """Have a message stored, and return JetStream's confirmation.

        Sent again with the same id while JetStream cannot be reached, until ``timeout`` seconds are over: ``headers``
        must have a ``Nats-Msg-Id`` for that, otherwise it is sent once. When no stream takes it, ``ensure`` is to make
        one. Raises ``JetStreamError`` when JetStream refuses the message, ``ConnectionError`` when time is over (it may
        have been stored then), ``ValueError`` when the message is too large.
        """
        deadline = self._loop.time() + timeout
        async with self._slots:
            pause = _FIRST_PAUSE
            repeatable = MESSAGE_ID in headers
            while True:
                left = max(0.0, deadline - self._loop.time())
                try:
                    return _pub_ack(await self._ask(subject, data, headers, min(left, ATTEMPT_TIMEOUT)))
                except (ConnectionError, JetStreamError) as error:
                    lasting = isinstance(error, JetStreamError) and error.code in _LASTING
                    untaken = isinstance(error, JetStreamUnavailableError)
                    may_repeat = repeatable or untaken
                    if lasting or not may_repeat or self._closed or self._loop.time() + pause > deadline:
                        raise
                    if untaken and ensure is not None:
                        await self._ensure(ensure, deadline)
                    if not self.connection.is_connected:
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout_at(deadline):
                                await self.connection.wait_connected()
                    if self._loop.time() + pause > deadline:
                        raise
                await asyncio.sleep(pause * (0.5 + random.random()))
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _ensure(self, ensure: Callable[[], Awaitable[None]], deadline: float) -> None:
        """Have a stream made, by one of all those who miss one just now: the others try again after that."""
        # Time is over, or JetStream itself is away: the next attempt tells.
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout_at(deadline), self._ensuring:
                if self._loop.time() - self._ensured > _ENSURED_FOR:
                    await ensure()
                    self._ensured = self._loop.time()

    # ---------------------------------------------------------------------------------------------- reading streams

    async def last(self, stream: str, subject: str, *, timeout: float = 5.0) -> StoredMessage | None:
        """Return the last message of a subject, None when the stream has none (or does not exist)."""

        async def ask() -> Message:
            return await self._ask(f"{API}DIRECT.GET.{stream}.{subject}", b"", None, timeout)

        reply = await self._if_there(stream, ask)
        return None if reply is None else _stored(reply)

    async def last_of(self, stream: str, subjects: Sequence[str], *, timeout: float = 5.0) -> dict[str, StoredMessage]:
        """Return the last message of each of these subjects that has one; 1000 subjects at most."""
        return {one.subject: one for one in await self._get_many(stream, {"multi_last": list(subjects)}, timeout)}

    async def read(
        self, stream: str, subject: str, *, start: int = 1, limit: int = 256, timeout: float = 5.0
    ) -> list[StoredMessage]:
        """Return up to ``limit`` messages of a subject (with wildcards), from sequence ``start`` on, in order."""
        body = {"seq": max(1, start), "next_by_subj": subject, "batch": limit, "max_bytes": 8 * 1024 * 1024}
        return await self._get_many(stream, body, timeout)

    async def first_since(self, stream: str, since: datetime, *, timeout: float = 5.0) -> StoredMessage | None:
        """Return the first message of a stream that was stored at a time or later, None when there is none."""
        body = {"start_time": since.astimezone(UTC).isoformat(), "next_by_subj": ">", "batch": 1}
        found = await self._get_many(stream, body, timeout)
        return found[0] if found else None

    async def oldest(self, stream: str, subject: str, *, timeout: float = 5.0) -> tuple[StoredMessage | None, int]:
        """Return the oldest message of a subject (with wildcards), and how many there are: (None, 0) for none."""
        messages = await self._ask_many(stream, {"seq": 1, "next_by_subj": subject, "batch": 1}, timeout)
        stored = _stored(messages[0]) if messages else None
        if stored is None:
            return None, 0
        return stored, 1 + int((messages[0].headers or {}).get("Nats-Num-Pending", "0"))

    async def _get_many(self, stream: str, body: dict[str, Any], timeout: float) -> list[StoredMessage]:
        messages = await self._ask_many(stream, body, timeout)
        return [stored for message in messages if (stored := _stored(message)) is not None]

    async def _ask_many(self, stream: str, body: dict[str, Any], timeout: float) -> list[Message]:
        subject, data = f"{API}DIRECT.GET.{stream}", json.dumps(body).encode()

        async def ask() -> list[Message]:
            future: asyncio.Future[list[Message]] = self._loop.create_future()
            messages: list[Message] = await self._send(subject, data, None, timeout, future, _Collector(future))
            return messages

        return await self._if_there(stream, ask) or []

    async def _if_there(self, stream: str, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Return what ``ask`` does, None if that is unanswered because there is no such stream.

        Raises ``JetStreamUnavailableError`` when nobody answers although there is one, or JetStream is away: then it is
        not known what the stream has.
        """
        for pause in (0.05, 0.2, None):
            try:
                return await ask()
            except JetStreamUnavailableError:
                try:
                    await self.request(f"STREAM.INFO.{stream}")
                except JetStreamError as error:
                    if error.err_code == STREAM_NOT_FOUND:
                        return None
                    raise
                if pause is None:
                    raise
            await asyncio.sleep(pause)  # It was made just now, or elects its leader.
        return None

    # ---------------------------------------------------------------------------------------------------- the table

    async def _ask(self, subject: str, data: bytes, headers: Headers | None, timeout: float) -> Message:
        future: asyncio.Future[Message] = self._loop.create_future()
        message: Message = await self._send(subject, data, headers, timeout, future, None)
        return message

    async def _send(
        self,
        subject: str,
        data: bytes,
        headers: Headers | None,
        timeout: float,
        future: asyncio.Future[Any],
        collector: _Collector | None,
    ) -> Any:
        if self._closed:
            raise ConnectionError("the connection to JetStream was closed")
        self._sequence += 1
        token = str(self._sequence)
        self._waiting[token] = future, self._loop.time() + timeout, collector
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)
        try:
            await self.connection.publish(subject, data, reply=self._inbox + token, headers=headers)
            return await future
        finally:
            self._waiting.pop(token, None)

    def _receive(self, message: Message) -> None:
        token = message.subject[len(self._inbox) :]
        found = self._waiting.get(token)
        if found is None:
            return
        future, _, collector = found
        headers = message.headers
        if headers is not None and headers.get("Status") == "503":
            if not future.done():
                future.set_exception(JetStreamUnavailableError(_UNANSWERED))
        elif collector is not None:
            collector.take(message)
        elif not future.done():
            future.set_result(message)

    def _sweep(self) -> None:
        # One timer for all: a timer each would cost more than the rest of a publish.
        now = self._loop.time()
        for future, deadline, _ in list(self._waiting.values()):
            if now >= deadline and not future.done():
                future.set_exception(ConnectionError("JetStream did not answer in time"))
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep) if self._waiting else None

    def _state_changed(self, connected: bool) -> None:
        if not connected:
            self._fail_all("the connection to NATS was lost before JetStream answered")

    def _fail_all(self, why: str) -> None:
        for future, _, _ in list(self._waiting.values()):
            if not future.done():
                future.set_exception(ConnectionError(why))


def _object(message: Message) -> dict[str, Any]:
    try:
        answer = json.loads(message.data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ConnectionError("JetStream gave an answer that is no JSON object")
    if "error" in answer:
        _raise(answer["error"])
    return answer


def _raise(error: Any) -> NoReturn:
    raise JetStreamError(
        int(error.get("code", 500)), int(error.get("err_code", 0)), str(error.get("description", "no reason given"))
    )


def _pub_ack(message: Message) -> PubAck:
    answer = _object(message)
    return PubAck(str(answer.get("stream", "")), int(answer.get("seq", 0)), bool(answer.get("duplicate", False)))


def _stored(message: Message) -> StoredMessage | None:
    headers = message.headers or {}
    if headers.get("Status"):
        if headers["Status"] == "404":
            return None
        raise JetStreamError(int(headers["Status"]), 0, headers.get("Description", ""))
    own = {name: value for name, value in headers.items() if name not in _ADDED}
    return StoredMessage(
        headers.get("Nats-Subject", ""),
        int(headers.get("Nats-Sequence", "0")),
        headers.get("Nats-Time-Stamp", ""),
        message.data,
        own,
    )


_ADDED = frozenset(
    {"Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence"}
)
"""What a direct get adds to the headers of a message."""
