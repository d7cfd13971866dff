"""What the mesh wants of its streams and consumers, in the terms of nats-server, and what it knows of those there are.

Source: NATS ADR-37 (JetStream simplification) and nats-server's ``StreamConfig`` and ``ConsumerConfig``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from rpc._version import __version__

VERSION: Final = "natsmesh.version"
"""Metadata: the version of natsmesh that made or changed it last."""

LIMITS: Final = "natsmesh.limits"
"""Metadata: which limits are the mesh's own, comma separated; all others are the operator's."""

PARTITIONS: Final = "natsmesh.partitions"
"""Metadata of a stream of events with a key: over how many subjects the keys are spread."""

DEFAULT_DUPLICATE_WINDOW: Final = 120.0
"""Seconds for which JetStream knows a message id again."""

MAX_REPLICAS: Final = 5

UNLIMITED_LIMITS: Final = {"max_age": 0, "max_bytes": -1, "max_msgs_per_subject": -1}
"""What nats-server writes for limits that there are not."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}\Z")
_NANOSECONDS = 1_000_000_000


class StreamError(Exception):
    """A stream or consumer cannot be had as it is wanted; the message says why and what to do."""


class MigrationError(StreamError):
    """What is there and what is wanted do not go together, or not without losing data. Nothing was changed."""

    def __init__(self, what: str, reasons: Iterable[str]) -> None:
        self.what = what
        """What it is about: ``stream NAME`` or ``consumer NAME of stream NAME``."""
        self.reasons = tuple(reasons)
        """Each with what to do."""
        super().__init__(f"{what} stays as it is: " + "; ".join(self.reasons))


def nanoseconds(seconds: float) -> int:
    """Return a time as JetStream's JSON has it."""
    return round(seconds * _NANOSECONDS)


def default_replicas() -> int:
    """Return ``$NATSMESH_REPLICAS``: on how many servers of a cluster new streams and buckets are kept; 1 without it.

    Raises ``ValueError`` for anything but 1 to 5.
    """
    text = os.environ.get("NATSMESH_REPLICAS", "").strip() or "1"
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_REPLICAS:
        raise ValueError(f"NATSMESH_REPLICAS must be a number from 1 to {MAX_REPLICAS} (got {text[:20]!r})")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """A stream as the mesh wants it.

    A limit of None is not the mesh's: there is none when the stream is made, and what operators set later stays.
    """

    name: str
    subjects: tuple[str, ...]
    description: str = ""
    retention: Literal["limits", "interest", "workqueue"] = "limits"
    discard: Literal["old", "new"] = "old"
    storage: Literal["file", "memory"] = "file"
    max_age: float | None = None
    """Seconds, from 0.1 on."""
    max_bytes: int | None = None
    max_msgs_per_subject: int | None = None
    duplicate_window: float = DEFAULT_DUPLICATE_WINDOW
    """Seconds; never longer than ``max_age``."""
    allow_direct: bool = True
    allow_msg_ttl: bool = False
    """Messages may end with a time of their own; needs nats-server 2.11."""
    allow_msg_schedules: bool = False
    """Messages may wait for their time; needs nats-server 2.12."""
    allow_rollup: bool = False
    deny_delete: bool = False
    replicas: int = 0
    """On how many servers it is made; 0 is ``default_replicas()``. One that exists keeps its own."""
    partitions: int = 0
    """Over how many subjects, that end in their number, keys are spread; 0 for none."""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a name that JetStream's subjects could not hold."""
        check_stream_name(self.name)
        if not self.subjects:
            raise ValueError(f"stream {self.name!r} has no subjects")

    def managed(self) -> dict[str, Any]:
        """Return the configuration that the mesh holds to, as JetStream's JSON has it."""
        config: dict[str, Any] = {
            "description": self.description,
            "subjects": list(self.subjects),
            "discard": self.discard,
            "duplicate_window": nanoseconds(min(self.duplicate_window, self.max_age or self.duplicate_window)),
        }
        if self.max_age is not None:
            config["max_age"] = nanoseconds(self.max_age)
        if self.max_bytes is not None:
            config["max_bytes"] = self.max_bytes
        if self.max_msgs_per_subject is not None:
            config["max_msgs_per_subject"] = self.max_msgs_per_subject
        # These are only ever switched on: who switched one on without us has a use for it.
        for name, wanted in (
            ("allow_direct", self.allow_direct),
            ("allow_msg_ttl", self.allow_msg_ttl),
            ("allow_msg_schedules", self.allow_msg_schedules),
            ("allow_rollup_hdrs", self.allow_rollup),
            ("deny_delete", self.deny_delete),
        ):
            if wanted:
                config[name] = True
        return config

    def limits(self) -> str:
        """Return which limits are the mesh's, as the metadata has it."""
        return ",".join(name for name in UNLIMITED_LIMITS if getattr(self, name) is not None)

    def metadata(self) -> dict[str, str]:
        """Return what the mesh writes down with the stream, without the version."""
        kept = {LIMITS: self.limits()}
        if self.partitions:
            kept[PARTITIONS] = str(self.partitions)
        return kept

    def new(self) -> dict[str, Any]:
        """Return the configuration to make it with. Raises ``ValueError`` for a bad ``$NATSMESH_REPLICAS``."""
        return {
            **UNLIMITED_LIMITS,
            **self.managed(),
            "name": self.name,
            "retention": self.retention,
            "storage": self.storage,
            "num_replicas": self.replicas or default_replicas(),
            "metadata": {VERSION: __version__, **self.metadata()},
        }


def bucket(
    name: str,
    description: str = "",
    *,
    max_age: float | None = None,
    max_bytes: int | None = None,
    allow_msg_ttl: bool = False,
    replicas: int = 0,
) -> StreamSpec:
    """Return the stream of a key-value bucket that keeps one value a key. Source: NATS ADR-8 (and its TTLs: ADR-48)."""
    return StreamSpec(
        name=f"KV_{name}",
        subjects=(f"$KV.{name}.>",),
        description=description,
        discard="new",
        max_age=max_age,
        max_bytes=max_bytes,
        max_msgs_per_subject=1,
        allow_msg_ttl=allow_msg_ttl,
        allow_rollup=True,
        deny_delete=True,
        replicas=replicas,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSpec:
    """A durable pull consumer, with explicit acknowledgements, as the mesh wants it."""

    name: str
    filter_subject: str = ""
    """What of the stream it takes; empty for all."""
    more_subjects: tuple[str, ...] = ()
    """What it takes besides."""
    description: str = ""
    ack_wait: float = 30.0
    """Seconds."""
    max_ack_pending: int = 1000
    max_deliver: int = -1
    """How often a message is delivered at most; -1 for ever: the mesh counts attempts itself."""
    deliver_policy: Literal["all", "new", "by_start_time"] = "all"
    """Where one begins that did not exist; nothing to one that does."""
    start_time: datetime | None = None
    """For ``by_start_time``; with a time zone."""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a name that JetStream's subjects could not hold."""
        check_stream_name(self.name)
        if (self.start_time is None) == (self.deliver_policy == "by_start_time"):
            raise ValueError("a consumer has a start_time if its deliver_policy is by_start_time, and only then")
        if self.start_time is not None and self.start_time.tzinfo is None:
            raise ValueError("the start_time of a consumer needs a time zone")

    @property
    def filters(self) -> list[str]:
        """All that it takes."""
        return [self.filter_subject or ">", *self.more_subjects]

    def managed(self) -> dict[str, Any]:
        """Return the configuration that the mesh holds to, as JetStream's JSON has it."""
        # One subject and several are two options of nats-server, which exclude each other.
        several = {"filter_subjects": self.filters}
        return {
            "description": self.description,
            **(several if self.more_subjects else {"filter_subject": self.filter_subject}),
            "ack_wait": nanoseconds(self.ack_wait),
            "max_ack_pending": self.max_ack_pending,
            "max_deliver": self.max_deliver,
            # A group that nobody serves for a while must find its place again.
            "inactive_threshold": 0,
        }

    def new(self) -> dict[str, Any]:
        """Return the configuration to make it with."""
        config = {
            **self.managed(),
            "durable_name": self.name,
            "name": self.name,
            "deliver_policy": self.deliver_policy,
            "ack_policy": "explicit",
            "replay_policy": "instant",
            "metadata": {VERSION: __version__},
        }
        if self.start_time is not None:
            config["opt_start_time"] = self.start_time.isoformat()
        return config


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as it is."""

    name: str
    config: Mapping[str, Any]
    """As JetStream's JSON has it."""
    state: Mapping[str, Any]
    time: datetime
    """The broker's, when it said so."""
    created: bool = False
    """Whether it was made just now, by us."""

    @property
    def messages(self) -> int:
        """How many messages are stored."""
        return int(self.state.get("messages", 0))

    @property
    def metadata(self) -> dict[str, str]:
        """What is written down with it, without nats-server's own."""
        return own_metadata(self.config)

    @property
    def partitions(self) -> int:
        """Over how many subjects keys are spread, 0 for none: it counts, whatever a publisher's .proto says."""
        text = self.metadata.get(PARTITIONS, "")
        return int(text) if text.isascii() and text.isdigit() else 0


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """A consumer as it is."""

    name: str
    config: Mapping[str, Any]
    """As JetStream's JSON has it."""
    unread: int
    """Messages that it has not delivered, or that were delivered and not acknowledged."""
    position: int
    """Sequence number in the stream of what it delivered last; 0 before the first."""
    created: bool = False
    """Whether it was made just now, by us."""


def own_metadata(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata that people and programs wrote; nats-server adds some of its own, ``_nats.*``."""
    return {key: value for key, value in (config.get("metadata") or {}).items() if not key.startswith("_nats.")}


def check_stream_name(name: str) -> str:
    """Return a name of a stream or consumer. Raises ``ValueError`` for one that may not stand in a subject."""
    if not _NAME.match(name):
        raise ValueError(f"{name[:100]!r} names no stream or consumer: it has 1 to 255 letters, digits, '_' and '-'")
    return name


def covers(pattern: str, subject: str) -> bool:
    """Return whether all that ``subject`` (which may have wildcards itself) means is also meant by ``pattern``."""
    ours, theirs = pattern.split("."), subject.split(".")
    for index, part in enumerate(ours):
        if part == ">":
            return len(theirs) > index
        if index >= len(theirs) or theirs[index] == ">":
            return False
        if part not in ("*", theirs[index]):
            return False
    return len(ours) == len(theirs)


def any_covers(patterns: Iterable[str], subject: str) -> bool:
    """Return whether one of the patterns covers a subject."""
    return any(covers(pattern, subject) for pattern in patterns)
