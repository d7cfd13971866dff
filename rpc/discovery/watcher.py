"""Follows the mesh live: which services there are, which versions, with which schemas.

Announcements make a new service known within milliseconds; a round of ADR-32 questions every few seconds corrects what
was missed, and finds out who died without a word. Who does not answer in time is not taken for dead: a busy back-end is
late. The bus knows who listens, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from rpc.discovery.limits import MAX_INSTANCES, MAX_NAME, MAX_SCHEMA_MEMORY, MAX_SERVICES
from rpc.discovery.query import discover, fetch_schema, find_gone, parse_reply
from rpc.discovery.responder import SCHEMA_KEY, SERVICE_KEY
from rpc.discovery.versions import check_version, version_key
from rpc.subjects import Subjects, check_name
from rpc.tasks import TaskSet
from rpc.transport.base import Connection, Message, Subscription

if TYPE_CHECKING:
    from rpc.jetstream.api import JetStream

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_SCHEMAS_TRIED = 4
"""Schemas of one service, from the newest version on, that are asked for before it is left without a new one."""

DEFAULT_INTERVAL = 5.0
"""Seconds between two rounds of questions."""

STORED_SECONDS = 2.0
"""Seconds that the stored schemas may take to be read; later rounds try it again."""

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
        prefix: str | None = None,
        stored: bool = False,
    ) -> None:
        """``on_change(view)`` is called on the event loop after each change of a service; it must not block.

        ``stored``: services with jobs are known by the schemas that JetStream keeps of them, also while none of their
        back-ends is there; without JetStream that is as if none were kept.
        """
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
        self._announcements: dict[tuple[str, str], _Instance | None] = {}
        """What was announced since the round began, by (service, instance): newer than the answers. None: it left."""
        self._outdated: set[str] = set()
        """Services whose view must be looked at again."""
        self._updating = asyncio.Lock()
        self._missing_schemas: dict[str, float] = {}
        self._wants_stored = stored
        self._has_stored = not stored
        """Whether what is stored has been read since the connection was there."""
        self._js: JetStream | None = None
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
        if self._wants_stored:
            from rpc.jetstream.api import JetStream  # noqa: PLC0415 - only gateways need it

            self._js = JetStream(self._connection)
            await self._js.start()
        self._tasks.spawn(self._ask_regularly(), name="natsmesh-watcher")

    async def close(self) -> None:
        """Follow no more."""
        if self._remove_listener is not None:
            self._remove_listener()
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        await self._tasks.close()
        if self._js is not None:
            await self._js.close()

    # -------------------------------------------------------------------------------------------------- sources

    def _state_changed(self, connected: bool) -> None:
        if connected:
            self._has_stored = not self._wants_stored  # Who came and went meanwhile is known by nothing else.
            self._ask_now.set()

    def _announced(self, message: Message) -> None:
        reply = parse_reply(message, "info")
        if reply is None:
            return
        service, instance = self._read(reply)
        if instance is None:
            return
        if message.subject.endswith(".up"):
            self._note(service, instance)
        elif instance.id in self._instances.get(service, {}):
            del self._instances[service][instance.id]
        self._announcements[service, instance.id] = instance if message.subject.endswith(".up") else None
        while len(self._announcements) > MAX_INSTANCES:
            del self._announcements[next(iter(self._announcements))]
        self._outdated.add(service)
        if not self._updating.locked():
            self._tasks.spawn(self._update())

    def _note(self, service: str, instance: _Instance) -> None:
        instances = self._instances.setdefault(service, {})
        if instance.id in instances or len(instances) < MAX_INSTANCES:
            instances[instance.id] = instance

    async def _ask_regularly(self) -> None:
        while True:
            self._ask_now.clear()
            try:
                await self._ask()
            except ConnectionError:
                logger.debug("not connected: asking again later")
            except Exception:
                logger.exception("a discovery round failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    self._interval
                ):  # wait_for() may swallow a cancellation (before Python 3.12)
                    await self._ask_now.wait()

    async def _ask(self) -> None:
        self._announcements.clear()
        reading = None if self._has_stored else self._tasks.spawn(self._read_stored(), name="natsmesh-stored-schemas")
        seen: dict[str, dict[str, _Instance]] = {}
        for reply in await discover(self._connection, "info"):
            service, instance = self._read(reply)
            if instance is not None:
                self._note(service, instance)
                seen.setdefault(service, {})[instance.id] = instance
                self._outdated.add(service)
        silent = {
            instance
            for service, instances in self._instances.items()
            for instance in instances.keys() - seen.get(service, {}).keys()
        }
        gone = await find_gone(self._connection, silent, subjects=self._subjects)
        for service, instances in self._instances.items():
            for instance_id in instances.keys() & gone:
                del instances[instance_id]
                self._outdated.add(service)
        # What was announced meanwhile is newer than all these answers.
        for (service, instance_id), announced in self._announcements.items():
            if announced is not None:
                self._note(service, announced)
            else:
                self._instances.get(service, {}).pop(instance_id, None)
            self._outdated.add(service)
        self._outdated.update(name for name, view in self._views.items() if view.instances and not view.schema)
        if reading is not None:
            await asyncio.wait([reading])  # It had the time of the answers, and is over soon.
        await self._update()
        self.ready.set()

    async def _read_stored(self) -> None:
        """Take in the schemas that JetStream keeps, of services whose own word is not known."""
        from rpc.discovery.stored import SchemaStore  # noqa: PLC0415 - only gateways need it
        from rpc.jetstream.api import JetStreamError  # noqa: PLC0415

        assert self._js is not None  # noqa: S101 - start() made it
        try:
            async with asyncio.timeout(STORED_SECONDS):
                found = await SchemaStore(self._js, self._subjects).read()
        except (ConnectionError, JetStreamError, TimeoutError) as error:
            logger.debug("stored schemas cannot be read now, asking again later: %s", error or "no answer in time")
            return
        self._has_stored = True
        for each in found:
            view = self._views.get(each.service)
            if (view is not None and view.schema) or (
                each.service not in self._instances and not self._make_room(each.service)
            ):
                continue
            instances = self._instances.setdefault(each.service, {})
            view = ServiceView(each.service, each.version, each.digest, each.schema, frozenset(instances))
            self._views[each.service] = view
            self._remember_schema(each.digest, each.schema)
            self._tell(view)

    def _read(self, reply: Mapping[str, Any]) -> tuple[str, _Instance | None]:
        """Return (service, instance) of an INFO reply; None for services of others, and for garbage."""
        metadata = reply["metadata"]
        service, digest = metadata.get(SERVICE_KEY), metadata.get(SCHEMA_KEY, "")
        if not isinstance(service, str) or not isinstance(digest, str) or (digest and not _DIGEST.match(digest)):
            return "", None
        if len(service) > MAX_NAME or len(reply["id"]) > MAX_NAME:
            return "", None
        try:
            check_name(service)
            check_name(reply["id"])
            check_version(reply["version"])
        except ValueError:
            return "", None
        if "." in reply["id"] or (service not in self._instances and not self._make_room(service)):
            return "", None
        return service, _Instance(reply["id"], reply["version"], digest)

    def _make_room(self, service: str) -> bool:
        """Forget a service that is gone, if there are too many; False when all of them are there."""
        if len(self._instances) >= MAX_SERVICES:
            gone = next((name for name, instances in self._instances.items() if not instances), None)
            if gone is None:
                logger.warning("more than %d services: %s is passed over", MAX_SERVICES, service)
                return False
            del self._instances[gone]
            self._views.pop(gone, None)
        return True

    # --------------------------------------------------------------------------------------------------- views

    async def _update(self) -> None:
        """Bring the views of outdated services up to date and tell about those that changed."""
        async with self._updating:
            while self._outdated:
                service = self._outdated.pop()
                view = await self._view(service)
                if view is not None and view != self._views.get(service) and service in self._instances:
                    self._views[service] = view
                    self._tell(view)

    async def _view(self, service: str) -> ServiceView | None:
        instances = dict(self._instances.get(service, {}))
        old = self._views.get(service)
        if not instances:
            return None if old is None else ServiceView(old.name, old.version, old.digest, old.schema, frozenset())
        ids = frozenset(instances)
        by_age = sorted(instances.values(), key=lambda instance: version_key(instance.version), reverse=True)
        # The newest version whose schema can be had; an older one is better than none.
        candidates: dict[str, _Instance] = {}
        for one in by_age:
            if one.digest:
                candidates.setdefault(one.digest, one)
        for one in list(candidates.values())[:MAX_SCHEMAS_TRIED]:
            schema = await self._schema(one.digest)
            if schema is not None:
                return ServiceView(service, one.version, one.digest, schema, ids)
        if old is not None and old.schema:
            return ServiceView(service, old.version, old.digest, old.schema, ids)
        return ServiceView(service, by_age[0].version, by_age[0].digest, b"", ids)

    async def _schema(self, digest: str) -> bytes | None:
        known = self._schemas.get(digest)
        if known is not None:
            return known
        now = asyncio.get_running_loop().time()
        if now < self._missing_schemas.get(digest, 0.0):
            return None
        try:
            known = await fetch_schema(self._connection, digest, subjects=self._subjects)
        except (LookupError, TimeoutError, ValueError, ConnectionError) as error:
            logger.warning("cannot get the schema %s: %s", digest[:12], error or "no answer in time")
            _remember(self._missing_schemas, digest, now + self._interval)
            return None
        self._missing_schemas.pop(digest, None)
        self._remember_schema(digest, known)
        return known

    def _remember_schema(self, digest: str, schema: bytes) -> None:
        _remember(self._schemas, digest, schema)
        while sum(map(len, self._schemas.values())) > MAX_SCHEMA_MEMORY:
            del self._schemas[next(iter(self._schemas))]

    def _tell(self, view: ServiceView) -> None:
        if self._on_change is not None:
            try:
                self._on_change(view)
            except Exception:
                logger.exception("a listener to changes of %s raised", view.name)


def _remember(table: dict[str, T], key: str, value: T) -> None:
    while len(table) >= MAX_SERVICES:
        del table[next(iter(table))]
    table[key] = value
