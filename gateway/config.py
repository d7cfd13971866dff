"""The options of a gateway, checked when they are made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args
from urllib.parse import urlsplit

from gateway.access_log_format import AccessLogFormat
from gateway.compression import CompressionOptions
from gateway.filters.auth_options import AuthOptions
from gateway.filters.cache_options import CacheOptions
from gateway.filters.cors import CorsOptions
from gateway.filters.rate_limit_options import RateLimitOptions
from gateway.filters.response_headers import ResponseHeaderRules
from gateway.headers import may_be_forwarded
from gateway.openapi.options import DocsOptions
from gateway.option_types import MEBIBYTE, NOT_IN_FILE, Bytes, ConfigError, Seconds
from gateway.tls import TlsOptions

_PREFIX = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_NATS_SCHEMES: Final = frozenset({"nats", "tls", "ws", "wss"})

__all__ = ["MEBIBYTE", "Config", "ConfigError"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a gateway listens, what it allows, what it tells. Times are seconds, sizes bytes."""

    host: str = "0.0.0.0"  # noqa: S104 - a gateway is there to be reached
    port: int = 8080
    """0 takes a free one."""

    nats_url: str | None = None
    """None is ``$NATS_URL``, or nats-server's default address on this machine."""

    credentials: str | Path | None = None
    """A NATS ``.creds`` file; None is ``$NATS_CREDS``."""

    prefix: str = ""
    """Separates meshes on one NATS account."""

    workers: int = 1
    """Processes that share the port."""

    timeout: Seconds | None = 30.0
    """The deadline of a unary call whose client names none; None: it has none then."""

    max_timeout: Seconds = 600.0
    """The longest deadline that a client can ask for."""

    stream_timeout: Seconds | None = None
    """The longest that a stream may last, whatever its client asks for; None: as long as both ends want it to."""

    max_streams: int = 4096
    """Streams at once in one worker. Each may hold 1 MiB (or its largest message) for a client that is slow."""

    heartbeat: Seconds = 15.0
    """When nothing else was sent for so long, server-sent events get a comment, lest somebody takes us for dead; and
    WebSockets get a ping so often."""

    max_body: Bytes = 16 * MEBIBYTE
    """A larger body is refused with 413."""

    max_websocket_message: Bytes = 4 * MEBIBYTE
    """A client that sends a larger one over a WebSocket is cut off, with close code 1009."""

    max_upload: Bytes | None = None
    """A larger body that passes to its service in chunks is refused with 413; None: the service decides."""

    max_response: Bytes = 32 * MEBIBYTE
    """A larger message from a service ends its call."""

    max_held: Bytes = 256 * MEBIBYTE
    """What large bodies of requests under way may hold together; beyond it the next ones are answered with 503."""

    max_connections: int = 16384
    """Connections at once in one worker; more are answered with 503. Less, if the system allows fewer open files."""

    head_patience: Seconds = 10.0
    """A connection on which the head of a request does not come whole in so long (up to twice that) is closed."""

    body_patience: Seconds = 20.0
    """A body that comes with less than 240 bytes a second for so long (up to twice that) is refused with 408."""

    write_patience: Seconds = 60.0
    """A client that takes nothing of its response for so long is cut off."""

    keep_alive: Seconds = 75.0
    """An idle connection is closed after it."""

    grace: Seconds = 30.0
    """Requests under way when the gateway is told to stop have so long to finish."""

    ignore_unknown: bool = False
    """REST: pass over unknown JSON fields and query parameters instead of refusing them. (Connect always does.)"""

    forward_headers: tuple[str, ...] = ()
    """Headers that pass to services although they would not by default, like ``user-agent`` or ``x-forwarded-for``."""

    access_log: AccessLogFormat | bool = False
    """A line a request: ``combined`` (Apache's), ``json``, ``text``; True: JSON, in the log ``gateway.access``."""

    access_log_file: Path | None = None
    """Where it is written; None: to standard output. May be moved away at any time, as log rotation does."""

    metrics: bool = True
    """Serve ``/metrics``."""

    reflection: bool = True
    """Serve gRPC server reflection for the whole mesh: whoever may connect learns the schemas of all services."""

    health: bool = True
    """Serve ``grpc.health.v1.Health`` for every service of the mesh."""

    operations: bool = True
    """Serve ``google.longrunning.Operations``: durable jobs can be listed, asked about and cancelled."""

    docs: DocsOptions = field(default_factory=DocsOptions)
    """``/openapi.json``, and a page to try the API on, ``/docs``."""

    compression: CompressionOptions = field(default_factory=CompressionOptions)
    """What is compressed for clients that take it."""

    auth: AuthOptions | None = None
    """Who may call; None: everybody."""

    rate_limit: RateLimitOptions | None = None
    """Who may call how often; None: everybody as often as they like."""

    cors: CorsOptions | None = None
    """Pages of which origins may call from a browser; None: those of the gateway's own."""

    cache: CacheOptions | None = None
    """Entity tags, ``cache-control`` and kept answers for GET of methods without side effects."""

    response_headers: ResponseHeaderRules | None = None
    """Headers that every response has, or none."""

    tls: TlsOptions | None = None
    """Certificates; None: without TLS."""

    worker_directory: Path | None = field(default=None, metadata=NOT_IN_FILE)
    """Where workers that share a port exchange their numbers; ``run`` makes it."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port}: choose one from 1 to 65535, or 0 for a free one")
        for name in ("workers", "max_streams", "max_connections"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: at least 1 is needed")
        self._check_where()
        self._check_times()
        for name in self.forward_headers:
            if not may_be_forwarded(name):
                raise ConfigError(f"forward_headers: {name!r} cannot pass to services")
        for name in ("max_body", "max_response", "max_upload", "max_websocket_message"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value}: must be at least 1 byte")
        if self.access_log not in (True, False, *get_args(AccessLogFormat)):
            raise ConfigError(f"access_log {self.access_log!r}: choose combined, json or text, or True")
        if self.access_log_file is not None and isinstance(self.access_log, bool):
            raise ConfigError("access_log_file: choose a format for it with access_log: combined, json or text")
        if self.max_held < self.max_body:
            raise ConfigError(f"max_held {self.max_held}: must be at least max_body, which is {self.max_body}")

    def _check_where(self) -> None:
        if not self.host or any(character.isspace() for character in self.host):
            raise ConfigError("host: expected the name or the address of an interface of this machine")
        if self.prefix and not _PREFIX.fullmatch(self.prefix):
            raise ConfigError("prefix: expected letters, digits, '-' and '_', in words that dots may separate")
        if self.nats_url is not None and not all(map(_is_nats_url, self.nats_url.split(","))):
            # There may be a password in it.
            raise ConfigError("nats_url: expected addresses like nats://127.0.0.1:4222, separated by commas")

    def _check_times(self) -> None:
        for name in ("max_timeout", "heartbeat", "head_patience", "body_patience", "write_patience", "keep_alive"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must be more than 0 seconds")
        for name in ("timeout", "stream_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} {value}: must be more than 0 seconds, or None")
        if self.grace < 0:
            raise ConfigError(f"grace {self.grace}: must not be negative")


def _is_nats_url(text: str) -> bool:
    url = text.strip()
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        return parts.scheme in _NATS_SCHEMES and bool(parts.hostname) and parts.port != 0 and " " not in url
    except ValueError:
        return False
