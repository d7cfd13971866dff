"""Looks at everything that passes over the bus while a gateway is attacked: whatever was forged would be seen here."""

from __future__ import annotations

import re
from collections.abc import Callable

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.gateway.hostile.attack import FORGED, SMUGGLED

_METHODS = (
    "GetBook|CreateBook|UpdateBook|MoveBook|TagBook|Search|Download|Cover|Upload|Attach|Echo|EchoPath|Watch|Broken"
)
_STREAMS = "Ask|Tell|Gather|Talk|Download"
# Names that a client's headers must never reach a back-end under. The library's own are among them: those it sets.
_OWN = re.compile(
    r"(nats|grpc|mesh|connect|x-claim)-|:|(traceparent|tracestate|baggage|connection|te|transfer-encoding|upgrade|host|content-length)\Z",
    re.IGNORECASE,
)
# How a second value of the same name travels (docs/wire-protocol.md): what counts is the name behind it.
_AGAIN = re.compile(r"mesh-dup-[0-9]+-")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class Watcher:
    """A subscriber of ``>``. ``report`` is called with what must not be."""

    def __init__(self, url: str, prefix: str, report: Callable[[str, str], None]) -> None:
        self._url = url
        self._report = report
        self._client: Client
        self.messages = 0
        self.calls = 0
        mine = re.escape(prefix)
        self._calls = re.compile(
            rf"{mine}\.(inst\.[\w-]+\.)?rpc\.(library\.v1\.Library\.({_METHODS})|streams\.v1\.Streams\.({_STREAMS}))"
        )
        self._known = re.compile(
            rf"{mine}\.(inst\.[\w-]+\.(cancel|roll|(stream|rolled)\.[\w.-]+)|schema\.[0-9a-f]{{64}}|mesh\.announce\.(up|down|draining)"
            r")|_INBOX\.[\w.-]+|\$SRV\.(INFO|PING|STATS)[\w.]*|\$JS\.[\w.]+"
        )

    async def start(self) -> None:
        self._client = await nats.connect(self._url)
        await self._client.subscribe(">", cb=self._look, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await self._client.flush()

    async def settle(self) -> None:
        """Return when all that was sent before has been looked at."""
        await self._client.flush()

    async def close(self) -> None:
        await self._client.close()

    async def _look(self, message: Msg) -> None:
        self.messages += 1
        subject = message.subject
        if self._calls.fullmatch(subject):
            self.calls += 1
            if SMUGGLED in message.data:
                self._report("smuggled", f"a hidden request reached {subject}: {message.data[:200]!r}")
            self._look_at_headers(subject, message.headers or {})
        elif not self._known.fullmatch(subject):
            self._report("forged", f"a message on {subject!r}: {message.data[:200]!r}")

    def _look_at_headers(self, subject: str, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            if not _NAME.fullmatch(name) or not value.isprintable() or not value.isascii():
                self._report("forged", f"a header of {subject} that is none: {name!r}: {value!r}")
            elif _OWN.match(_AGAIN.sub("", name, count=1)) and FORGED.decode() in value:
                self._report("forged", f"a header of {subject} that clients must not set: {name!r}: {value!r}")
