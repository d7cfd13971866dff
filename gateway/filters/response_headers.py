"""Headers that an operator wants on every response, or on none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.asgi import AsgiApp, Receive, Scope, Send
from gateway.option_types import ConfigError

_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")

# What makes a response one: whoever changes it breaks the message, or the protocol that it is part of.
_FIXED: Final = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "content-type",
        "content-encoding",
        "content-range",
        "date",
        "x-request-id",
    ]
)
_FIXED_PREFIXES: Final = ("grpc-", "connect-", "access-control-", "trailer-")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHeaderRules:
    """First headers are removed, then others are added. To replace one, name it in both."""

    add: Mapping[str, str] = field(default_factory=dict)
    """Headers for every response that does not have them by itself."""

    remove: tuple[str, ...] = ()
    """Headers that no response has, though a service sends them as metadata."""

    def __post_init__(self) -> None:
        for option, names in (("add", self.add), ("remove", self.remove)):
            for name in names:
                lower = name.lower()
                if not _NAME.fullmatch(lower):
                    raise ConfigError(f"{option}: {name!r} is no name of a header")
                if lower in _FIXED or lower.startswith(_FIXED_PREFIXES):
                    raise ConfigError(f"{option}: {name} belongs to the protocol, it cannot be changed")
        for name, value in self.add.items():
            if not _VALUE.fullmatch(value):
                raise ConfigError(f"add: the value of {name} must be printable ASCII, without spaces around it")


class ResponseHeaders:
    """The ASGI middleware."""

    def __init__(self, application: AsgiApp, rules: ResponseHeaderRules) -> None:
        self._application = application
        self._add = [(name.lower().encode(), value.encode()) for name, value in rules.add.items()]
        self._remove = frozenset(name.lower().encode() for name in rules.remove)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer with other headers."""

        async def forward(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kept = [each for each in message.get("headers", ()) if each[0] not in self._remove]
                names = {name for name, _ in kept}
                kept += [each for each in self._add if each[0] not in names]
                message = {**message, "headers": kept}
            await send(message)

        await self._application(scope, receive, forward if scope["type"] == "http" else send)
