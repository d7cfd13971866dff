"""Every NATS subject of the mesh is built here, from descriptors and ids of our own, never from request data."""

from __future__ import annotations

import os
import re
from functools import lru_cache

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\Z")

QUEUE_GROUP = "q"
"""The queue group that all back-ends of a service join (the default of ADR-32)."""


def check_name(name: str) -> str:
    """Return a dotted name (``pkg.Service``, a prefix) if each of its tokens may stand in a subject.

    Raises ``ValueError`` otherwise: a name with a space, a wildcard or a line end must never reach the protocol.
    """
    for token in name.split("."):
        if not _TOKEN.match(token):
            msg = f"{name!r} cannot be part of a NATS subject: each token must match [A-Za-z0-9_-]+"
            raise ValueError(msg)
    return name


@lru_cache(maxsize=1024)
def _path(service: str, method: str) -> str:
    """Return ``<package.Service>.<Method>``, checked."""
    return f"{check_name(service)}.{check_name(method)}"


class Subjects:
    """The subjects of one mesh. ``prefix`` separates meshes that share a NATS account; None is ``$NATSMESH_PREFIX``."""

    __slots__ = ("_records", "announcements", "prefix")

    def __init__(self, prefix: str | None = None) -> None:
        if prefix is None:
            prefix = os.environ.get("NATSMESH_PREFIX", "")
        self.prefix = f"{check_name(prefix)}." if prefix else ""
        self.announcements = f"{self.prefix}mesh.announce.*"
        """Subscribed by those who follow the mesh live."""
        self._records = f"$KV.{self.jetstream('operations')}."

    def method(self, service: str, method: str) -> str:
        """``rpc.<package.Service>.<Method>``: a call, taken by one member of the queue group."""
        return f"{self.prefix}rpc.{check_name(service)}.{check_name(method)}"

    def service(self, service: str) -> str:
        """``rpc.<package.Service>.*``: what a back-end subscribes to."""
        return f"{self.prefix}rpc.{check_name(service)}.*"

    def instance(self, instance: str) -> str:
        """``inst.<instance>.>``: what is meant for this instance alone."""
        return f"{self.prefix}inst.{check_name(instance)}.>"

    def instance_method(self, instance: str, service: str, method: str) -> str:
        """``inst.<instance>.rpc.<package.Service>.<Method>``: a call to one chosen instance."""
        return f"{self.prefix}inst.{check_name(instance)}.rpc.{check_name(service)}.{check_name(method)}"

    def cancel(self, instance: str) -> str:
        """``inst.<instance>.cancel``: ends a call that this instance accepted."""
        return f"{self.prefix}inst.{check_name(instance)}.cancel"

    def stream(self, instance: str, reply: str) -> str:
        """``inst.<instance>.stream.<reply subject of the call>``: packets of a call for the back-end that has it."""
        return f"{self.prefix}inst.{check_name(instance)}.stream.{check_name(reply)}"

    def roll_call(self, instance: str) -> str:
        """``inst.<instance>.roll``: asks a back-end which of a caller's calls it still has."""
        return f"{self.prefix}inst.{check_name(instance)}.roll"

    def roll_answer(self, instance: str, inbox: str) -> str:
        """``inst.<instance>.rolled.<inbox of the caller>``: a caller's answer to a back-end's roll call."""
        return f"{self.prefix}inst.{check_name(instance)}.rolled.{check_name(inbox)}"

    def schema(self, digest: str) -> str:
        """``schema.<sha256>``: asks for a FileDescriptorSet by its digest."""
        return f"{self.prefix}schema.{check_name(digest)}"

    def job(self, service: str, method: str, job_id: str) -> str:
        """``jobs.<package.Service>.<Method>.<id>``: the request of a durable job, for its workers."""
        return f"{self.prefix}jobs.{_path(service, method)}.{check_name(job_id)}"

    def job_later(self, service: str, method: str, job_id: str) -> str:
        """``later.<package.Service>.<Method>.<id>``: a job that the broker hands to its workers in time."""
        return f"{self.prefix}later.{check_name(service)}.{check_name(method)}.{check_name(job_id)}"

    def jobs_of(self, service: str, method: str = "*") -> str:
        """``jobs.<package.Service>.<Method>.*``: all requests of a method, or of a service."""
        return f"{self.prefix}jobs.{check_name(service)}.{method if method == '*' else check_name(method)}.*"

    def jobs_later_of(self, service: str, method: str = "*") -> str:
        """``later.<package.Service>.<Method>.*``: all jobs of a method, or of a service, whose time has not come."""
        return f"{self.prefix}later.{check_name(service)}.{method if method == '*' else check_name(method)}.*"

    def job_cancelled(self, service: str, method: str) -> str:
        """``mesh.cancelled.<package.Service>.<Method>``: tells the workers which job they need not finish."""
        return f"{self.prefix}mesh.cancelled.{check_name(service)}.{check_name(method)}"

    def record(self, service: str, method: str, job_id: str) -> str:
        """``$KV.operations.<package.Service>.<Method>.<id>``: what is known of a job."""
        return f"{self._records}{_path(service, method)}.{check_name(job_id)}"

    def stored_schema(self, service: str) -> str:
        """``$KV.schemas.<package.Service>``: the schema of a service that has jobs."""
        return f"$KV.{self.jetstream('schemas')}.{check_name(service)}"

    def records_of(self, service: str, method: str = "*") -> str:
        """``$KV.operations.<package.Service>.<Method>.*``: the records of all jobs of a method, or of a service."""
        key = f"{check_name(service)}.{method if method == '*' else check_name(method)}.*"
        return f"$KV.{self.jetstream('operations')}.{key}"

    def any_jobs_of(self, service: str, method: str = "*") -> str:
        """``*.<package.Service>.<Method>.*``: in the stream of a service, what waits and what waits for its time."""
        return f"{self.prefix}*.{check_name(service)}.{method if method == '*' else check_name(method)}.*"

    def event(self, event: str, partition: int | None = None) -> str:
        """``events.<message full name>``, or with the number of a partition behind it: an event."""
        subject = f"{self.prefix}events.{check_name(event)}"
        return subject if partition is None else f"{subject}.{partition}"

    def event_again(self, event: str, service: str, method: str, partition: int | str = 0) -> str:
        """``retry.<event>.<Service>.<Method>.<partition>``: an event again, for one group alone; dots become ``_``.

        ``*`` for ``partition`` is all of them; without a key there is 0 only.
        """
        number = partition if partition == "*" else int(partition)
        return f"{self.prefix}retry.{srv_name(event)}.{srv_name(service)}.{check_name(method)}.{number}"

    def events_again(self, event: str) -> str:
        """``retry.<event>.>``: what groups get again of a type."""
        return f"{self.prefix}retry.{srv_name(event)}.>"

    def dead_letter(self, kind: str, service: str, method: str, job_id: str) -> str:
        """``dead.<jobs|events>.<package.Service>.<Method>.<id>``: what nobody could handle."""
        return f"{self.prefix}dead.{check_name(kind)}.{check_name(service)}.{check_name(method)}.{check_name(job_id)}"

    def dead_letters_of(self, service: str, method: str = "", kind: str = "*") -> str:
        """``dead.<jobs|events|*>.<package.Service>.<Method>.*``: the dead letters of a method, or of a service."""
        return f"{self.prefix}dead.{kind}.{check_name(service)}.{check_name(method) if method else '*'}.*"

    @property
    def dead_letters(self) -> str:
        """``dead.>``: all dead letters."""
        return f"{self.prefix}dead.>"

    def jetstream(self, *names: str) -> str:
        """Return the name of a stream, consumer or bucket of this mesh: parts joined by ``-``, dots become ``_``."""
        return "-".join(check_name(name).replace(".", "_") for name in (self.prefix.rstrip("."), *names) if name)

    def announcement(self, event: str) -> str:
        """``mesh.announce.<up|draining|down>``: an instance says what became of it."""
        return f"{self.prefix}mesh.announce.{check_name(event)}"


def srv_name(service: str) -> str:
    """Return the ADR-32 name of a service: no dots are allowed there, so they become ``_``."""
    return check_name(service).replace(".", "_")
