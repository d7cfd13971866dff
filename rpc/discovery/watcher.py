"""Follows the mesh live: which services there are, which versions, with which schemas.

Announcements make a new service known within milliseconds; a round of ADR-32 questions every few seconds corrects what
was missed, and finds out who died without a word.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rpc.discovery.query import discover, fetch_schema, parse_reply
from rpc.discovery.responder import SCHEMA_KEY, SERVICE_KEY, check_version
from rpc.subjects import Subjects, check_name
from rpc.tasks import TaskSet
from rpc.transport.base import Connection, Message, Subscription

logger = logging.getLogger(__name__)

MAX_SERVICES = 2000
"""Services that one watcher follows; further ones are passed over, loudly."""

DEFAULT_INTERVAL = 5.0
"""Seconds between two rounds of questions."""

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class ServiceView:
    """What is known of one service. With several versions side by side, version and schema are the newest one's."""

    name: str
    version: str
    digest: str
    schema: bytes = field(repr=False)
    instances: frozenset[str]
    """Ids of the instances that serve it now, all versions; empty when the last one went."""


@dataclass(frozen=True, slots=True)
class _Instance:
    id: str
    version: str
    digest: str


class ServiceWatcher:
    """Keeps ``services`` up to date until it is closed."""

    def __init__(
        self,
        connection: Connection,
        on_change: Callable[[ServiceView], None] | None = None,
        *,
        interval: float = DEFAULT_INTERVAL,
        prefix: str = "",
    ) -> None:
        """``on_change(view)`` is called on the event loop after each change of a service; it must not block."""
        self._connection = connection
        self._on_change = on_change
        self._interval = interval
        self._subjects = Subjects(prefix)
        self._instances: dict[str, dict[str, _Instance]] = {}
        self._views: dict[str, ServiceView] = {}
        self._schemas: dict[str, bytes] = {}
        self._tasks = TaskSet()
        self._subscription: Subscription | None = None
        self._remove_listener: Callable[[], None] | None = None
        self._ask_now = asyncio.Event()
        self._updating = asyncio.Lock()
        self.ready = asyncio.Event()
        """Set after the first round of questions."""

    @property
    def services(self) -> Mapping[str, ServiceView]:
        """All services ever seen, by full name; those that are gone have no instances."""
        return MappingProxyType(self._views)

    async def start(self) -> None:
        """Begin to follow. The connection is connected already."""
        self._remove_listener = self._connection.on_state_change(self._state_changed)
        self._subscription = await self._connection.subscribe(self._subjects.announcements, self._announced)
        self._tasks.spawn(self._ask_regularly(), name="natsmesh-watcher")

    async def close(self) -> None:
        """Follow no more."""
        if self._remove_listener is not None:
            self._remove_listener()
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        await self._tasks.close()

    # -------------------------------------------------------------------------------------------------- sources

    def _state_changed(self, connected: bool) -> None:
        if connected:
            self._ask_now.set()

    def _announced(self, message: Message) -> None:
        reply = parse_reply(message, "info")
        if reply is None:
            return
        service, instance = self._read(reply)
        if instance is None:
            return
        event = message.subject.rpartition(".")[2]
        if event == "up":
            self._instances.setdefault(service, {})[instance.id] = instance
        elif self._instances.get(service, {}).pop(instance.id, None) is None:
            return
        self._tasks.spawn(self._update({service}))

    async def _ask_regularly(self) -> None:
        while True:
            self._ask_now.clear()
            try:
                await self._ask()
            except ConnectionError:
                logger.debug("not connected: asking again later")
            except Exception:
                logger.exception("a discovery round failed")
            try:
                await asyncio.wait_for(self._ask_now.wait(), self._interval)
            except TimeoutError:
                continue

    async def _ask(self) -> None:
        replies = await discover(self._connection, "info")
        seen: dict[str, dict[str, _Instance]] = {}
        for reply in replies:
            service, instance = self._read(reply)
            if instance is not None:
                seen.setdefault(service, {})[instance.id] = instance
        changed = {
            service
            for service in self._instances.keys() | seen.keys()
            if self._instances.get(service, {}) != seen.get(service, {})
        }
        for service in changed:
            self._instances[service] = seen.get(service, {})
        incomplete = {name for name, view in self._views.items() if view.instances and not view.schema}
        await self._update(changed | incomplete)
        self.ready.set()

    def _read(self, reply: Mapping[str, Any]) -> tuple[str, _Instance | None]:
        """Return (service, instance) of an INFO reply; None for services of others, and for garbage."""
        metadata = reply["metadata"]
        service, digest = metadata.get(SERVICE_KEY), metadata.get(SCHEMA_KEY, "")
        if not isinstance(service, str) or not isinstance(digest, str) or (digest and not _DIGEST.match(digest)):
            return "", None
        try:
            check_name(service)
            check_name(reply["id"])
            check_version(reply["version"])
        except ValueError:
            return "", None
        if service not in self._instances and len(self._instances) >= MAX_SERVICES:
            logger.warning("more than %d services: %s is passed over", MAX_SERVICES, service)
            return "", None
        return service, _Instance(reply["id"], reply["version"], digest)

    # --------------------------------------------------------------------------------------------------- views

    async def _update(self, services: set[str]) -> None:
        """Bring the views of these services up to date and tell about those that changed."""
        async with self._updating:
            for service in services:
                view = await self._view(service)
                if view is not None and view != self._views.get(service):
                    self._views[service] = view
                    self._tell(view)

    async def _view(self, service: str) -> ServiceView | None:
        instances = dict(self._instances.get(service, {}))
        old = self._views.get(service)
        if not instances:
            return None if old is None else ServiceView(old.name, old.version, old.digest, old.schema, frozenset())
        ids = frozenset(instances)
        # The newest version whose schema can be had; an older one is better than none.
        for one in sorted(instances.values(), key=lambda instance: version_key(instance.version), reverse=True):
            schema = await self._schema(one.digest)
            if schema is not None:
                return ServiceView(service, one.version, one.digest, schema, ids)
        if old is not None and old.schema:
            return ServiceView(service, old.version, old.digest, old.schema, ids)
        newest = max(instances.values(), key=lambda instance: version_key(instance.version))
        return ServiceView(service, newest.version, newest.digest, b"", ids)

    async def _schema(self, digest: str) -> bytes | None:
        if not digest:
            return None
        known = self._schemas.get(digest)
        if known is None:
            try:
                known = await fetch_schema(self._connection, digest, subjects=self._subjects)
            except (LookupError, TimeoutError, ValueError, ConnectionError) as error:
                logger.warning("cannot get the schema %s: %s", digest[:12], error or "no answer in time")
                return None
            while len(self._schemas) >= MAX_SERVICES:
                del self._schemas[next(iter(self._schemas))]
            self._schemas[digest] = known
        return known

    def _tell(self, view: ServiceView) -> None:
        if self._on_change is not None:
            try:
                self._on_change(view)
            except Exception:
                logger.exception("a listener to changes of %s raised", view.name)


def version_key(version: str) -> tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]:
    """Return a key that sorts semantic versions by precedence (semver.org, rule 11)."""
    core, _, pre = version.partition("+")[0].partition("-")
    major, minor, patch = (int(part) for part in core.split("."))
    identifiers = tuple(
        (not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in pre.split(".") if pre
    )
    return (major, minor, patch), not pre, identifiers
