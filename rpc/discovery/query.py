"""Questions to the mesh: who is there (ADR-32), and what a schema says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Iterable
from typing import Any, Literal

from rpc.discovery.schema import MAX_SCHEMA_BYTES, digest_of
from rpc.subjects import Subjects, check_name, srv_name
from rpc.transport.base import Connection, Message
from rpc.wire.envelope import NATS_STATUS, NO_RESPONDERS

logger = logging.getLogger(__name__)

MAX_REPLIES = 10_000
MAX_REPLY_BYTES = 64 * 1024 * 1024
"""Replies, and their bytes, that one question collects; a mesh of thousands fits, an endless talker does not."""


def new_inbox(connection: Connection) -> str:
    """Return a reply subject for one question (a level below the inbox of calls, so that the two never mix)."""
    return f"{connection.inbox}.q.{secrets.token_hex(6)}"


async def discover(
    connection: Connection,
    kind: Literal["ping", "info", "stats"] = "info",
    service: str | None = None,
    instance: str | None = None,
    *,
    wait: float = 0.3,
    longest: float = 3.0,
) -> list[dict[str, Any]]:
    """Return the ADR-32 replies of all instances, of one service (full name) or of one instance, sorted by name, id.

    Waits until no reply has come for ``wait`` seconds, ``longest`` seconds at most. Replies that are not ADR-32 objects
    are passed over. Raises ``ConnectionError`` when the bus is away, ``ValueError`` for a malformed name.
    """
    subject = f"$SRV.{kind.upper()}"
    if service is not None:
        subject += f".{srv_name(service)}"
        if instance is not None:
            subject += f".{check_name(instance)}"
    replies: list[dict[str, Any]] = []
    room = MAX_REPLY_BYTES
    nobody = False
    arrived = asyncio.Event()

    def receive(message: Message) -> None:
        nonlocal room, nobody
        if is_no_responders(message):
            nobody = True
            arrived.set()
        elif len(replies) < MAX_REPLIES and len(message.data) <= room:
            reply = parse_reply(message, kind)
            if reply is not None:
                room -= len(message.data)
                replies.append(reply)
                arrived.set()

    inbox = new_inbox(connection)
    subscription = await connection.subscribe(inbox, receive)
    try:
        await connection.publish(subject, b"", reply=inbox)
        loop = asyncio.get_running_loop()
        end = loop.time() + longest
        while (left := min(wait, end - loop.time())) > 0:
            arrived.clear()
            try:
                async with asyncio.timeout(left):  # wait_for() may swallow a cancellation (before Python 3.12)
                    await arrived.wait()
            except TimeoutError:
                break
            if nobody:
                break
    finally:
        await subscription.unsubscribe()
    return sorted(replies, key=lambda reply: (reply["name"], reply["id"]))


async def find_gone(
    connection: Connection, instances: Iterable[str], *, subjects: Subjects, wait: float = 0.5
) -> set[str]:
    """Return those of these instances for which nobody listens any more, by the word of the bus itself.

    One that says nothing for ``wait`` seconds is not gone: the bus still gives it calls. Raises ``ConnectionError``.
    """
    waiting = set(instances)
    gone: set[str] = set()
    all_known = asyncio.Event()

    def receive(message: Message) -> None:
        instance = message.subject.rpartition(".")[2]
        if is_no_responders(message):
            gone.add(instance)
        waiting.discard(instance)
        if not waiting:
            all_known.set()

    if waiting:
        inbox = new_inbox(connection)
        subscription = await connection.subscribe(f"{inbox}.*", receive)
        try:
            for instance in list(waiting):
                await connection.publish(subjects.roll_call(instance), b"", reply=f"{inbox}.{instance}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await all_known.wait()
        finally:
            await subscription.unsubscribe()
    return gone


def is_no_responders(message: Message) -> bool:
    """Tell whether it is NATS itself that answers: nobody is there to do it."""
    return message.headers is not None and message.headers.get(NATS_STATUS) == NO_RESPONDERS and not message.data


def parse_reply(message: Message, kind: str) -> dict[str, Any] | None:
    """Return an ADR-32 reply of this kind as an object, or None when the message is not one."""
    try:
        reply = json.loads(message.data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(reply, dict) or reply.get("type") != f"io.nats.micro.v1.{kind}_response":
        return None
    if not all(isinstance(reply.get(key), str) for key in ("name", "id", "version")):
        return None
    if not isinstance(reply.setdefault("metadata", {}), dict):
        return None
    return reply


async def fetch_schema(
    connection: Connection, digest: str, *, subjects: Subjects | None = None, timeout: float = 2.0
) -> bytes:
    """Return the FileDescriptorSet with this SHA-256.

    Answers that have another digest are passed over: whoever else listens there cannot keep the schema from us. Raises
    ``LookupError`` when no instance serves it, ``TimeoutError`` when none answers rightly in time.
    """
    inbox = new_inbox(connection)
    answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def receive(message: Message) -> None:
        right = is_no_responders(message) or (
            len(message.data) <= MAX_SCHEMA_BYTES and digest_of(message.data) == digest
        )
        if not right:
            logger.warning("an answer of %d bytes to %s has another digest", len(message.data), digest[:12])
        elif not answer.done():
            answer.set_result(message)

    subscription = await connection.subscribe(inbox, receive)
    try:
        await connection.publish((subjects or Subjects()).schema(digest), b"", reply=inbox)
        async with asyncio.timeout(timeout):
            message = await answer
    finally:
        await subscription.unsubscribe()
    if is_no_responders(message):
        raise LookupError(f"no instance serves the schema {digest[:12]}")
    return message.data
