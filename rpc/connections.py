"""Making connections: from a URL, or taking one that exists."""

from __future__ import annotations

from pathlib import Path

from rpc.transport.base import Connection


def make_connection(url: str | None = None, *, name: str = "", credentials: str | Path | None = None) -> Connection:
    """Return a NATS connection that is not connected yet.

    ``url`` may list several servers, comma separated; None is ``$NATS_URL``, or nats-server's default on this machine.
    ``credentials`` is a NATS ``.creds`` file; None is ``$NATS_CREDS``, if set.
    """
    from rpc.transport.nats import NatsConnection  # noqa: PLC0415 - spares the memory transport's users nats-py

    return NatsConnection(url, name=name, credentials=credentials)


async def connect(url: str | None = None, *, name: str = "", credentials: str | Path | None = None) -> Connection:
    """Return a connection to NATS that is up. Raises ``ConnectionError`` that names the address and the cause.

    Servers and channels of one process may share it; whoever made it closes it. Arguments as for ``make_connection``.
    """
    connection = make_connection(url, name=name, credentials=credentials)
    await connection.connect()
    return connection


def as_connection(target: str | Connection | None) -> tuple[Connection, bool]:
    """Return (connection, whether it is ours to close) for what a ``Server`` or ``Channel`` was given."""
    if target is None or isinstance(target, str):
        return make_connection(target), True
    return target, False
