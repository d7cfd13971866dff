"""Rate limits: by API key or subject, by address, by method, for all together.

Refused requests are answered with 429 and ``Retry-After``, in gRPC with RESOURCE_EXHAUSTED and a
``google.rpc.RetryInfo``. Source of the headers: draft-ietf-httpapi-ratelimit-headers-10; RFC 6585, 4 (429).
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as GoogleAny
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from gateway.asgi import Receive, Scope, Send
from gateway.client_address import ClientAddress, parse_networks
from gateway.errors import Headers, HttpError
from gateway.filters.auth_options import ALWAYS_PUBLIC
from gateway.filters.identity import IDENTITY, Identity
from gateway.filters.patterns import Patterns, method_name
from gateway.filters.rate_limit_options import LimitRule, RateLimitOptions
from gateway.filters.rate_limit_shared import Away, SharedTable
from gateway.filters.rate_limit_table import Decision, LocalTable, Quota
from rpc import KeyValue, StatusCode

if TYPE_CHECKING:
    from gateway.filters import Serve, ServiceRoute, Surroundings  # which has this module's options in it

MAX_BUCKET = 64 * 1024 * 1024
"""Bytes of all shared numbers; beyond it, as while the bucket is away."""

_TIMEOUT = 0.4
"""Seconds for one question to the bucket."""


class _Rule:
    """A rule, and those that it counts."""

    def __init__(self, options: LimitRule, table: LocalTable | SharedTable, address: ClientAddress) -> None:
        self.name = options.name
        self.patterns = Patterns(options.match)
        self._per = options.per
        self._table = table
        self._address = address
        self._quota = Quota(options.limit, options.window, options.burst)
        # Groups of another size may have more at once in the same proportion.
        share = None if options.burst is None else options.burst / options.limit
        self._groups: dict[str, Quota | None] = {
            group: Quota(limit, options.window, None if share is None else max(1, round(limit * share)))
            if limit
            else None
            for group, limit in options.groups.items()
        }

    @property
    def longest(self) -> float:
        """The seconds that a number is of any worth for."""
        return max(quota.whole for quota in (self._quota, *self._groups.values()) if quota is not None)

    def quota(self, identity: Identity | None) -> Quota | None:
        """Return what an identity may do; None: whatever it likes."""
        return self._quota if identity is None else self._groups.get(identity.group, self._quota)

    def key(self, scope: Scope, identity: Identity | None, method: str) -> Hashable:
        """Return who is counted."""
        key: list[str] = []
        for what in self._per:
            if what == "method":
                key.append(method)
            elif what == "identity" and identity is not None:
                key += (identity.kind, identity.name)
            else:
                key += ("ip", self._address.of(scope))
        return tuple(key)

    async def take(self, key: Hashable, quota: Quota) -> Decision:
        """Count a request, unless it is refused. Raises ``HttpError`` 503."""
        table = self._table
        if isinstance(table, LocalTable):
            return table.take(key, quota, time.monotonic())
        return await table.take(key, quota)

    def give_back(self, key: Hashable, quota: Quota) -> None:
        """Let a request not have been counted."""
        if isinstance(self._table, LocalTable):
            self._table.give_back(key, quota)
        else:
            self._table.give_back(key)


Taken = tuple[_Rule, Hashable, Quota, Decision]


class RateLimit:
    """The filter."""

    def __init__(self, options: RateLimitOptions, surroundings: Surroundings) -> None:
        """Raises ``TypeError`` when limits are to be shared over a bus that has no JetStream."""
        self._options = options
        self._surroundings = surroundings
        self._exempt = Patterns(ALWAYS_PUBLIC)
        address = ClientAddress(parse_networks(options.trusted_proxies))
        self._shared: list[SharedTable] = []
        alone = [_Rule(rule, LocalTable(options.max_entries), address) for rule in options.rules]
        self._rules = alone
        if options.bucket is not None:
            bucket = KeyValue(
                surroundings.connection,
                options.bucket,
                ttl=max(60.0, 2 * max(rule.longest for rule in alone)),
                max_bytes=MAX_BUCKET,
                in_memory=True,
                timeout=_TIMEOUT,
            )
            away = Away()
            self._shared = [
                SharedTable(bucket, rule.name, options.max_entries, away, options.when_away) for rule in options.rules
            ]
            self._rules = [_Rule(rule, table, address) for rule, table in zip(options.rules, self._shared, strict=True)]

    async def start(self) -> None:
        """There is nothing to begin: the bucket is made when it is needed first."""

    async def close(self) -> None:
        """Ask the bucket for nothing any more."""
        for table in self._shared:
            await table.close()

    def wrap(self, route: ServiceRoute, serve: Serve) -> Serve:
        """Put the rules that a route fits in front of it."""
        rules = [rule for rule in self._rules if rule.patterns.fit(route)]
        if not rules or self._exempt.fit(route):
            return serve
        method = method_name(route) or route.template.source

        async def limited(scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> None:
            try:
                headers = await self._take(rules, scope, method)
            except HttpError as error:
                await self._surroundings.refuse(route, error, scope, receive, send, segments)
                return
            await serve(scope, receive, _with_headers(send, headers) if headers else send, segments)

        return limited

    async def _take(self, rules: Sequence[_Rule], scope: Scope, method: str) -> Headers:
        """Count a request for all rules, or for none. Returns headers. Raises ``HttpError`` 429, 503."""
        identity: Identity | None = scope.get(IDENTITY)
        taken: list[Taken] = []
        try:
            for rule in rules:
                quota = rule.quota(identity)
                if quota is None:
                    continue
                key = rule.key(scope, identity, method)
                decision = await rule.take(key, quota)
                taken.append((rule, key, quota, decision))
                if not decision.is_allowed:
                    raise self._too_often(taken)
        except BaseException:
            for rule, key, quota, decision in taken:
                if decision.is_allowed:
                    rule.give_back(key, quota)
            raise
        return self._headers(taken)

    def _too_often(self, taken: Sequence[Taken]) -> HttpError:
        rule, _, quota, decision = taken[-1]
        seconds = max(1, math.ceil(decision.wait))
        what = f"{quota.limit} requests in {quota.window:g} s"
        error = HttpError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"the limit {rule.name!r} of {what} is reached: try again in {seconds} s",
            headers=[(b"retry-after", b"%d" % seconds), *self._headers(taken)],
        )
        detail = GoogleAny()
        detail.Pack(RetryInfo(retry_delay=Duration(seconds=seconds)))
        error.details.append(detail)
        return error

    def _headers(self, taken: Sequence[Taken]) -> Headers:
        headers: Headers = []
        if not taken:
            return headers
        if self._options.headers:
            policies = ", ".join(
                f'"{rule.name}";q={quota.limit};w={math.ceil(quota.window)}' for rule, _, quota, _ in taken
            )
            states = ", ".join(f'"{rule.name}";r={each.left};t={_seconds(each)}' for rule, _, _, each in taken)
            headers += [(b"ratelimit-policy", policies.encode()), (b"ratelimit", states.encode())]
        if self._options.x_headers:
            _, _, quota, tightest = min(taken, key=lambda each: (each[3].is_allowed, each[3].left))
            headers += [
                (b"x-ratelimit-limit", b"%d" % quota.limit),
                (b"x-ratelimit-remaining", b"%d" % tightest.left),
                (b"x-ratelimit-reset", b"%d" % _seconds(tightest)),
            ]
        return headers


def _seconds(decision: Decision) -> int:
    """Return when it is worth coming back: at the next request, or when the quota is whole again."""
    return math.ceil(decision.reset if decision.left else decision.wait)


def _with_headers(send: Send, headers: Headers) -> Send:
    async def send_with(message: dict[str, Any]) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return send_with
