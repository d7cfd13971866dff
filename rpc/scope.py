"""What a handler finds of the server that runs it: its connection, and how to publish events."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING

from rpc.deadline import current_deadline
from rpc.transport.base import Connection

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from rpc.events.publisher import Publisher

current: ContextVar[Scope | None] = ContextVar("natsmesh_scope", default=None)
"""The server that runs the current handler, None outside of handlers."""


class Scope:
    """One server, seen from its handlers."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self.connection = connection
        self._prefix = prefix
        self._publisher: Publisher | None = None

    @property
    def publisher(self) -> Publisher:
        """The server's publisher, made when it is needed first."""
        if self._publisher is None:
            from rpc.events.publisher import Publisher  # noqa: PLC0415 - most servers publish no events

            self._publisher = Publisher(self.connection, prefix=self._prefix)
        return self._publisher

    async def close(self) -> None:
        """End the publisher, if there is one."""
        if self._publisher is not None:
            await self._publisher.close()


def _current(what: str) -> Scope:
    scope = current.get()
    if scope is None:
        raise RuntimeError(
            f"{what} is for handlers that an rpc.Server runs; elsewhere use rpc.connect or rpc.Publisher"
        )
    return scope


def current_connection() -> Connection:
    """Return the connection of the server that runs the current handler. Raises ``RuntimeError`` elsewhere."""
    return _current("rpc.current_connection()").connection


async def publish(event: Message, *, id: str = "") -> int:  # noqa: A002 - as in rpc.Publisher
    """Publish an event from within a handler; see ``rpc.Publisher.publish``.

    It is tried until the deadline of the handler's call, if that has one. Raises ``StatusError``, which ends the
    handler with that status unless it is caught; ``RuntimeError`` outside of handlers.
    """
    from rpc.events.publisher import DEFAULT_TIMEOUT  # noqa: PLC0415 - as above

    scope = _current("rpc.publish()")
    timeout, deadline = DEFAULT_TIMEOUT, current_deadline.get()
    if deadline is not None:
        timeout = min(timeout, max(0.0, deadline - asyncio.get_running_loop().time()))
    return await scope.publisher.publish(event, id=id, timeout=timeout)
