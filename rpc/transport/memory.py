"""An in-memory bus with the semantics of NATS that the library relies on. Ships as product:
``rpc.testing.MemoryMesh``.

It is for fast tests and for faults on demand (loss, duplication, a broker that goes away), never the proof that
something works: that is a real nats-server's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from rpc.transport.base import Headers, Receiver

DEFAULT_MAX_PAYLOAD = 1024 * 1024
"""The default of nats-server, in bytes."""


@dataclass(frozen=True, slots=True)
class MemoryMessage:
    """One delivered message."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None = None


Fault = Callable[[MemoryMessage], int]
"""Decides how often a message is delivered: 0 loses it, 1 is normal, 2 doubles it."""


@dataclass(eq=False, slots=True)
class _Interest:
    mesh: MemoryMesh
    owner: MemoryConnection
    tokens: tuple[str, ...]
    queue: str
    receiver: Receiver
    pending: deque[MemoryMessage] = field(default_factory=deque)
    scheduled: bool = False
    closed: bool = False
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    def matches(self, tokens: list[str]) -> bool:
        mine = self.tokens
        for at, part in enumerate(mine):
            if part == ">":
                return len(tokens) > at
            if at >= len(tokens) or part not in ("*", tokens[at]):
                return False
        return len(mine) == len(tokens)

    def deliver(self, message: MemoryMessage) -> None:
        self.pending.append(message)
        if not self.scheduled:
            self.scheduled = True
            # As over a socket, the receiver knows nothing of the sender's context variables.
            asyncio.get_running_loop().call_soon(self.run, context=self.context)

    def run(self) -> None:
        self.scheduled = False
        while self.pending:
            self.receiver(self.pending.popleft())

    async def unsubscribe(self) -> None:
        self.pending.clear()
        self.remove()

    async def drain(self) -> None:
        self.remove()
        self.run()

    def remove(self) -> None:
        if not self.closed:
            self.closed = True
            self.mesh.interests.remove(self)


class MemoryMesh:
    """A broker in this process. Connections of one mesh see each other; all belong to one event loop."""

    def __init__(self, *, max_payload: int = DEFAULT_MAX_PAYLOAD, seed: int | None = None) -> None:
        self.max_payload = max_payload
        self.interests: list[_Interest] = []
        self.connections: list[MemoryConnection] = []
        self.fault: Fault | None = None
        """Set it to lose or double messages."""
        self.is_up = True
        self._random = random.Random(seed)
        self._names = count(1)

    def connection(self, name: str = "") -> MemoryConnection:
        """Return a new connection, not connected yet."""
        return MemoryConnection(self, name or f"memory-{next(self._names)}", f"_INBOX.m{next(self._names)}")

    def stop(self) -> None:
        """The broker goes away: everyone is disconnected, messages under way are lost."""
        self.is_up = False
        for interest in self.interests:
            interest.pending.clear()
        for connection in list(self.connections):
            connection.set_connected(False)

    def start(self) -> None:
        """The broker is back; connections recover with their subscriptions."""
        self.is_up = True
        for connection in list(self.connections):
            connection.set_connected(True)

    def route(self, message: MemoryMessage) -> bool:
        """Deliver to all plain subscribers and to one member of each queue group; False when nobody listens."""
        tokens = message.subject.split(".")
        groups: dict[str, list[_Interest]] = {}
        chosen: list[_Interest] = []
        for interest in self.interests:
            if interest.matches(tokens):
                if interest.queue:
                    groups.setdefault(interest.queue, []).append(interest)
                else:
                    chosen.append(interest)
        chosen.extend(self._random.choice(members) for members in groups.values())
        times = 1 if self.fault is None else self.fault(message)
        for interest in chosen:
            for _ in range(times):
                interest.deliver(message)
        return bool(chosen)


class MemoryConnection:
    """``transport.base.Connection`` over a ``MemoryMesh``."""

    def __init__(self, mesh: MemoryMesh, name: str, inbox: str) -> None:
        self._mesh = mesh
        self._name = name
        self._inbox = inbox
        self._connected = asyncio.Event()
        self._closed = False
        self._listeners: list[Callable[[bool], None]] = []

    @property
    def name(self) -> str:
        """Who we are."""
        return self._name

    @property
    def url(self) -> str:
        """Always ``memory:``."""
        return "memory:"

    @property
    def inbox(self) -> str:
        """The reply prefix of this connection."""
        return self._inbox

    @property
    def max_payload(self) -> int:
        """Bytes that one message may have, headers included."""
        return self._mesh.max_payload

    @property
    def is_connected(self) -> bool:
        """True while the mesh is up and the connection open."""
        return self._connected.is_set()

    @property
    def is_closed(self) -> bool:
        """True once ``close`` was called."""
        return self._closed

    async def connect(self) -> None:
        """Join the mesh."""
        if self._closed:
            msg = "the connection is closed"
            raise ConnectionError(msg)
        if self not in self._mesh.connections:
            if not self._mesh.is_up:
                msg = "the memory mesh is stopped"
                raise ConnectionError(msg)
            self._mesh.connections.append(self)
            self._connected.set()

    async def wait_connected(self) -> None:
        """Return once the mesh is up."""
        while not self._connected.is_set():
            if self._closed:
                msg = "the connection is closed"
                raise ConnectionError(msg)
            await self._connected.wait()

    def set_connected(self, connected: bool) -> None:
        """Lose or regain the connection (called by the mesh)."""
        if connected == self._connected.is_set():
            return
        if connected:
            self._connected.set()
        else:
            self._connected.clear()
        for listener in list(self._listeners):
            listener(connected)

    async def publish(self, subject: str, data: bytes, *, reply: str = "", headers: Headers | None = None) -> None:
        """Send one message; "no responders" comes back to ``reply`` as from nats-server."""
        if not self._connected.is_set():
            msg = "not connected to NATS"
            raise ConnectionError(msg)
        if not subject or any(character in subject for character in " \r\n\t\0*>"):
            msg = f"malformed subject {subject[:64]!r}"
            raise ValueError(msg)
        size = len(data) + sum(len(key) + len(value) + 4 for key, value in (headers or {}).items())
        if size > self._mesh.max_payload:
            msg = f"message of {size} bytes is larger than the broker takes ({self._mesh.max_payload})"
            raise ValueError(msg)
        message = MemoryMessage(subject, reply, bytes(data), dict(headers) if headers else None)
        if not self._mesh.route(message) and reply:
            self._mesh.route(MemoryMessage(reply, "", b"", {"Status": "503"}))

    async def subscribe(
        self,
        subject: str,
        receiver: Receiver,
        *,
        queue: str = "",
    ) -> _Interest:
        """Subscribe."""
        interest = _Interest(self._mesh, self, tuple(subject.split(".")), queue, receiver)
        self._mesh.interests.append(interest)
        return interest

    async def flush(self, timeout: float = 5.0) -> None:
        """Let deliveries that are scheduled happen."""
        await asyncio.sleep(0)

    def on_state_change(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """See ``transport.base.Connection``."""
        self._listeners.append(listener)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return remove

    async def close(self) -> None:
        """Leave the mesh."""
        if self._closed:
            return
        self._closed = True
        self.set_connected(False)
        self._connected.set()  # Wakes those who wait, to find it closed.
        self._connected.clear()
        for interest in [one for one in self._mesh.interests if one.owner is self]:
            interest.remove()
        if self in self._mesh.connections:
            self._mesh.connections.remove(self)
