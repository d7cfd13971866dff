"""The options of rate limits, apart from what they switch on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.client_address import parse_networks
from gateway.filters.patterns import Patterns
from gateway.option_types import ConfigError, Seconds

Per = Literal["identity", "ip", "method"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRule:
    """So many requests in so much time, for each of those that are counted apart."""

    name: str
    """What clients see in ``RateLimit``; letters, digits, ``-`` and ``_``."""

    limit: int
    """Requests in a window."""

    window: Seconds = 60.0
    """Its length."""

    burst: int | None = None
    """Requests at once, after a rest; None: as many as ``limit``."""

    per: tuple[Per, ...] = ("identity",)
    """What is counted apart: each ``identity`` (the API key or the subject of the token; whoever has none goes by the
    address), each ``ip``, each ``method``; several are combined. Nothing: all requests together."""

    match: tuple[str, ...] = ("*",)
    """Which requests: ``greeter.v1.*``, ``shop.v1.Shop/List``, ``/v1/search/**``, ``/metrics``."""

    groups: Mapping[str, int] = field(default_factory=dict)
    """Other limits for groups of identities; 0: none."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError("name: expected 1 to 32 letters, digits, '-' and '_'")
        if self.limit < 1:
            raise ConfigError("limit: expected at least 1 request")
        if not 0 < self.window <= 31 * 86400:
            raise ConfigError("window: expected more than 0 seconds, and at most 31 days")
        if self.burst is not None and self.burst < 1:
            raise ConfigError("burst: expected at least 1 request")
        if len(set(self.per)) < len(self.per) or not set(self.per) <= {"identity", "ip", "method"}:
            raise ConfigError("per: expected some of identity, ip, method, each once")
        if any(limit < 0 for limit in self.groups.values()):
            raise ConfigError("groups: a limit is a number of requests, or 0 for none")
        try:
            Patterns(self.match)
        except ValueError as error:
            raise ConfigError(f"match: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitOptions:
    """Who may call how often. A request counts for all rules that it fits; one that is at its end refuses it."""

    rules: tuple[LimitRule, ...]
    """The rules."""

    trusted_proxies: tuple[str, ...] = ()
    """Networks (``10.0.0.0/8``) of proxies in front, whose ``X-Forwarded-For`` tells the address of the client."""

    headers: bool = True
    """Tell clients in ``RateLimit-Policy`` and ``RateLimit`` where they stand."""

    x_headers: bool = False
    """The same in the older ``X-RateLimit-Limit``, ``-Remaining`` and ``-Reset`` (seconds), for the tightest rule."""

    max_entries: int = 100_000
    """Callers that each rule remembers, in each process; then the one of longest ago is forgotten."""

    bucket: str | None = None
    """A key-value bucket of JetStream, by which gateways and workers share limits; None: each process is alone."""

    when_away: Literal["open", "closed"] = "open"
    """While the bucket cannot be had: ``open`` lets each process count by itself, ``closed`` answers 503."""

    def __post_init__(self) -> None:
        if not self.rules:
            raise ConfigError("rules: there are none")
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            raise ConfigError("rules: each needs a name of its own")
        try:
            parse_networks(self.trusted_proxies)
        except ValueError as error:
            raise ConfigError(f"trusted_proxies: {error}") from None
        if self.max_entries < 1:
            raise ConfigError("max_entries: expected at least 1")
        if self.bucket is not None and not _BUCKET.fullmatch(self.bucket):
            raise ConfigError("bucket: expected 1 to 64 letters, digits, '-' and '_'")
        if self.when_away not in ("open", "closed"):
            raise ConfigError("when_away: expected open or closed")
