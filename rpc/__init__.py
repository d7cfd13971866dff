"""natsmesh: gRPC services without addresses, over NATS.

``Server`` takes what grpcio-tools generates and serves it over NATS; ``Channel`` serves the generated stubs. Everything
that a user, a service or a gateway needs is named here; the modules below are the library's own affair.
"""

from __future__ import annotations

from rpc import telemetry
from rpc._version import __version__
from rpc.call import Call, Handler, Interceptor
from rpc.channel import Channel
from rpc.connect import connect
from rpc.deadline import parse_timeout
from rpc.discovery.query import discover, fetch_schema
from rpc.discovery.watcher import ServiceView, ServiceWatcher
from rpc.metadata import Metadata
from rpc.metadata import normalize as normalize_metadata
from rpc.method import IdempotencyLevel, MethodInfo
from rpc.server import Server
from rpc.stats import Stats
from rpc.status import Refusal, StatusCode, StatusError
from rpc.transport.base import Connection

__all__ = [
    "Call",
    "Channel",
    "Connection",
    "Handler",
    "IdempotencyLevel",
    "Interceptor",
    "Metadata",
    "MethodInfo",
    "Refusal",
    "Server",
    "ServiceView",
    "ServiceWatcher",
    "Stats",
    "StatusCode",
    "StatusError",
    "__version__",
    "connect",
    "discover",
    "fetch_schema",
    "normalize_metadata",
    "parse_timeout",
    "telemetry",
]
